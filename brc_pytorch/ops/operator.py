"""The one operator: its schema, its checks, and what torch must know of it.

``brc_pytorch::scan`` runs a recurrence over a sequence on any device, ``scan_backward`` gives its
gradients, ``scan_layers`` runs several layers at once without them. A program that holds them runs
wherever torch does: the device of the tensors chooses the backend when it runs.

Every call of them, by whatever way it comes, is checked in :func:`_checked` or
:func:`_scan_layers` before a backend takes a pointer. Autocast is a rule of the operator itself,
and so also at work in exported programs.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from brc_pytorch.ops.backends import (
    Backend,
    Call,
    Gradients,
    choice,
    forced_backend,
    say_once_that_kernels_are_missing,
)
from brc_pytorch.ops.fallback import REFERENCE, differentiable_gradients
from brc_pytorch.ops.recurrences import RECURRENCES, Recurrence

_INTEGERS = frozenset((torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64))
# The most that a recurrence has: those that the backward operator names.
_MOST_PARAMETERS = 4
# Asked once, here: torch.compile could not trace the question before torch 2.9.
_AUTOCAST = {
    kind: f"Autocast{kind.upper()}"
    for kind in filter(
        torch.amp.is_autocast_available, ("cpu", "cuda", "hpu", "mps", "mtia", "xpu")
    )
}


def mixes_dtypes(device: torch.device) -> bool:
    """Whether autocast chooses the dtypes on this device, so that arguments may differ in them."""
    return device.type in _AUTOCAST and torch.is_autocast_enabled(device.type)


# The checks.


def _require(
    input: Tensor,
    tensors: Sequence[Tensor],
    shapes: Sequence[tuple[int, ...]],
    names: Sequence[str],
    mixed: bool = False,
) -> None:
    """Check that tensors have these shapes, and the input's dtype unless mixed, and device.

    Those behind the last name are gates' parameters.
    """
    dtype, device = input.dtype, input.device
    for place, tensor in enumerate(tensors):
        if (
            tensor.shape == shapes[place]
            and (tensor.dtype == dtype or mixed)
            and tensor.device == device
            and tensor.layout == torch.strided
        ):
            continue
        unnamed = place - len(names)
        name = names[place] if unnamed < 0 else f"parameters[{unnamed}]"
        if tensor.shape != shapes[place]:
            shape = tuple(shapes[place])
            raise ValueError(f"{name}: expected shape {shape}, got {tuple(tensor.shape)}")
        if tensor.device != device:
            raise ValueError(f"{name}: expected device {device}, got {tensor.device}")
        if tensor.layout != torch.strided:
            raise ValueError(f"{name}: expected a dense tensor, got {tensor.layout}")
        raise ValueError(f"{name}: expected dtype {dtype}, got {tensor.dtype}")


def _check_sequence(recurrence: str, input: Tensor, lengths: Tensor | None) -> Recurrence:
    """Check what layers share; return the recurrence of this name."""
    if recurrence not in RECURRENCES:
        known = ", ".join(map(repr, RECURRENCES))
        raise ValueError(f"recurrence: expected one of {known}, got {recurrence!r}")
    if input.dim() != 3 or input.shape[0] == 0:  # noqa: PLR2004 - (T, B, I)
        raise ValueError(f"input: expected (T, B, I) with T > 0, got {tuple(input.shape)}")
    if not input.is_floating_point():
        raise ValueError(f"input: expected a floating-point dtype, got {input.dtype}")
    if input.layout != torch.strided:
        raise ValueError(f"input: expected a dense tensor, got {input.layout}")
    batch = input.shape[1]
    if lengths is not None and (
        lengths.shape != (batch,)
        or lengths.dtype not in _INTEGERS
        or lengths.layout != torch.strided
    ):
        raise ValueError(
            f"lengths: expected {batch} integers, one a row, "
            f"got shape {tuple(lengths.shape)} of {lengths.dtype}"
        )
    return RECURRENCES[recurrence]


def _checked(
    name: str,
    input: Tensor,
    states: Tensor,
    parameters: Sequence[Tensor],
    lengths: Tensor | None,
    reverse: bool,
    mixed: bool = False,
) -> Call:
    """Check the arguments; return them with lazy negations carried out.

    Raises:
        ValueError: a tensor has the wrong shape, dtype (unless mixed), device or layout.
    """
    recurrence = _check_sequence(name, input, lengths)
    _, batch, features = input.shape
    if states.dim() != 3:  # noqa: PLR2004 - (S, B, H)
        raise ValueError(
            f"{recurrence.states[0]}: expected (B, H) = ({batch}, H), got {tuple(states.shape[1:])}"
        )
    hidden = states.shape[2]
    if len(states) != len(recurrence.states):
        raise ValueError(
            f"states: expected {len(recurrence.states)} of {name!r}, got {len(states)}"
        )
    if states.shape[1] != batch:
        raise ValueError(
            f"{recurrence.states[0]}: expected shape {(batch, hidden)}, "
            f"got {tuple(states.shape[1:])}"
        )
    names, tensors, shapes = [recurrence.states[0]], [states], [tuple(states.shape)]
    rows = {"I": (features,), "H": (hidden,), None: ()}
    for parameter, tensor in zip(recurrence.parameters, parameters, strict=False):
        gates = parameter.gates[0]
        for other in parameter.gates:
            if other and tensor.shape[-1:] == (other * hidden,):
                gates = other
                break
        names.append(parameter.name)
        tensors.append(tensor)
        shapes.append((*rows[parameter.rows], gates * hidden))
    least = len(recurrence.parameters) - (0 in recurrence.parameters[-1].gates)
    if not least <= len(parameters) <= len(recurrence.parameters):
        expected = ", ".join(parameter.name for parameter in recurrence.parameters)
        raise ValueError(
            f"parameters: expected {least} to {len(recurrence.parameters)} tensors, {expected}, "
            f"got {len(parameters)}"
        )
    _require(input, tensors, shapes, names, mixed)
    input, states, *parameters = map(Tensor.resolve_neg, (input, states, *parameters))
    if lengths is not None:
        lengths = lengths.resolve_neg()
    return Call(recurrence, input, states, parameters, lengths, reverse)


# What runs, and what torch takes for it while it traces.


def _backend(input: Tensor, recurrence: str) -> Backend:
    kind = input.device.type
    if choice.forced is not None:
        return forced_backend(choice.forced, input.device, recurrence)
    return choice.chosen.get((kind, recurrence), REFERENCE)


def _computed_in(backend: Backend, dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype in backend.dtypes else torch.float32


def _widened(call: Call, dtype: torch.dtype) -> Call:
    _, input, states, parameters, _, _ = call
    return call._replace(
        input=input.to(dtype), states=states.to(dtype), parameters=[p.to(dtype) for p in parameters]
    )


def _empty_results(call: Call, backend: Backend, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
    """New tensors: the output (T, B, H), the last states (S, B, H), what is saved.

    Where the backend computes in a wider dtype it saves the output in that dtype, flat, and behind
    it what it saves itself.
    """
    _, input, states, _, _, _ = call
    steps, batch, _ = input.shape
    output = input.new_empty((steps, batch, states.shape[2]))
    shape, dtype = backend.saved_shape(call) if keep else (0,), input.dtype
    if dtype not in backend.dtypes:
        dtype = torch.float32
        shape = (output.numel() + math.prod(shape),) if keep else (0,)
    return output, states.new_empty(states.shape), input.new_empty(shape, dtype=dtype)


def _scan(
    recurrence: str,
    input: Tensor,
    states: Tensor,
    parameters: Sequence[Tensor],
    lengths: Tensor | None,
    reverse: bool,
    keep: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    call = _checked(recurrence, input, states, parameters, lengths, reverse)
    if choice.forced is None:
        backend = choice.chosen.get((input.device.type, recurrence), REFERENCE)
    else:
        backend = forced_backend(choice.forced, input.device, recurrence)
    results = output, last, saved = _empty_results(call, backend, keep)
    if input.dtype in backend.dtypes:
        backend.forward(call, output, last, saved)
        return results
    wide = _widened(call, saved.dtype)
    wide_output, wide_last, wide_saved = _empty_results(wide, backend, keep)
    if keep:
        wide_output, wide_saved = _parts(saved, wide_output, wide_saved.shape)
    backend.forward(wide, wide_output, wide_last, wide_saved)
    output.copy_(wide_output)
    last.copy_(wide_last)
    return results


def _parts(saved: Tensor, output: Tensor, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The wide output, and what the backend saved itself."""
    count = output.numel()
    return saved[:count].view(output.shape), saved[count:].view(shape)


def _scan_fake(
    recurrence: str,
    input: Tensor,
    states: Tensor,
    parameters: Sequence[Tensor],
    lengths: Tensor | None,
    reverse: bool,
    keep: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    call = _checked(recurrence, input, states, parameters, lengths, reverse)
    return _empty_results(call, _backend(input, recurrence), keep)


def _empty_gradients(call: Call, input_needs_grad: bool) -> Gradients:
    _, input, states, parameters, _, _ = call
    return Gradients(
        input.new_empty(input.shape if input_needs_grad else (0,)),
        states.new_empty(states.shape),
        [parameter.new_empty(parameter.shape) for parameter in parameters],
    )


def _those_there(*parameters: Tensor | None) -> list[Tensor]:
    return [parameter for parameter in parameters if parameter is not None]


def _returned(gradients: Gradients) -> tuple[Tensor, ...]:
    """What the operator returns: (0) for the gradient of a parameter that is not there."""
    of_parameters = list(gradients.parameters)
    while len(of_parameters) < _MOST_PARAMETERS:
        of_parameters.append(gradients.states.new_empty(0))
    return gradients.input, gradients.states, *of_parameters


def _scan_backward(
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
) -> tuple[Tensor, ...]:
    parameters = _those_there(kernel, memory, bias, recurrent_bias)
    call = _checked(recurrence, input, states, parameters, lengths, reverse)
    backend = _backend(input, recurrence)
    _check_results(call, grad_output, grad_last, output)
    dtype = _computed_in(backend, input.dtype)
    shape = backend.saved_shape(call)
    expected = shape if dtype == input.dtype else (output.numel() + math.prod(shape),)
    if saved.numel() and math.prod(expected):
        _require(input.new_empty(0, dtype=dtype), [saved], [expected], ["saved"])
    results = gradients = _empty_gradients(call, input_needs_grad)
    output, saved = output.resolve_neg(), saved.resolve_neg()
    grad_output = None if grad_output is None else grad_output.resolve_neg()
    grad_last = None if grad_last is None else grad_last.resolve_neg()
    if dtype != input.dtype:
        call = _widened(call, dtype)
        gradients = _empty_gradients(call, input_needs_grad)
        if saved.numel():
            output, saved = _parts(saved, output, shape)
        else:
            output = output.to(dtype)
        grad_output = None if grad_output is None else grad_output.to(dtype)
        grad_last = None if grad_last is None else grad_last.to(dtype)
    with torch._C._ExcludeDispatchKeyGuard(_autocast_keys):  # noqa: SLF001 - nothing public does it
        backend.backward(call, grad_output, grad_last, output, saved, gradients)
    if gradients is not results:
        narrow = (*results[:2], *results.parameters)
        for into, gradient in zip(narrow, (*gradients[:2], *gradients.parameters), strict=True):
            into.copy_(gradient)
    return _returned(results)


def _check_results(
    call: Call, grad_output: Tensor | None, grad_last: Tensor | None, output: Tensor
) -> None:
    """Check the forward pass's output, and the gradients of what it gave."""
    _, input, states, _, _, _ = call
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
    _require(input, tensors, shapes, names)


def _scan_backward_fake(
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
    saved: Tensor,  # noqa: ARG001 - it may come from another backend
    input_needs_grad: bool,
) -> tuple[Tensor, ...]:
    parameters = _those_there(kernel, memory, bias, recurrent_bias)
    call = _checked(recurrence, input, states, parameters, lengths, reverse)
    _check_results(call, grad_output, grad_last, output)
    return _returned(_empty_gradients(call, input_needs_grad))


def _scan_layers(
    recurrence: str,
    input: Tensor,
    states: Tensor,
    parameters: Sequence[Tensor],
    lengths: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Layers one upon the other; states (S, L, B, H), parameters gate by gate, layer by layer."""
    known, count = _check_layers(recurrence, input, states, parameters, lengths)
    backend = _backend(input, recurrence)
    output = input.new_empty((*input.shape[:2], states.shape[3]))
    last = states.new_empty(states.shape)
    if backend.layers is not None and input.dtype in backend.dtypes:
        input, states, *parameters = map(Tensor.resolve_neg, (input, states, *parameters))
        lengths = None if lengths is None else lengths.resolve_neg()
        layers = [parameters[at : at + count] for at in range(0, len(parameters), count)]
        backend.layers(known, input, states, layers, lengths, output, last)
    else:
        results = _one_by_one(_scan, known, input, states, parameters, lengths)
        output.copy_(results[0])
        last.copy_(results[1])
    return output, last


def _one_by_one(
    run: Callable[..., tuple[Tensor, Tensor, Tensor]],
    recurrence: Recurrence,
    input: Tensor,
    states: Tensor,
    parameters: Sequence[Tensor],
    lengths: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """What the operator of several layers computes, by that of a single one."""
    layers = states.shape[1]
    count = len(parameters) // layers
    last, at = [], 0
    for layer in range(layers):
        stacked = []
        for gates in recurrence.layouts[count][0]:
            if gates:
                stacked.append(torch.cat([*parameters[at : at + gates]], dim=-1))
            at += gates
        state = states[:, layer]
        input, last_of_layer, _ = run(recurrence.name, input, state, stacked, lengths, False)
        last.append(last_of_layer)
    return input, torch.stack(last, dim=1)


def _check_layers(
    name: str,
    input: Tensor,
    states: Tensor,
    parameters: Sequence[Tensor],
    lengths: Tensor | None,
    mixed: bool = False,
) -> tuple[Recurrence, int]:
    """Check the arguments; return the recurrence, and how many tensors are a layer's."""
    recurrence = _check_sequence(name, input, lengths)
    if states.dim() != 4:  # noqa: PLR2004 - (S, L, B, H)
        raise ValueError(
            f"{recurrence.states[0]}: expected (L, B, H), got {tuple(states.shape[1:])}"
        )
    layers, hidden = int(states.shape[1]), states.shape[3]  # layers are never symbolic
    count = len(parameters) // max(layers, 1)
    if count not in recurrence.layouts or count * layers != len(parameters):
        raise ValueError(
            f"parameters: expected {[*recurrence.layouts]} tensors a layer, "
            f"got {len(parameters)} for {layers}"
        )
    rows = recurrence.layouts[count][1]
    shapes: list[tuple[int, ...]] = [(len(recurrence.states), layers, input.shape[1], hidden)]
    features = input.shape[2]
    for _ in range(layers):
        of_layer = {"I": (features, hidden), "H": (hidden, hidden), None: (hidden,)}
        shapes += [of_layer[row] for row in rows]
        features = hidden
    _require(input, (states, *parameters), shapes, recurrence.states, mixed)
    return recurrence, count


def _scan_layers_fake(
    recurrence: str,
    input: Tensor,
    states: Tensor,
    parameters: Sequence[Tensor],
    lengths: Tensor | None,
) -> tuple[Tensor, Tensor]:
    _check_layers(recurrence, input, states, parameters, lengths)
    return input.new_empty((*input.shape[:2], states.shape[3])), states.new_empty(states.shape)


# Derivatives.


class _Scan(torch.autograd.Function):
    """The operator's autograd formula, whatever backend computes."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - autograd's own
        recurrence: str,
        lengths: Tensor | None,
        reverse: bool,
        input: Tensor,
        states: Tensor,
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        with torch._C._AutoDispatchBelowAutograd():  # noqa: SLF001 - nothing public does it
            results = _operator(recurrence, input, states, parameters, lengths, reverse, keep=True)
        output, last, saved = results
        ctx.options = recurrence, reverse
        ctx.mark_non_differentiable(saved)
        ctx.set_materialize_grads(False)  # a gradient that is not there stays None, not zeros
        ctx.save_for_backward(lengths, output, saved, input, states, *parameters)
        return output, last, saved

    @staticmethod
    def backward(
        ctx: Any,  # noqa: ANN401 - autograd's own
        grad_output: Tensor | None,
        grad_last: Tensor | None,
        _grad_saved: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad
        if grad_output is None and grad_last is None:
            return (None,) * len(needed)
        recurrence, reverse = ctx.options
        lengths, output, saved, input, states, *parameters = ctx.saved_tensors
        gradients: Sequence[Tensor | None]
        if torch.is_grad_enabled():
            known = RECURRENCES[recurrence]
            call = Call(known, input, states, parameters, lengths, reverse)
            dtype = _computed_in(_backend(input, recurrence), input.dtype)
            gradients = differentiable_gradients(
                call, grad_output, grad_last, dtype, create_graph=True
            )
        else:
            absent = [None] * (_MOST_PARAMETERS - len(parameters))
            gradients = torch.ops.brc_pytorch.scan_backward(
                *(recurrence, grad_output, grad_last, input, states, *parameters, *absent),
                *(lengths, reverse, output, saved, needed[3]),
            )
        wanted = (g if need else None for need, g in zip(needed[3:], gradients, strict=False))
        return None, None, None, *wanted


def _scan_autograd(
    recurrence: str,
    input: Tensor,
    states: Tensor,
    parameters: Sequence[Tensor],
    lengths: Tensor | None,
    reverse: bool,
    keep: bool = False,
) -> Any:  # noqa: ANN401 - torch does not say what it applies
    if torch.is_grad_enabled() and torch._C._any_requires_grad(input, states, parameters):  # noqa: SLF001 - as torch.library's own rule
        return _Scan.apply(recurrence, lengths, reverse, input, states, *parameters)  # type: ignore[no-untyped-call]
    with torch._C._AutoDispatchBelowAutograd():  # noqa: SLF001 - nothing public does it
        return _operator(recurrence, input, states, parameters, lengths, reverse, keep)


# Autocast.


def _alike(
    input: Tensor, states: Tensor, parameters: Sequence[Tensor], dtype: torch.dtype
) -> tuple[Tensor, Tensor, list[Tensor]]:
    # Of what is no floating-point number, the operator says what is wrong.
    input, states, *parameters = (
        tensor.to(dtype) if tensor.is_floating_point() else tensor
        for tensor in (input, states, *parameters)
    )
    return input, states, parameters


def _scan_autocast(
    recurrence: str,
    input: Tensor,
    states: Tensor,
    parameters: Sequence[Tensor],
    *options: Any,  # noqa: ANN401 - handed on as they are
) -> tuple[Tensor, Tensor, Tensor]:
    """All tensors in the dtype that the input's is computed in; the results have the input's."""
    with torch._C._ExcludeDispatchKeyGuard(_autocast_keys):  # noqa: SLF001 - as torch.library does
        dtype = _computed_in(_backend(input, recurrence), input.dtype)
        tensors = _alike(input, states, parameters, dtype)
        output, last, saved = _operator(recurrence, *tensors, *options)
        if output.dtype == input.dtype:
            return output, last, saved
        return output.to(input.dtype), last.to(input.dtype), saved


def _scan_layers_autocast(
    recurrence: str,
    input: Tensor,
    states: Tensor,
    parameters: Sequence[Tensor],
    lengths: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """As each layer's rule: from layer to layer the outputs have the input's dtype."""
    if input.dtype in _backend(input, recurrence).dtypes or not input.is_floating_point():
        with torch._C._ExcludeDispatchKeyGuard(_autocast_keys):  # noqa: SLF001 - as torch.library does
            tensors = _alike(input, states, parameters, input.dtype)
            return _layers_operator(recurrence, *tensors, lengths)  # type: ignore[no-any-return]
    known, _ = _check_layers(recurrence, input, states, parameters, lengths, mixed=True)
    return _one_by_one(_operator, known, input, states, parameters, lengths)


# Registration.

_library: Any = torch.library.Library("brc_pytorch", "DEF")  # type: ignore[no-untyped-call]
_library.define(
    "scan(str recurrence, Tensor input, Tensor states, Tensor[] parameters, Tensor? lengths,"
    " bool reverse, bool keep=False) -> (Tensor output, Tensor last, Tensor saved)"
)
# No lists of tensors: torch's vmap, which computes several gradients at once, cannot pass them.
_library.define(
    "scan_backward(str recurrence, Tensor? grad_output, Tensor? grad_last, Tensor input,"
    " Tensor states, Tensor kernel, Tensor memory, Tensor? bias, Tensor? recurrent_bias,"
    " Tensor? lengths, bool reverse, Tensor output, Tensor saved, bool input_needs_grad)"
    " -> (Tensor grad_input, Tensor grad_states, Tensor grad_kernel, Tensor grad_memory,"
    " Tensor grad_bias, Tensor grad_recurrent_bias)"
)
_library.define(
    "scan_layers(str recurrence, Tensor input, Tensor states, Tensor[] parameters,"
    " Tensor? lengths) -> (Tensor output, Tensor last)"
)
_operator = torch.ops.brc_pytorch.scan.default
_layers_operator = torch.ops.brc_pytorch.scan_layers.default
_autocast_keys = torch._C.DispatchKeySet(torch._C.DispatchKey.Undefined)  # noqa: SLF001 - as torch.library does
_implementations = {
    "scan": (_scan, _scan_fake),
    "scan_backward": (_scan_backward, _scan_backward_fake),
    "scan_layers": (_scan_layers, _scan_layers_fake),
}
for _name, (_real, _fake) in _implementations.items():
    _library.impl(_name, _real, "CompositeExplicitAutograd")
    torch.library.register_fake(f"brc_pytorch::{_name}", _fake, lib=_library)  # type: ignore[arg-type]  # of several types
_library.impl("scan", _scan_autograd, "Autograd")
for _key in _AUTOCAST.values():
    _autocast_keys = _autocast_keys.add(torch._C._dispatch_key_parse(_key))  # noqa: SLF001 - the same
    _library.impl("scan", _scan_autocast, _key)
    _library.impl("scan_layers", _scan_layers_autocast, _key)


# The functions of tensors.


def _needs_reference() -> bool:
    """Whether a function transform or forward-mode differentiation follows every operation."""
    return (
        torch._C._are_functorch_transforms_active()  # noqa: SLF001 - nothing public tells
        or forward_ad._current_level >= 0  # noqa: SLF001 - the same
    )


def scan(
    recurrence: str,
    input: Tensor,
    states: tuple[Tensor, ...],
    parameters: Sequence[Tensor],
    lengths: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run a recurrence over a sequence.

    Args:
        recurrence: its name, ``"brc"`` or ``"nbrc"``.
        input: x_1 to x_T, (T, B, I), T > 0.
        states: the states before the first step, each (B, H).
        parameters: those of the recurrence, stacked: kernel, memory and, if there is one, bias; see
            :func:`brc_pytorch.ops.brc` and :func:`brc_pytorch.ops.nbrc`.
        lengths: how many steps of each row are data, (B), integers from 0 to T; a value outside
            counts as the nearest of these. Default: all T.
        reverse: go from each row's last step to its first. Default: False.

    Returns:
        The output sequence (T, B, H), h_t standing where x_t stood, zero where a row has ended; and
        the last states, each (B, H), each row's own.

    Raises:
        ValueError: an argument has the wrong shape, dtype (outside autocast) or device.
        RuntimeError: the backend asked for by name cannot run on this device.
    """
    direct = choice.forced == "reference" or _needs_reference()
    if not direct and choice.forced is None:
        kind = input.device.type
        if (kind, recurrence) not in choice.chosen and not torch.compiler.is_compiling():
            say_once_that_kernels_are_missing(kind)
            direct = True  # autograd's own backward pass need not run the equations twice
    stacked = states[0].unsqueeze(0) if len(states) == 1 else torch.stack(states)
    if direct:
        mixed = mixes_dtypes(input.device)
        call = _checked(recurrence, input, stacked, parameters, lengths, reverse, mixed)
        return call.recurrence.scan(input, states, parameters, lengths, reverse)
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        output, last, _ = _operator(recurrence, input, stacked, parameters, lengths, reverse)
    else:
        # A single step is mostly overhead; autograd's part of it would do nothing here.
        with torch._C._AutoDispatchBelowAutograd():  # noqa: SLF001 - nothing public skips it
            output, last, _ = _operator(recurrence, input, stacked, parameters, lengths, reverse)
    return output, (last.squeeze(0),) if len(states) == 1 else last.unbind(0)


def scan_layers(
    recurrence: str,
    input: Tensor,
    states: tuple[Tensor, ...],
    layers: Sequence[Sequence[Tensor]],
    lengths: Tensor | None = None,
) -> tuple[Tensor, tuple[Tensor, ...]] | None:
    """Run layers of one recurrence in one call, each taking the outputs of the one before.

    Args:
        recurrence: its name, ``"brc"`` or ``"nbrc"``.
        input: x_1 to x_T, (T, B, I), T > 0.
        states: the states before the first step, each (L, B, H).
        layers: for each layer its parameters gate by gate, those of the first taking I inputs,
            those of the others H. Of the bistable cells: U_c, U_a, U, each (I, H); w_c, w_a, each
            (H), or W_c, W_a, each (H, H); and the biases b_c, b_a (and the candidate's), each (H),
            or none.
        lengths: how many steps of each row are data, (B) integers. Default: all T.

    Returns:
        The last layer's output (T, B, H) and the last states of all layers, each (L, B, H); or None
        where nothing is gained over :func:`scan` of each: where gradients are wanted, or the
        backend has no such call, or layers differ in the number of their parameters.

    Raises:
        ValueError: an argument has the wrong shape, dtype (outside autocast) or device.
        RuntimeError: the backend asked for by name cannot run on this device.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or _needs_reference():
        return None
    backend = _backend(input, recurrence)
    if backend.layers is None or input.dtype not in backend.dtypes:
        return None
    parameters: list[Tensor] = []
    for layer in layers:
        if len(layer) != len(layers[0]):
            return None
        parameters += layer
    stacked = states[0].unsqueeze(0) if len(states) == 1 else torch.stack(states)
    with torch._C._AutoDispatchBelowAutograd():  # noqa: SLF001 - as in scan
        output, last = _layers_operator(recurrence, input, stacked, parameters, lengths)
    return output, (last.squeeze(0),) if len(states) == 1 else last.unbind(0)
