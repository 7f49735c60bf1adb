"""The operator ``brc_pytorch::scan``: one recurrence over a sequence, on any device.

A program that holds it runs wherever torch does: the device of the tensors chooses the backend when
it runs. Every call, by whatever way it comes, is checked here before a backend takes a pointer.
Torch's dispatcher has carried out lazy negations and conjugations by then, for the operators have
no kernels for tensors with them; only calls for which it would do nothing go past it.
Beside it are ``scan_backward``, its gradients, and ``scan_layers``, several layers at once without
gradients; autocast is a rule of the operators themselves, and so at work in exported programs too.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from brc_pytorch.ops.backends import (
    Backend,
    Call,
    choice,
    forced_backend,
)
from brc_pytorch.ops.fallback import REFERENCE
from brc_pytorch.ops.recurrences import RECURRENCES, Recurrence

# The most that a recurrence has: those that the backward operator names.
MOST_PARAMETERS = 4
_STRIDED = torch.strided
_INTEGERS = frozenset((torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64))
# Asked once, here: torch.compile could not trace the question before torch 2.9.
AUTOCAST = {
    kind: f"Autocast{kind.upper()}"
    for kind in filter(
        torch.amp.is_autocast_available, ("cpu", "cuda", "hpu", "mps", "mtia", "xpu")
    )
}
AUTOCAST_KEYS = torch._C.DispatchKeySet(torch._C.DispatchKey.Undefined)  # noqa: SLF001 - as torch.library does
for _key in AUTOCAST.values():
    AUTOCAST_KEYS = AUTOCAST_KEYS.add(torch._C._dispatch_key_parse(_key))  # noqa: SLF001 - the same

library: Any = torch.library.Library("brc_pytorch", "DEF")  # type: ignore[no-untyped-call]
library.define(
    "scan(str recurrence, Tensor input, Tensor states, Tensor[] parameters, Tensor? lengths,"
    " bool reverse, bool keep=False, Tensor? resets=None, Tensor? reset_states=None)"
    " -> (Tensor output, Tensor last, Tensor saved)"
)
operator = torch.ops.brc_pytorch.scan.default


def mixes_dtypes(device: torch.device) -> bool:
    """Whether autocast chooses the dtypes on this device, so that arguments may differ in them."""
    return device.type in AUTOCAST and torch.is_autocast_enabled(device.type)


def require(
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
    if (
        [tensor.shape for tensor in tensors] == shapes
        and (mixed or {tensor.dtype for tensor in tensors} == {dtype})
        and {tensor.device for tensor in tensors} == {device}
        and {tensor.layout for tensor in tensors} == {_STRIDED}
    ):
        return
    for place, tensor in enumerate(tensors):
        unnamed = place - len(names)
        name = names[place] if unnamed < 0 else f"parameters[{unnamed}]"
        if tensor.shape != shapes[place]:
            shape = tuple(shapes[place])
            raise ValueError(f"{name}: expected shape {shape}, got {tuple(tensor.shape)}")
        if tensor.device != device:
            raise ValueError(f"{name}: expected device {device}, got {tensor.device}")
        if tensor.layout is not _STRIDED:
            raise ValueError(f"{name}: expected a dense tensor, got {tensor.layout}")
        if tensor.dtype is not dtype and not mixed:
            raise ValueError(f"{name}: expected dtype {dtype}, got {tensor.dtype}")


def check_sequence(
    recurrence: str, input: Tensor, lengths: Tensor | None, resets: Tensor | None
) -> Recurrence:
    """Check what layers share; return the recurrence of this name."""
    if recurrence not in RECURRENCES:
        known = ", ".join(map(repr, RECURRENCES))
        raise ValueError(f"recurrence: expected one of {known}, got {recurrence!r}")
    if input.dim() != 3 or input.shape[0] == 0:  # noqa: PLR2004 - (T, B, I)
        raise ValueError(f"input: expected (T, B, I) with T > 0, got {tuple(input.shape)}")
    if not input.is_floating_point():
        raise ValueError(f"input: expected a floating-point dtype, got {input.dtype}")
    if input.layout is not _STRIDED:
        raise ValueError(f"input: expected a dense tensor, got {input.layout}")
    batch = input.shape[1]
    if lengths is not None and (
        lengths.shape != (batch,)
        or lengths.dtype not in _INTEGERS
        or lengths.layout is not _STRIDED
    ):
        raise ValueError(
            f"lengths: expected {batch} integers, one a row, "
            f"got shape {tuple(lengths.shape)} of {lengths.dtype}"
        )
    if resets is not None:
        if resets.dtype != torch.bool:
            raise ValueError(f"resets: expected dtype torch.bool, got {resets.dtype}")
        require(input, [resets], [tuple(input.shape[:2])], ["resets"], mixed=True)
    return RECURRENCES[recurrence]


def checked(
    name: str,
    input: Tensor,
    states: Tensor,
    parameters: Sequence[Tensor],
    lengths: Tensor | None,
    reverse: bool,
    keep: bool = False,
    resets: Tensor | None = None,
    reset_states: Tensor | None = None,
    *,
    mixed: bool = False,
) -> Call:
    """Check the operator's arguments, and return them as a backend takes them.

    Raises:
        ValueError: a tensor has the wrong shape, dtype (unless mixed), device or layout.
    """
    recurrence = check_sequence(name, input, lengths, resets)
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
    if reset_states is not None:
        if resets is None:
            raise ValueError("reset_states: expected resets beside them, got none")
        names.append("reset_states")
        tensors.append(reset_states)
        shapes.append(tuple(states.shape))
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
    require(input, tensors, shapes, names, mixed)
    return Call(recurrence, input, states, parameters, lengths, reverse, keep, resets, reset_states)


def chosen_backend(input: Tensor, recurrence: str, resets: Tensor | None) -> Backend:
    """The backend that computes where the input is: the one that is forced, or the device's."""
    if choice.forced is not None:
        return forced_backend(choice.forced, input.device, recurrence, resets is not None)
    found = choice.chosen.get((input.device.type, recurrence), REFERENCE)
    return found if resets is None or found.knows_resets else REFERENCE


def computed_in(backend: Backend, dtype: torch.dtype) -> torch.dtype:
    """What a backend computes tensors of this dtype in."""
    return dtype if dtype in backend.dtypes else torch.float32


def empty_results(call: Call, backend: Backend) -> tuple[Tensor, Tensor, Tensor]:
    """New tensors: the output (T, B, H), the last states (S, B, H), what is saved.

    Where the backend computes in a wider dtype it saves the output in that dtype, flat, and behind
    it what it saves itself.
    """
    _, input, states, *_ = call
    steps, batch, _ = input.shape
    output = input.new_empty((steps, batch, states.shape[2]))
    shape: tuple[int, ...] = (0,)
    if call.keep:
        shape = backend.saved_shape(call.recurrence, input.shape, states.shape[2])
    dtype = input.dtype
    if dtype not in backend.dtypes:
        dtype = torch.float32
        shape = (output.numel() + math.prod(shape),) if call.keep else (0,)
    return output, states.new_empty(states.shape), input.new_empty(shape, dtype=dtype)


def compute(call: Call) -> tuple[Tensor, Tensor, Tensor]:
    """Compute a call that has been checked."""
    backend = chosen_backend(call.input, call.recurrence.name, call.resets)
    results = output, last, saved = empty_results(call, backend)
    if output.dtype in backend.dtypes:
        backend.forward(call, output, last, saved)
        return results
    wide = call.with_each(lambda tensor: tensor.to(saved.dtype))
    wide_output, wide_last, wide_saved = empty_results(wide, backend)
    if call.keep:
        wide_output, wide_saved = parts(saved, wide_output, wide_saved.shape)
    backend.forward(wide, wide_output, wide_last, wide_saved)
    output.copy_(wide_output)
    last.copy_(wide_last)
    return results


def parts(saved: Tensor, output: Tensor, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The wide output, and what the backend saved itself."""
    count = output.numel()
    return saved[:count].view(output.shape), saved[count:].view(shape)


# What torch calls has the arguments of :func:`checked`; those at their default may be left out.


def _scan(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ANN401 - see above
    return compute(checked(*arguments))


def _scan_fake(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ANN401 - see above
    call = checked(*arguments)
    return empty_results(call, chosen_backend(call.input, call.recurrence.name, call.resets))


library.impl("scan", _scan, "CompositeExplicitAutograd")
torch.library.register_fake("brc_pytorch::scan", _scan_fake, lib=library)
