"""What can be wrong with a call: each flaw spoils the arguments of a good one."""

from collections.abc import Callable

import torch
from torch import Tensor

from tests.fuzz.call import Call
from tests.fuzz.tensors import lengths_tensor


def _other(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype == torch.float64 else torch.float64


def _more(tensor: Tensor, dim: int) -> Tensor:
    """One element more along a dimension."""
    shape = [*tensor.shape]
    shape[dim] += 1
    return tensor.new_zeros(shape)


# The place of the argument, and what becomes of it.
_TENSORS: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "input of rank 1": ("input", lambda t: t.new_zeros(3)),
    "input of rank 2": ("input", lambda t: t[:, 0] if t.shape[1] else t.new_zeros(3, 3)),
    "input of rank 4": ("input", lambda t: t.unsqueeze(0)),
    "input without steps": ("input", lambda t: t[:0]),
    "input of integers": ("input", torch.Tensor.long),
    "complex input": ("input", lambda t: torch.complex(t.double(), t.double()).conj()),
    "sparse input": ("input", torch.Tensor.to_sparse),
    "input of other features": ("input", lambda t: _more(t, -1)),
    "input of another dtype": ("input", lambda t: t.to(_other(t.dtype))),
    "h_0 of another batch": ("h_0", lambda t: _more(t, 0)),
    "h_0 of rank 1": ("h_0", torch.Tensor.flatten),
    "h_0 of another dtype": ("h_0", lambda t: t.to(_other(t.dtype))),
    "h_0 elsewhere": ("h_0", lambda t: t.to("meta")),
    "sparse h_0": ("h_0", torch.Tensor.to_sparse),
    "state of another batch": ("h_0", lambda t: _more(t, 1)),
    "state of other units": ("h_0", lambda t: _more(t, -1)),
    "state of another dtype": ("h_0", lambda t: t.to(_other(t.dtype))),
    "state of rank 2": ("h_0", lambda t: t[0, 0] if t.shape[1] else t.new_zeros(3)),
    "kernel of two gates": ("kernel", lambda t: t[:, : t.shape[1] * 2 // 3]),
    "kernel of other features": ("kernel", lambda t: _more(t, 0)),
    "kernel of another dtype": ("kernel", lambda t: t.to(_other(t.dtype))),
    "memory of the other cell": ("memory", lambda t: t[0] if t.dim() == 2 else t.unsqueeze(0)),
    "memory of one gate": ("memory", lambda t: t[..., : t.shape[-1] // 2]),
    "bias too long": ("bias", lambda t: t.new_zeros(6 * len(t) + 1)),
}
_LENGTHS: dict[str, Callable[[Tensor], Tensor]] = {
    "float lengths": torch.Tensor.float,
    "complex lengths": lambda t: t.to(torch.complex64),
    "bool lengths": torch.Tensor.bool,
    "too few lengths": lambda t: t[1:],
    "lengths of rank 2": lambda t: t.unsqueeze(0),
}


def spoil(
    call: Call, arguments: dict[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor | None]]:
    """Spoil the arguments of a call.

    Returns:
        The tensors, and the options that the call is made with.
    """
    if call.flaw in _LENGTHS:
        lengths = lengths_tensor(call)
        assert lengths is not None
        return arguments, {"lengths": _LENGTHS[call.flaw](lengths)}
    name, change = _TENSORS[call.flaw]
    return {**arguments, name: change(arguments[name])}, {}
