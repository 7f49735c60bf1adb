"""What a backend offers, which there are, and which one is chosen.

A backend computes recurrences on one kind of device. The reference serves every device and every
recurrence that has none.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from brc_pytorch.ops.recurrences import RECURRENCES, Recurrence


class Call(NamedTuple):
    """What the operator was called with: checked, resolved, of one dtype on one device.

    Attributes:
        recurrence: which one.
        input: x_1 to x_T, (T, B, I), of any strides.
        states: the states before the first step, (S, B, H).
        parameters: as ``recurrence.parameters`` lists them; of any strides.
        lengths: how many steps of each row are data, (B) integers of any size, None for all.
        reverse: from each row's last step to its first.
        keep: whether the forward pass saves what the backward pass needs.
        resets: where segments begin, (T, B) booleans of any strides, None for one of all steps. A
            step at which one begins, in reverse the step before it, starts from ``reset_states``.
        reset_states: the states that segments start from, (S, B, H), None for zero.
    """

    recurrence: Recurrence
    input: Tensor
    states: Tensor
    parameters: Sequence[Tensor]
    lengths: Tensor | None
    reverse: bool
    keep: bool = False
    resets: Tensor | None = None
    reset_states: Tensor | None = None

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """What it may be differentiated by: input, states, each parameter, reset states."""
        return self.input, self.states, *self.parameters, self.reset_states

    def with_each(self, change: Callable[[Tensor], Tensor]) -> "Call":
        """The same call of other :attr:`tensors`, what ``change`` makes of each."""
        reset_states = self.reset_states
        return self._replace(
            input=change(self.input),
            states=change(self.states),
            parameters=[change(parameter) for parameter in self.parameters],
            reset_states=None if reset_states is None else change(reset_states),
        )


class LayersCall(NamedTuple):
    """What the operator of several layers was called with, as a :class:`Call` tells it of one.

    Attributes:
        recurrence: that of all layers.
        input: x_1 to x_T of the first, (T, B, I), of any strides.
        states: the states before the first step, each (L, B, H).
        parameters: layer by layer, as ``recurrence.layouts`` lists them.
        lengths: as for a single layer, like ``resets``.
        reset_states: the states that segments start from, each (L, B, H), None for zero.
    """

    recurrence: Recurrence
    input: Tensor
    states: Sequence[Tensor]
    parameters: Sequence[Tensor]
    lengths: Tensor | None
    resets: Tensor | None
    reset_states: Sequence[Tensor] | None


class Gradients(NamedTuple):
    """Where a backward pass writes: new, dense tensors.

    Attributes:
        input: (T, B, I), or (0) if nobody wants it.
        states: (S, B, H).
        parameters: each of its parameter's shape.
        reset_states: (S, B, H), or (0) if there are none.
    """

    input: Tensor
    states: Tensor
    parameters: list[Tensor]
    reset_states: Tensor

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """In the order of :attr:`Call.tensors`."""
        return self.input, self.states, *self.parameters, self.reset_states


# (call, output (T, B, H), last states (S, B, H), saved): writes all three.
Forward = Callable[[Call, Tensor, Tensor, Tensor], None]
# (call, gradient of output or None, of last states or None, output, saved, gradients): writes the
# gradients. What it is given belongs to autograd and is only read. ``saved`` has no elements where
# the forward pass was not told that a backward pass would come.
Backward = Callable[[Call, Tensor | None, Tensor | None, Tensor, Tensor, Gradients], None]
# (call, outputs (T, B, H), last states, each (L, B, H), saved): writes all that follow the call. Of
# several layers there is the output of the last alone, and nothing is saved, or of each both.
Layers = Callable[[LayersCall, Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]], None]
# (recurrence, input (B, I), state (B, H), parameters as ``recurrence.layouts`` lists them, next
# state (B, H)): writes it.
Step = Callable[[Recurrence, Tensor, Tensor, Sequence[Tensor], Tensor], None]


@dataclass(frozen=True, eq=False)
class Backend:
    """One implementation of some recurrences.

    Attributes:
        device_type: the kind of device it computes on (``"cpu"``, ``"cuda"``), None for any.
        dtypes: what it computes in; tensors of another dtype are computed in float32.
        recurrences: the names of those that it computes.
        forward: the forward pass.
        backward: the backward pass.
        saved_shape: the shape of what a forward pass saves for the backward pass, of a
            recurrence, its input's shape (T, B, I) and H.
        layers: several layers at once, if it can.
        step: one step of one layer with one state, if it can better than a sequence.
        knows_resets: whether it computes calls with resets.
    """

    device_type: str | None
    dtypes: frozenset[torch.dtype]
    recurrences: frozenset[str]
    forward: Forward
    backward: Backward
    saved_shape: Callable[[Recurrence, Sequence[int], int], tuple[int, ...]]
    layers: Layers | None = None
    step: Step | None = None
    knows_resets: bool = False


class _Choice:
    """Which backend computes; plain attributes, since torch.compile cannot trace a ContextVar.

    Attributes:
        backends: all, by name.
        chosen: those that compute if none is forced, by kind of device and recurrence.
        forced: the name of the one that :func:`backend` asks for.
    """

    def __init__(self) -> None:
        self.backends: dict[str, Backend] = {}
        self.chosen: dict[tuple[str, str], Backend] = {}
        self.forced: str | None = None


choice = _Choice()
# Kinds of device that a backend can be had for, and what brings it.
MISSING = {
    "cpu": "this installation of brc_pytorch has no compiled kernels for the CPU: the cells work, "
    "about ten times slower; install it where there is a C++ compiler",
    "cuda": "this installation has no Triton, in which brc_pytorch's kernels for GPUs are written: "
    "the cells work, step by step and much slower; `pip install triton` brings it",
}
_said: set[str] = set()


def register_backend(name: str, implementation: Backend) -> None:
    """Make an implementation the one for its kind of device and its recurrences.

    Args:
        name: what :func:`backend` calls it.
        implementation: what it computes, and where.

    Raises:
        ValueError: there is a backend of this name, or it names an unknown recurrence.
    """
    if name in choice.backends:
        raise ValueError(f"name: there is a backend {name!r} already")
    unknown = implementation.recurrences - RECURRENCES.keys()
    if unknown:
        raise ValueError(f"recurrences: expected some of {[*RECURRENCES]}, got {sorted(unknown)}")
    choice.backends[name] = implementation
    if implementation.device_type is not None:
        for recurrence in implementation.recurrences:
            choice.chosen.setdefault((implementation.device_type, recurrence), implementation)


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Force one backend inside a ``with`` block; it runs or raises, nothing stands in for it.

    Like the flags of ``torch.backends`` it holds for all threads of the process.

    Args:
        name: ``"reference"`` (the definition in plain PyTorch, everywhere), or a compiled backend
            of this installation.

    Raises:
        ValueError: there is no such backend.

    Example:
        >>> import torch
        >>> from brc_pytorch import ops
        >>> from brc_pytorch.layers import BistableRecurrentCell
        >>> cell = BistableRecurrentCell(3, 5)
        >>> with ops.backend("reference"):
        ...     output, last = cell.scan(torch.randn(7, 2, 3))
        >>> output.shape
        torch.Size([7, 2, 5])
    """
    if name not in choice.backends:
        known = ", ".join(map(repr, choice.backends))
        raise ValueError(f"name: expected one of the backends {known}, got {name!r}")
    before, choice.forced = choice.forced, name
    try:
        yield
    finally:
        choice.forced = before


def backend_for(device: torch.device) -> str:
    """Name the backend that computes on a device, here and now.

    Raises:
        RuntimeError: :func:`backend` forces one that cannot run there.

    Example:
        >>> import torch
        >>> from brc_pytorch import ops
        >>> with ops.backend("reference"):
        ...     ops.backend_for(torch.device("cpu"))
        'reference'
    """
    if choice.forced is not None:
        _check_device(choice.forced, device)
        return choice.forced
    for name, candidate in choice.backends.items():
        if candidate.device_type == device.type:
            return name
    return "reference"


def forced_backend(name: str, device: torch.device, recurrence: str, resets: bool) -> Backend:
    """Return the backend that :func:`backend` asks for.

    Raises:
        RuntimeError: it cannot run there, or not this recurrence, or no resets.
    """
    _check_device(name, device)
    found = choice.backends[name]
    if recurrence not in found.recurrences:
        raise RuntimeError(
            f"backend {name!r} computes {sorted(found.recurrences)}, got {recurrence!r}"
        )
    if resets and not found.knows_resets:
        raise RuntimeError(f"backend {name!r} computes no resets")
    return found


def kernels_compute(recurrence: str, input: Tensor) -> bool:
    """Whether there are kernels for this recurrence and input, or a backend is forced."""
    if choice.forced is not None:
        return True
    backend = choice.chosen.get((input.device.type, recurrence))
    return backend is not None and input.dtype in backend.dtypes


def _check_device(name: str, device: torch.device) -> None:
    needed = choice.backends[name].device_type
    if needed not in (None, device.type):
        raise RuntimeError(f"backend {name!r} computes on {needed} tensors, got input on {device}")


def say_once_that_kernels_are_missing(device_type: str, recurrence: str) -> None:
    """Warn that the reference stands in for kernels that there could be."""
    missing = MISSING.get(device_type)
    there = [name for of_device, name in choice.chosen if of_device == device_type]
    if there:
        missing = (
            f"brc_pytorch's kernels for {device_type} compute {there}: "
            f"{recurrence!r} runs step by step, and much slower"
        )
    if missing is not None and missing not in _said:
        _said.add(missing)
        warnings.warn(missing, RuntimeWarning, stacklevel=4)
