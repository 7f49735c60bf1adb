"""The operators: one function a recurrence, whatever computes it.

A backend is one implementation of both recurrences. The tensor's device chooses among those
registered; the reference serves every device that has none.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from brc_pytorch.ops import reference


class Recurrence(Protocol):
    """A recurrence over time: :func:`brc` and :func:`nbrc` behind their checks."""

    def __call__(
        self,
        input: Tensor,
        h_0: Tensor,
        kernel: Tensor,
        memory: Tensor,
        bias: Tensor | None,
        lengths: Tensor | None,
        reverse: bool,
    ) -> tuple[Tensor, Tensor]:
        """Return the output sequence (T, B, H) and the last states (B, H)."""


class Layers(Protocol):
    """Layers of one recurrence, one upon the other: :func:`scan_layers` behind its checks."""

    def __call__(
        self,
        input: Tensor,
        h_0: Tensor,
        layers: Sequence[Sequence[Tensor]],
        lengths: Tensor | None,
    ) -> tuple[Tensor, Tensor] | None:
        """Return the last layer's output (T, B, H) and all last states (L, B, H), or None."""


@dataclass(frozen=True)
class Backend:
    """One implementation of both recurrences.

    Attributes:
        device_type: the kind of device it computes on (``"cpu"``, ``"cuda"``), None for any.
        brc: the BRC over time.
        nbrc: the nBRC over time.
        layers: several layers at once, if it can: of the nBRC where their memories are matrices.
    """

    device_type: str | None
    brc: Recurrence
    nbrc: Recurrence
    layers: Layers | None = None


_backends = {"reference": Backend(None, reference.brc_scan, reference.nbrc_scan)}
# A plain global, as torch.backends' flags are: torch.compile cannot trace a ContextVar.
_forced: str | None = None
# Kinds of device that a backend can be had for, and what brings it.
_MISSING = {
    "cpu": "this installation of brc_pytorch has no compiled kernels for the CPU: the cells work, "
    "about ten times slower; install it where there is a C++ compiler",
    "cuda": "this installation has no Triton, in which brc_pytorch's kernels for GPUs are written: "
    "the cells work, step by step and much slower; `pip install triton` brings it",
}
_said: set[str] = set()
# Asked once, here: torch.compile could not trace the question before torch 2.9.
_WITH_AUTOCAST = frozenset(
    filter(torch.amp.is_autocast_available, ("cpu", "cuda", "hpu", "mps", "mtia", "xpu"))
)


def register_backend(name: str, implementation: Backend) -> None:
    """Make an implementation the one for its kind of device.

    Args:
        name: what :func:`backend` calls it.
        implementation: the two recurrences and where they run.

    Raises:
        ValueError: there is a backend of this name.
    """
    if name in _backends:
        raise ValueError(f"name: there is a backend {name!r} already")
    _backends[name] = implementation


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
    if name not in _backends:
        known = ", ".join(map(repr, _backends))
        raise ValueError(f"name: expected one of the backends {known}, got {name!r}")
    global _forced  # noqa: PLW0603 - see there
    before, _forced = _forced, name
    try:
        yield
    finally:
        _forced = before


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
    if _forced is None:
        for name, candidate in _backends.items():
            if candidate.device_type == device.type:
                return name
        return "reference"
    needed = _backends[_forced].device_type
    if needed not in (None, device.type):
        raise RuntimeError(
            f"backend {_forced!r} computes on {needed} tensors, got input on {device}"
        )
    return _forced


def _select(device: torch.device) -> Backend:
    name = backend_for(device)
    if name == "reference" and _forced is None and device.type in _MISSING:
        _say_once_that_kernels_are_missing(device.type)
    return _backends[name]


def _say_once_that_kernels_are_missing(device_type: str) -> None:
    if device_type not in _said and not torch.compiler.is_compiling():
        _said.add(device_type)
        warnings.warn(_MISSING[device_type], RuntimeWarning, stacklevel=5)


def mixes_dtypes(device: torch.device) -> bool:
    """Whether autocast chooses the dtypes on this device, so that arguments may differ in them."""
    return device.type in _WITH_AUTOCAST and torch.is_autocast_enabled(device.type)


def _check(
    input: Tensor,
    h_0: Tensor,
    kernel: Tensor,
    memory: Tensor,
    bias: Tensor | None,
    lengths: Tensor | None,
    full_memory: bool,
) -> None:
    if input.dim() != 3 or input.shape[0] == 0:  # noqa: PLR2004 - (T, B, I)
        raise ValueError(f"input: expected (T, B, I) with T > 0, got {tuple(input.shape)}")
    if not input.is_floating_point():
        raise ValueError(f"input: expected a floating-point dtype, got {input.dtype}")
    _, batch, features = input.shape
    if h_0.dim() != 2:  # noqa: PLR2004 - (B, H)
        raise ValueError(f"h_0: expected (B, H) = ({batch}, H), got {tuple(h_0.shape)}")
    hidden = h_0.shape[1]
    expected = {
        "h_0": (h_0, (batch, hidden)),
        "kernel": (kernel, (features, 3 * hidden)),
        "memory": (memory, (hidden, 2 * hidden) if full_memory else (2 * hidden,)),
    }
    if bias is not None:
        with_candidate = bias.shape == (3 * hidden,)
        expected["bias"] = (bias, ((3 if with_candidate else 2) * hidden,))
    for name, (tensor, shape) in expected.items():
        if tensor.shape != shape:
            raise ValueError(f"{name}: expected shape {shape}, got {tuple(tensor.shape)}")
        if tensor.device != input.device:
            raise ValueError(f"{name}: expected device {input.device}, got {tensor.device}")
        if tensor.dtype != input.dtype and not mixes_dtypes(input.device):
            raise ValueError(f"{name}: expected dtype {input.dtype}, got {tensor.dtype}")
    if lengths is not None and (lengths.shape != (batch,) or lengths.is_floating_point()):
        raise ValueError(
            f"lengths: expected {batch} integers, one a row, "
            f"got shape {tuple(lengths.shape)} of {lengths.dtype}"
        )


def brc(
    input: Tensor,
    h_0: Tensor,
    kernel: Tensor,
    memory: Tensor,
    bias: Tensor | None = None,
    *,
    lengths: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    r"""The bistable recurrent cell (BRC) over a sequence.

    .. math::
        a_t &= 1 + \tanh(U_a x_t + w_a \odot h_{t-1} + b_a) \\
        c_t &= \sigma(U_c x_t + w_c \odot h_{t-1} + b_c) \\
        h_t &= c_t \odot h_{t-1} + (1 - c_t) \odot \tanh(U x_t + a_t \odot h_{t-1})

    Args:
        input: x_1 to x_T, (T, B, I), T > 0.
        h_0: the state before the first step, (B, H).
        kernel: U_c, U_a, U side by side, (I, 3H).
        memory: w_c, w_a side by side, (2H).
        bias: b_c, b_a side by side, (2H), or with a candidate's (3H). Default: none.
        lengths: how many steps of each row are data, (B), integers from 0 to T; a value outside
            counts as the nearest of these. Default: all T.
        reverse: go from each row's last step to its first. Default: False.

    Returns:
        The output sequence (T, B, H), h_t standing where x_t stood, zero where a row has ended; and
        the last states (B, H), each row's own (its h_0 where it has no steps).

    Raises:
        ValueError: a tensor has the wrong shape, dtype (outside autocast) or device.
        RuntimeError: the backend asked for by name cannot run on this device.

    Source: Vecoven, Ernst and Drion, PLOS ONE 2021, section "Bistable recurrent cells".
    """
    _check(input, h_0, kernel, memory, bias, lengths, full_memory=False)
    return _select(input.device).brc(input, h_0, kernel, memory, bias, lengths, reverse)


def nbrc(
    input: Tensor,
    h_0: Tensor,
    kernel: Tensor,
    memory: Tensor,
    bias: Tensor | None = None,
    *,
    lengths: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    r"""The neuromodulated bistable recurrent cell (nBRC) over a sequence.

    .. math::
        a_t &= 1 + \tanh(U_a x_t + h_{t-1} W_a + b_a) \\
        c_t &= \sigma(U_c x_t + h_{t-1} W_c + b_c) \\
        h_t &= c_t \odot h_{t-1} + (1 - c_t) \odot \tanh(U x_t + a_t \odot h_{t-1})

    Args:
        input: x_1 to x_T, (T, B, I), T > 0.
        h_0: the state before the first step, (B, H).
        kernel: U_c, U_a, U side by side, (I, 3H).
        memory: W_c, W_a side by side, (H, 2H), used as h @ W.
        bias: b_c, b_a side by side, (2H), or with a candidate's (3H). Default: none.
        lengths: how many steps of each row are data, (B), integers from 0 to T; a value outside
            counts as the nearest of these. Default: all T.
        reverse: go from each row's last step to its first. Default: False.

    Returns:
        The output sequence (T, B, H), h_t standing where x_t stood, zero where a row has ended; and
        the last states (B, H), each row's own (its h_0 where it has no steps).

    Raises:
        ValueError: a tensor has the wrong shape, dtype (outside autocast) or device.
        RuntimeError: the backend asked for by name cannot run on this device.

    Source: Vecoven, Ernst and Drion, PLOS ONE 2021, section "Bistable recurrent cells".
    """
    _check(input, h_0, kernel, memory, bias, lengths, full_memory=True)
    return _select(input.device).nbrc(input, h_0, kernel, memory, bias, lengths, reverse)


def scan_layers(
    input: Tensor,
    h_0: Tensor,
    layers: Sequence[Sequence[Tensor]],
    lengths: Tensor | None,
) -> tuple[Tensor, Tensor] | None:
    """Layers of one recurrence in one call, each taking the outputs of the one before.

    Args:
        input: x_1 to x_T, (T, B, I), T > 0.
        h_0: the states before the first step, (L, B, H).
        layers: for each layer its parameters gate by gate: U_c, U_a, U, each (I, H), in all layers
            but the first (H, H); w_c, w_a, each (H), or W_c, W_a, each (H, H); and the biases b_c,
            b_a (and the candidate's), each (H), or none.
        lengths: how many steps of each row are data, (B) integers, or None for all T.

    Returns:
        The last layer's output (T, B, H) and the last states of all layers (L, B, H); or None where
        nothing is gained, or the arguments are not as said above: then the layers are to be run one
        by one, which also says what is wrong.
    """
    run = _backends[backend_for(input.device)].layers
    if run is None or not _are_layers(input, h_0, layers, lengths):
        return None
    return run(input, h_0, layers, lengths)


def _are_layers(
    input: Tensor,
    h_0: Tensor,
    layers: Sequence[Sequence[Tensor]],
    lengths: Tensor | None,
) -> bool:
    if input.dim() != 3 or h_0.dim() != 3 or input.shape[0] == 0:  # noqa: PLR2004 - T, B, I; L, B, H
        return False
    _, batch, features = input.shape
    hidden = h_0.shape[2]
    if lengths is not None and (lengths.shape != (batch,) or lengths.is_floating_point()):
        return False
    memory, biases = layers[0][3].dim(), len(layers[0]) - 5
    tensors = [h_0]
    shapes: list[tuple[int, ...]] = [(len(layers), batch, hidden)]
    for parameters in layers:
        tensors += parameters
        shapes += ((features, hidden),) * 3 + ((hidden,) * memory,) * 2 + ((hidden,),) * biases
        features = hidden
    dtype, device = input.dtype, input.device
    return (
        memory in (1, 2)
        and biases in (0, 2, 3)
        and [tensor.shape for tensor in tensors] == shapes
        and all(tensor.dtype == dtype and tensor.device == device for tensor in tensors)
    )
