"""What can be wrong with a call: each flaw spoils the arguments of a good one."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from tests.fuzz.call import Call
from tests.fuzz.tensors import draw_resets, lengths_tensor


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
_RESETS: dict[str, Callable[[Tensor], Tensor | PackedSequence]] = {
    "resets of numbers": torch.Tensor.long,
    "too few resets": lambda t: t[1:],
    "resets with features": lambda t: t.unsqueeze(-1),
    "resets elsewhere": lambda t: t.to("meta"),
    "packed resets": lambda t: pack_sequence([t.new_ones(3)]),
}
# Of a state (B, H).
_RESET_STATES: dict[str, Callable[[Tensor], Tensor]] = {
    "a reset state without resets": lambda t: t,
    "a reset state of other units": lambda t: _more(t, -1),
    "a reset state of another dtype": lambda t: t.to(_other(t.dtype)),
}


def spoil(
    call: Call, arguments: dict[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor | PackedSequence | None]]:
    """Spoil the arguments of a call.

    Returns:
        The tensors, and the options that the call is made with.
    """
    if call.flaw in _LENGTHS:
        return arguments, {"lengths": _LENGTHS[call.flaw](lengths_tensor(call))}
    if call.flaw in _RESETS:
        return arguments, {"resets": _RESETS[call.flaw](draw_resets(call))}
    if call.flaw in _RESET_STATES:
        state = arguments["input"].new_zeros(call.batch, call.hidden)
        resets = None if "without" in call.flaw else draw_resets(call)
        return arguments, {"resets": resets, "reset_state": _RESET_STATES[call.flaw](state)}
    name, change = _TENSORS[call.flaw]
    return {**arguments, name: change(arguments[name])}, {}
