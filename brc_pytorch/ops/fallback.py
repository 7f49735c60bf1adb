"""Where every compiled backend stands back: other devices, and derivatives only the reference has.

Both run the recurrence's equations in plain PyTorch. As a backend of the operator the reference
saves nothing; its backward pass runs the equations once more.
"""

import torch
from torch import Tensor

from brc_pytorch.ops.backends import Backend, Call, Gradients, register_backend
from brc_pytorch.ops.recurrences import RECURRENCES


def _scan(call: Call) -> tuple[Tensor, tuple[Tensor, ...]]:
    reset_states = None if call.reset_states is None else call.reset_states.unbind(0)
    tensors = call.input, call.states.unbind(0), call.parameters
    return call.recurrence.scan(*tensors, call.lengths, call.reverse, call.resets, reset_states)


def differentiable_gradients(
    call: Call,
    grad_output: Tensor | None,
    grad_last: Tensor | None,
    dtype: torch.dtype,
    *,
    create_graph: bool,
) -> list[Tensor | None]:
    """Gradients of the equations, of those tensors that require one.

    Args:
        call: what the recurrence took.
        grad_output: the gradient of its output, (T, B, H), None for zero.
        grad_last: the gradient of its last states, (S, B, H), None for zero.
        dtype: what to compute in.
        create_graph: whether the gradients can themselves be differentiated.

    Returns:
        The gradients of :attr:`Call.tensors`; None where one is not there, not required, or zero.
    """
    # A view each: a tensor that is passed twice gets two gradients.
    call = call.with_each(lambda tensor: tensor.view_as(tensor))
    tensors = call.tensors
    output, last = _scan(call.with_each(lambda tensor: tensor.to(dtype)))
    results = [(output, grad_output), (torch.stack(last), grad_last)]
    known = [(result, grad.to(dtype)) for result, grad in results if grad is not None]
    wanted = {place: t for place, t in enumerate(tensors) if t is not None and t.requires_grad}
    found: list[Tensor | None] = [None] * len(tensors)
    if known and wanted:
        gradients = torch.autograd.grad(
            [result for result, _ in known],
            [*wanted.values()],
            [grad for _, grad in known],
            create_graph=create_graph,
            allow_unused=True,
        )
        for place, gradient in zip(wanted, gradients, strict=True):
            found[place] = gradient
    return found


def _forward(call: Call, output: Tensor, last: Tensor, saved: Tensor) -> None:  # noqa: ARG001 - a backend's signature
    results = _scan(call)
    output.copy_(results[0])
    for into, state in zip(last.unbind(0), results[1], strict=True):
        into.copy_(state)


def _backward(
    call: Call,
    grad_output: Tensor | None,
    grad_last: Tensor | None,
    output: Tensor,  # noqa: ARG001 - a backend's signature
    saved: Tensor,  # noqa: ARG001
    gradients: Gradients,
) -> None:
    call = call.with_each(lambda tensor: tensor.detach().requires_grad_())
    call.input.requires_grad_(gradients.input.shape == call.input.shape)
    with torch.enable_grad():
        found = differentiable_gradients(
            call, grad_output, grad_last, call.input.dtype, create_graph=False
        )
    for into, gradient in zip(gradients.tensors, found, strict=True):
        into.zero_() if gradient is None else into.copy_(gradient)


REFERENCE = Backend(
    device_type=None,
    dtypes=frozenset((torch.float16, torch.bfloat16, torch.float32, torch.float64)),
    recurrences=frozenset(RECURRENCES),
    forward=_forward,
    backward=_backward,
    saved_shape=lambda *_: (0,),
    knows_resets=True,
)
register_backend("reference", REFERENCE)
