"""The ways in which one cell goes over a sequence, and which of them a cell has.

A cell is a module with ``forward(input_t, state)`` that returns the next state: one tensor (B, H),
or a pair of these, hidden state first. It may offer ``scan(input, state, lengths, reverse)``, which
returns the hidden states (T, B, H) and the last state. Torch's own cells have the kernels of
torch's networks. Any other is called step by step.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from brc_pytorch.layers.bistable_cell import BistableCell
from brc_pytorch.layers.form import State, joined, parts
from brc_pytorch.layers.peephole_lstm import PeepholeLSTMCell
from brc_pytorch.ops.reference import loop, mask_padding

_PAIR_CELLS = (nn.LSTMCell, PeepholeLSTMCell)
_SINGLE_CELLS = (nn.GRUCell, nn.RNNCell, BistableCell)
# Cells of which we know what they take and return.
KNOWN_CELLS = (*_PAIR_CELLS, *_SINGLE_CELLS)


def has_pair_state(cell: nn.Module) -> bool | None:
    """Tell whether the state of a cell is a pair of tensors.

    Args:
        cell: any cell.

    Returns:
        True for a pair, False for one tensor, None where nothing tells before the first step: a
        cell of the user's own says it by ``state_size``, a number or two.
    """
    if isinstance(cell, _PAIR_CELLS):
        return True
    if isinstance(cell, _SINGLE_CELLS):
        return False
    state_size = getattr(cell, "state_size", None)
    if isinstance(state_size, int):
        return False
    if isinstance(state_size, tuple | list):
        return len(state_size) == 2  # noqa: PLR2004 - a pair
    return None


def fused_kernel(cell: nn.Module) -> Callable[..., Any] | None:
    """The kernel behind torch's own network of such cells, None for a cell that is not torch's."""
    forward = type(cell).forward
    if forward is nn.GRUCell.forward:
        return torch.gru
    if forward is nn.LSTMCell.forward:
        return torch.lstm
    if forward is nn.RNNCell.forward:
        return torch.rnn_tanh if cell.nonlinearity == "tanh" else torch.rnn_relu
    return None


def scan_fused(
    kernel: Callable[..., Any],
    cell: nn.Module,
    input: Tensor,
    state: State,
    lengths: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, State]:
    """Run one of torch's cells over a sequence by its :func:`fused_kernel`.

    Args:
        kernel: that kernel.
        cell: as for :func:`scan_by_steps`, and so are the others.
        input: x_1 to x_T, (T, B, I).
        state: the state before the first step.
        lengths: how many steps of each row are data.
        reverse: whether to go backwards.

    Returns:
        As :func:`scan_by_steps` does.
    """
    weights = [cell.weight_ih, cell.weight_hh]
    if cell.bias:
        weights += [cell.bias_ih, cell.bias_hh]
    # One layer, no dropout, one direction: the network is built above, out of any cells.
    options = (weights, bool(cell.bias), 1, 0.0, cell.training, False)
    sequence = _reverse(input, lengths) if reverse else input
    h_0 = tuple(part.unsqueeze(0) for part in parts(state))
    if lengths is None:
        output, *last = kernel(sequence, joined(h_0), *options, False)
    else:
        packed = pack_padded_sequence(sequence, lengths.cpu(), enforce_sorted=False)
        data, batch_sizes, order, inverse = packed
        assert order is not None  # noqa: S101 - enforce_sorted=False sorts
        assert inverse is not None  # noqa: S101 - and knows the way back
        h_0 = tuple(part.index_select(1, order) for part in h_0)
        data, *last = kernel(data, batch_sizes, joined(h_0), *options)
        packed = PackedSequence(data, batch_sizes, order, inverse)
        output, _ = pad_packed_sequence(packed, total_length=len(input))
        last = [part.index_select(1, inverse) for part in last]
    if reverse:
        output = _reverse(output, lengths)
    return output, joined(tuple(part.squeeze(0) for part in last))


def _reverse(sequence: Tensor, lengths: Tensor | None) -> Tensor:
    """Turn each row's data around in time, (T, B, *); the padding stays where it is."""
    if lengths is None:
        return sequence.flip(0)
    lengths = lengths.to(sequence.device)
    steps = torch.arange(len(sequence), device=sequence.device).unsqueeze(1)
    source = torch.where(steps < lengths, lengths - 1 - steps, steps)
    return sequence.gather(0, source.unsqueeze(-1).expand_as(sequence))


def scan_by_steps(
    cell: nn.Module, input: Tensor, state: State, lengths: Tensor | None, reverse: bool
) -> tuple[Tensor, State]:
    """Run any cell over a sequence, one call a step.

    Args:
        cell: the cell.
        input: x_1 to x_T, (T, B, I).
        state: the state before the first step, one tensor (B, H) or a pair.
        lengths: how many steps of each row are data, (B) integers, or None for all T.
        reverse: go from each row's last step to its first.

    Returns:
        The hidden states (T, B, H), zero where a row has ended, and each row's last state.

    Raises:
        ValueError: the cell returned a pair for one tensor, or one tensor for a pair.
    """
    count = len(parts(state))

    def step(input_t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        updated = parts(cell(input_t, joined(state)))
        if len(updated) != count:
            raise ValueError(
                f"{type(cell).__name__}: expected its next state to be {_described(count)} as the "
                f"one before, got {_described(len(updated))}; in MultiLayerBase mode='LSTM' is for "
                "cells whose state is a pair of tensors, any other mode for one tensor"
            )
        return updated

    input, valid = mask_padding(input, lengths)
    output, last = loop(step, input, parts(state), valid, reverse)
    return output, joined(last)


def _described(count: int) -> str:
    return {1: "one tensor", 2: "a pair"}.get(count, f"a tuple of {count}")
