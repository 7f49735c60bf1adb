"""One cell over a sequence, step by step, and what there is to know of a cell for that.

A cell is a module with ``forward(input_t, state)`` that returns the next state: one tensor (B, H),
or a pair of these, hidden state first. It may offer ``scan(input, state, lengths, reverse)``, which
returns the hidden states (T, B, H) and the last state, and may take ``resets`` and ``reset_state``.
Torch's own cells have :mod:`torch_cells`. Any other is called step by step.
"""

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

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


def takes_resets(method: Callable[..., Any]) -> bool:
    """Whether a cell's method has an argument ``resets``."""
    return "resets" in inspect.signature(method).parameters


def scan_by_steps(
    cell: nn.Module,
    input: Tensor,
    state: State,
    lengths: Tensor | None,
    reverse: bool,
    resets: Tensor | None = None,
    reset_state: State | None = None,
) -> tuple[Tensor, State]:
    """Run any cell over a sequence, one call a step.

    Args:
        cell: the cell.
        input: x_1 to x_T, (T, B, I).
        state: the state before the first step, one tensor (B, H) or a pair.
        lengths: how many steps of each row are data, (B) integers, or None for all T.
        reverse: go from each row's last step to its first.
        resets: where segments begin, (T, B) booleans, or None for one of all steps.
        reset_state: the state that segments start from, one tensor (B, H) or a pair, None for zero.

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
    reset = None if reset_state is None else parts(reset_state)
    output, last = loop(step, input, parts(state), valid, reverse, resets, reset)
    return output, joined(last)


def _described(count: int) -> str:
    return {1: "one tensor", 2: "a pair"}.get(count, f"a tuple of {count}")
