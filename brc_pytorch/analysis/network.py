"""How many stable states each unit of a network has, at every step of a sequence."""

import torch
from torch import Tensor

from brc_pytorch.analysis.fixed_points import count_stable, unit_maps
from brc_pytorch.layers.bistable_cell import BistableCell
from brc_pytorch.layers.form import Input, leave_gates, parts
from brc_pytorch.layers.neuromodulated_brc_layer import NeuromodulatedBistableRecurrentCell
from brc_pytorch.layers.stack import CellPass, Stack
from brc_pytorch.ops.reference import mask_padding, states_before


@torch.no_grad()
def stable_states(
    network: Stack, input: Input, state: Tensor | None = None, resets: Input | None = None
) -> Tensor:
    """The number of stable states of every unit, layer and direction, under its input of each step.

    It is the number of states in which the unit would rest if the input of that step stayed: 2 in a
    unit that is bistable, 1 in one that is not, rarely 0 (a cycle). Units of the BRC are solved
    exactly. The gates of the nBRC see the whole layer: they are frozen at its state before the
    step.

    Args:
        network: ``BRC``, ``NBRC``, or a ``MultiLayerBase`` of such cells.
        input: sequences, in any form that the network takes.
        state: the states to start from, as the network takes them. Default: its own.
        resets: where segments begin, as the network takes it. Default: nowhere.

    Returns:
        Integers (layers * directions, T, B, H), with ``batch_first=True``
        (layers * directions, B, T, H), without B for one sequence. A packed sequence gives the
        padded form, zero where a row has ended.

    Raises:
        TypeError: the network has other cells as well.
        ValueError: as the network itself.

    Example:
        >>> import torch
        >>> from brc_pytorch import BRC
        >>> from brc_pytorch.analysis import stable_states
        >>> rnn = BRC(3, 5, num_layers=2, bidirectional=True)
        >>> stable_states(rnn, torch.randn(7, 2, 3)).shape
        torch.Size([4, 7, 2, 5])
    """
    counts = torch.stack([count_in_pass(of) for of in _passes(network, input, state, resets)])
    return leave_gates(counts, input, network.batch_first)


@torch.no_grad()
def bistable_share(
    network: Stack, input: Input, state: Tensor | None = None, resets: Input | None = None
) -> Tensor:
    """The share of every layer and direction that is bistable: has two stable states, or more.

    It is the mean over units, sequences and their steps. A feedback strength a > 1 is necessary for
    it, and not sufficient: the input must be weak as well.

    Args:
        network: as for :func:`stable_states`, and so are the others.
        input: sequences.
        state: the states to start from.
        resets: where segments begin.

    Returns:
        Shares (layers * directions).

    Raises:
        TypeError: as :func:`stable_states`.
        ValueError: the same.
    """
    shares = []
    for of in _passes(network, input, state, resets):
        counts = count_in_pass(of)
        _, valid = mask_padding(of.input, of.lengths)
        steps = counts[:, :, 0].numel() if valid is None else valid.sum()
        shares.append((counts > 1).sum() / (steps * counts.shape[-1]))
    return torch.stack(shares)


def _passes(
    network: Stack, input: Input, state: Tensor | None, resets: Input | None
) -> list[CellPass]:
    if not isinstance(network, Stack):
        raise TypeError(
            "network: expected a BRC, an NBRC or a MultiLayerBase of their cells, "
            f"got a {type(network).__name__}"
        )
    for index, cell in enumerate(network.cells):
        if not isinstance(cell, BistableCell):
            raise TypeError(
                f"network.cells[{index}]: expected a cell of the BRC or the nBRC, "
                f"got a {type(cell).__name__}"
            )
    return network.cell_passes(input, state, resets)


def count_in_pass(of: CellPass) -> Tensor:
    """The numbers of a cell, (T, B, H), zero where a row has ended."""
    assert isinstance(of.cell, BistableCell)  # noqa: S101 - for the types; checked before
    x, valid = mask_padding(of.input, of.lengths)
    before = None
    if isinstance(of.cell, NeuromodulatedBistableRecurrentCell):
        (state,) = parts(of.state)
        before = states_before(of.output, state, valid, of.reverse, of.resets, of.reset_state)
    counts = count_stable(unit_maps(of.cell, x, before))
    return counts if valid is None else torch.where(valid, counts, 0)
