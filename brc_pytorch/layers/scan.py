"""Runs any cell over a sequence: its own scan, torch's fused kernels, or a loop of steps.

A cell is a module with ``forward(input_t, state)`` that returns the next state: one tensor (B, H),
or a pair of these, hidden state first. It may offer ``scan(input, state, lengths, reverse)``, which
returns the hidden states (T, B, H) and the last state; and its type ``scan_layers(cells, input,
states, lengths)``, which runs several, each on the outputs of the one before, or returns None.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from brc_pytorch.layers.bistable_cell import BistableCell
from brc_pytorch.layers.peephole_lstm import PeepholeLSTMCell
from brc_pytorch.ops.reference import loop, mask_padding

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def has_pair_state(cell: nn.Module) -> bool | None:
    """Tell whether the state of a cell is a pair of tensors.

    Args:
        cell: any cell.

    Returns:
        True for a pair, False for one tensor, None where nothing tells before the first step: a
        cell of the user's own says it by ``state_size``, a number or two.
    """
    if isinstance(cell, nn.LSTMCell | PeepholeLSTMCell):
        return True
    if isinstance(cell, nn.GRUCell | nn.RNNCell | BistableCell):
        return False
    state_size = getattr(cell, "state_size", None)
    if isinstance(state_size, int):
        return False
    if isinstance(state_size, tuple | list):
        return len(state_size) == 2  # noqa: PLR2004 - a pair
    return None


def scan(
    cell: nn.Module,
    input: Tensor,
    states: tuple[Tensor, ...],
    lengths: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run a cell over a sequence.

    The result does not depend on the way taken. A cell with hooks, or whose ``forward`` was
    overridden, is called step by step, as its author expects.

    Args:
        cell: the cell.
        input: x_1 to x_T, (T, B, I).
        states: the state before the first step, one tensor (B, H) or two.
        lengths: how many steps of each row are data, (B) integers. Default: all T.
        reverse: go from each row's last step to its first. Default: False.

    Returns:
        The hidden states (T, B, H), zero where a row has ended, and each row's last state.

    Raises:
        ValueError: the cell returned a pair for one tensor, or one tensor for a pair.
    """
    if not _is_stepwise(cell):
        if _defines(type(cell), "scan", "forward"):
            output, last = cell.scan(input, _joined(states), lengths, reverse)  # type: ignore[operator]
            return output, _split(last)
        kernel = _fused_kernel(cell)
        if kernel is not None:
            return _scan_fused(kernel, cell, input, states, lengths, reverse)

    def step(input_t: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        updated = _split(cell(input_t, _joined(states)))
        if len(updated) != len(states):
            raise ValueError(
                f"{type(cell).__name__}: expected its next state to be {_count(states)} as the one "
                f"before, got {_count(updated)}; in MultiLayerBase mode='LSTM' is for cells whose "
                "state is a pair of tensors, any other mode for one tensor"
            )
        return updated

    input, valid = mask_padding(input, lengths)
    return loop(step, input, states, valid, reverse)


def scan_layers(
    cells: Sequence[nn.Module],
    input: Tensor,
    states: list[Tensor],
    lengths: Tensor | None = None,
) -> tuple[Tensor, list[Tensor]] | None:
    """Run cells over a sequence, each on the outputs of the one before, in one call.

    The result is that of :func:`scan` of each in turn, where it is not None.

    Args:
        cells: L cells.
        input: x_1 to x_T, (T, B, I).
        states: the states before the first step, one tensor (L, B, H) or two.
        lengths: how many steps of each row are data, (B) integers. Default: all T.

    Returns:
        The last cell's hidden states (T, B, H) and the parts of all last states, (L, B, H); or None
        where these cells are to be run one by one.
    """
    kind = type(cells[0])
    if not _defines(kind, "scan_layers", "scan", "forward"):
        return None
    for cell in cells:
        if type(cell) is not kind or "scan" in cell.__dict__ or _is_stepwise(cell):
            return None
    found = kind.scan_layers(cells, input, _joined(tuple(states)), lengths)  # type: ignore[attr-defined]
    if found is None:
        return None
    output, last = found
    return output, list(_split(last))


def _count(states: tuple[Tensor, ...]) -> str:
    return {1: "one tensor", 2: "a pair"}.get(len(states), f"a tuple of {len(states)}")


def _joined(states: tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
    return states[0] if len(states) == 1 else states


def _split(state: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    return (state,) if isinstance(state, Tensor) else tuple(state)


def _is_stepwise(cell: nn.Module) -> bool:
    """Whether someone watches the single steps of this cell, or has replaced them."""
    own = cell.__dict__
    return "forward" in own or any(own[name] for name in _HOOKS)


def _defines(kind: type, name: str, *others: str) -> bool:
    """Whether a type has a method of this name that is at least as specific as the others."""
    # Not vars(): before torch 2.9 torch.compile could not trace it.
    for base in kind.__mro__:
        if name in base.__dict__:
            return True
        if any(other in base.__dict__ for other in others):
            return False
    return False


def _fused_kernel(cell: nn.Module) -> Callable[..., Any] | None:
    """The kernel behind torch's own layer of this cell."""
    forward = type(cell).forward
    if forward is nn.GRUCell.forward:
        return torch.gru
    if forward is nn.LSTMCell.forward:
        return torch.lstm
    if forward is nn.RNNCell.forward:
        return torch.rnn_tanh if cell.nonlinearity == "tanh" else torch.rnn_relu
    return None


def _scan_fused(
    kernel: Callable[..., Any],
    cell: nn.Module,
    input: Tensor,
    states: tuple[Tensor, ...],
    lengths: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    weights = [cell.weight_ih, cell.weight_hh]
    if cell.bias:
        weights += [cell.bias_ih, cell.bias_hh]
    # One layer, no dropout, one direction: the network is built above, out of any cells.
    options = (weights, bool(cell.bias), 1, 0.0, cell.training, False)
    sequence = _reverse(input, lengths) if reverse else input
    h_0 = tuple(state.unsqueeze(0) for state in states)
    if lengths is None:
        output, *last = kernel(sequence, _joined(h_0), *options, False)
    else:
        packed = pack_padded_sequence(sequence, lengths.cpu(), enforce_sorted=False)
        data, batch_sizes, order, inverse = packed
        assert order is not None  # noqa: S101 - enforce_sorted=False sorts
        assert inverse is not None  # noqa: S101 - and knows the way back
        h_0 = tuple(state.index_select(1, order) for state in h_0)
        data, *last = kernel(data, batch_sizes, _joined(h_0), *options)
        packed = PackedSequence(data, batch_sizes, order, inverse)
        output, _ = pad_packed_sequence(packed, total_length=len(input))
        last = [state.index_select(1, inverse) for state in last]
    if reverse:
        output = _reverse(output, lengths)
    return output, tuple(state.squeeze(0) for state in last)


def _reverse(sequence: Tensor, lengths: Tensor | None) -> Tensor:
    """Turn each row's data around in time, (T, B, *); the padding stays where it is."""
    if lengths is None:
        return sequence.flip(0)
    lengths = lengths.to(sequence.device)
    steps = torch.arange(len(sequence), device=sequence.device).unsqueeze(1)
    source = torch.where(steps < lengths, lengths - 1 - steps, steps)
    return sequence.gather(0, source.unsqueeze(-1).expand_as(sequence))
