"""Stable states of whole networks beside those of single units, step by step."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from brc_pytorch import (
    BRC,
    NBRC,
    BistableRecurrentCell,
    MultiLayerBase,
    NeuromodulatedBistableRecurrentCell,
)
from brc_pytorch.analysis import bistable_range, bistable_share, fixed_points, stable_states


def wild(network):
    """The network, with units of one stable state, of two, and of none."""
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=2)
    return network


def by_units(network, x, state):
    """The counts of one row (T, I), by the fixed points of each cell at each step."""
    directions, below, counts = network.num_directions, x, []
    for first in range(0, len(network.cells), directions):
        outputs = []
        for index in range(first, first + directions):
            cell, h = network.cells[index], state[index]
            states, found = [None] * len(x), [None] * len(x)
            for t in range(len(x)) if index == first else reversed(range(len(x))):
                frozen = h if isinstance(cell, NeuromodulatedBistableRecurrentCell) else None
                found[t] = fixed_points(cell, below[t], frozen).is_stable.sum(-1)
                h = states[t] = cell(below[t], h)
            counts.append(torch.stack(found))
            outputs.append(torch.stack(states))
        below = torch.cat(outputs, dim=-1)
    return torch.stack(counts)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("network_type", [BRC, NBRC])
@torch.no_grad()
def test_counts_are_those_of_the_units_step_by_step(network_type, bidirectional):
    network = wild(network_type(2, 6, 2, bidirectional=bidirectional, dtype=torch.float64))
    x, state = torch.randn(5, 3, 2).double(), torch.rand(len(network.cells), 3, 6).double()
    lengths = torch.tensor([5, 2, 4])
    packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
    found = stable_states(network, packed, state)
    expected = torch.zeros_like(found)
    for row, length in enumerate(lengths.tolist()):
        of_row = by_units(network, x[:length, row], state[:, row])
        expected[:, :length, row] = of_row
        single = stable_states(network, x[:length, row], state[:, row])
        assert (single == of_row).all()
    assert (found == expected).all()
    assert {1, 2} <= {*found.unique().tolist()}
    share = bistable_share(network, packed, state)
    torch.testing.assert_close(
        share, (expected > 1).sum((1, 2, 3)) / (lengths.sum() * 6), check_dtype=False
    )


def test_a_unit_that_cycles_has_no_stable_state():
    network = BRC(1, 1, dtype=torch.float64)
    cell = network.cells[0]
    with torch.no_grad():
        for name, value in {"kernelh": 0.54, "br": 5.43, "memoryr": -8.26, "bz": -3}.items():
            getattr(cell, name).fill_(value)
        for kernel in (cell.kernelz, cell.kernelr, cell.memoryz):
            kernel.zero_()
    x = torch.ones(500, 1, dtype=torch.float64)
    assert stable_states(network, x).unique().tolist() == [0]
    output, _ = network(x)
    assert (output[-20:].diff(dim=0).abs() > 0.1).all()


def test_a_feedback_strength_above_one_is_necessary_and_not_sufficient():
    network, x = BRC(1, 1), torch.tensor([[0.2], [0.207], [0.209], [0.5]])
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    nn.init.constant_(network.cells[0].br, 0.5493)  # a = 1.5
    nn.init.ones_(network.cells[0].kernelh)
    assert stable_states(network, x).flatten().tolist() == [2, 2, 1, 1]
    assert bistable_share(network, x).tolist() == [0.5]
    assert bistable_range(torch.tensor(1.5)).item() == pytest.approx(0.208, abs=5e-4)
    assert (network.gates(x)[0] > 1).all()


def test_other_networks_are_refused():
    with pytest.raises(TypeError, match=r"^network: expected .* got a GRU"):
        stable_states(nn.GRU(2, 3), torch.zeros(4, 1, 2))
    mixed = MultiLayerBase("RNN", [BistableRecurrentCell(2, 3), nn.GRUCell(3, 3)], 3)
    with pytest.raises(TypeError, match=r"^network.cells\[1\]: expected .* got a GRUCell"):
        bistable_share(mixed, torch.zeros(1, 4, 2))
