"""The operator ``brc_pytorch::scan_backward``: the gradients of ``scan``, by the same backends."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from brc_pytorch.ops.backends import Call, Gradients
from brc_pytorch.ops.dispatch import goes_straight
from brc_pytorch.ops.fallback import differentiable_gradients
from brc_pytorch.ops.operator import (
    AUTOCAST_KEYS,
    MOST_PARAMETERS,
    checked,
    chosen_backend,
    computed_in,
    library,
    parts,
    require,
)


def _empty_gradients(call: Call, input_needs_grad: bool) -> Gradients:
    _, input, states, parameters, *_ = call
    return Gradients(
        input.new_empty(input.shape if input_needs_grad else (0,)),
        states.new_empty(states.shape),
        [torch.empty_like(parameter) for parameter in parameters],
        states.new_empty((0,) if call.reset_states is None else states.shape),
    )


def _returned(gradients: Gradients) -> tuple[Tensor, ...]:
    """What the operator returns: (0) for the gradient of what is not there."""
    of_parameters = list(gradients.parameters)
    while len(of_parameters) < MOST_PARAMETERS:
        of_parameters.append(gradients.states.new_empty(0))
    return gradients.input, gradients.states, *of_parameters, gradients.reset_states


class _Backward(NamedTuple):
    """What the operator was called with: checked, but for what was saved."""

    call: Call
    grad_output: Tensor | None
    grad_last: Tensor | None
    output: Tensor
    saved: Tensor
    input_needs_grad: bool


def _checked(
    recurrence: str,
    grad_output: Tensor | None,
    grad_last: Tensor | None,
    input: Tensor,
    states: Tensor,
    kernel: Tensor,
    memory: Tensor,
    bias: Tensor | None,
    recurrent_bias: Tensor | None,
    lengths: Tensor | None,
    reverse: bool,
    output: Tensor,
    saved: Tensor,
    input_needs_grad: bool,
    resets: Tensor | None = None,
    reset_states: Tensor | None = None,
) -> _Backward:
    parameters = [p for p in (kernel, memory, bias, recurrent_bias) if p is not None]
    options = lengths, reverse, False, resets, reset_states
    call = checked(recurrence, input, states, parameters, *options)
    shape = (*input.shape[:2], states.shape[2])
    names, tensors, shapes = ["output"], [output], [shape]
    if grad_output is not None:
        names.append("grad_output")
        tensors.append(grad_output)
        shapes.append(shape)
    if grad_last is not None:
        names.append("grad_last")
        tensors.append(grad_last)
        shapes.append(tuple(states.shape))
    require(input, tensors, shapes, names)
    return _Backward(call, grad_output, grad_last, output, saved, input_needs_grad)


# What torch calls has the arguments of :func:`_checked`; those at their default may be left out.


def _scan_backward(*arguments: Any) -> tuple[Tensor, ...]:  # noqa: ANN401 - see above
    call, grad_output, grad_last, output, saved, input_needs_grad = _checked(*arguments)
    input = call.input
    backend = chosen_backend(input, call.recurrence.name, call.resets)
    dtype = computed_in(backend, input.dtype)
    shape = backend.saved_shape(call.recurrence, input.shape, call.states.shape[2])
    expected = shape if dtype == input.dtype else (output.numel() + math.prod(shape),)
    if saved.numel() and math.prod(expected):
        require(input.new_empty(0, dtype=dtype), [saved], [expected], ["saved"])
    results = gradients = _empty_gradients(call, input_needs_grad)
    if dtype != input.dtype:
        call = call.with_each(lambda tensor: tensor.to(dtype))
        gradients = _empty_gradients(call, input_needs_grad)
        if saved.numel():
            output, saved = parts(saved, output, shape)
        else:
            output = output.to(dtype)
        grad_output = None if grad_output is None else grad_output.to(dtype)
        grad_last = None if grad_last is None else grad_last.to(dtype)
    with torch._C._ExcludeDispatchKeyGuard(AUTOCAST_KEYS):  # noqa: SLF001 - nothing public does it
        backend.backward(call, grad_output, grad_last, output, saved, gradients)
    if gradients is not results:
        for into, gradient in zip(results.tensors, gradients.tensors, strict=True):
            into.copy_(gradient)
    return _returned(results)


def _scan_backward_fake(*arguments: Any) -> tuple[Tensor, ...]:  # noqa: ANN401 - see above
    given = _checked(*arguments)  # what was saved may come from another backend
    return _returned(_empty_gradients(given.call, given.input_needs_grad))


# No lists of tensors: torch's vmap, which computes several gradients at once, cannot pass them.
library.define(
    "scan_backward(str recurrence, Tensor? grad_output, Tensor? grad_last, Tensor input,"
    " Tensor states, Tensor kernel, Tensor memory, Tensor? bias, Tensor? recurrent_bias,"
    " Tensor? lengths, bool reverse, Tensor output, Tensor saved, bool input_needs_grad,"
    " Tensor? resets=None, Tensor? reset_states=None)"
    " -> (Tensor grad_input, Tensor grad_states, Tensor grad_kernel, Tensor grad_memory,"
    " Tensor grad_bias, Tensor grad_recurrent_bias, Tensor grad_reset_states)"
)
library.impl("scan_backward", _scan_backward, "CompositeExplicitAutograd")
torch.library.register_fake("brc_pytorch::scan_backward", _scan_backward_fake, lib=library)
_operator = torch.ops.brc_pytorch.scan_backward.default


def gradients_of(
    call: Call,
    grad_output: Tensor | None,
    grad_last: Tensor | None,
    output: Tensor,
    saved: Tensor,
    input_needs_grad: bool,
) -> Sequence[Tensor | None]:
    """The gradients of a call's tensors: the backend's, or differentiable ones where wanted."""
    recurrence, input, states, parameters, lengths, reverse, _, resets, reset_states = call
    if torch.is_grad_enabled():
        dtype = computed_in(chosen_backend(input, recurrence.name, resets), input.dtype)
        return differentiable_gradients(call, grad_output, grad_last, dtype, create_graph=True)
    given = input, states, *parameters
    optional = grad_output, grad_last, lengths, resets, reset_states
    there = [tensor for tensor in optional if tensor is not None]
    run = _scan_backward if goes_straight((*given, output, saved, *there)) else _operator
    absent = [None] * (MOST_PARAMETERS - len(parameters))
    *gradients, of_reset_states = run(
        *(recurrence.name, grad_output, grad_last, *given, *absent, lengths, reverse),
        *(output, saved, input_needs_grad, resets, reset_states),
    )
    return *gradients[: len(given)], of_reset_states
