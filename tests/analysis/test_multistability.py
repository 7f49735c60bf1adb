"""Reachable multistability: counts of made-up states, networks that remember, and warming up."""

import copy

import pytest
import torch
from torch import nn

from brc_pytorch import (
    BRC,
    NBRC,
    BistableRecurrentCell,
    DoubleCell,
    MultiLayerBase,
)
from brc_pytorch.analysis import memory_curve, settle, soft_vaa, vaa, warmup


def latch():
    """One unit that keeps the sign of what it was shown."""
    network = BRC(1, 1)
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    nn.init.constant_(network.cells[0].kernelh, 1)
    nn.init.constant_(network.cells[0].br, 2)
    return network


def test_the_share_of_states_that_differ():
    assert vaa(torch.zeros(5, 3)) == pytest.approx(1 / 5)
    assert vaa(torch.eye(5)) == 1
    assert vaa(torch.tensor([[0.0], [0.00005], [1.0]])) == pytest.approx(2 / 3)
    assert vaa(torch.rand(2, 3, 4, 5)).shape == (2, 3)


def test_the_soft_share_agrees_where_states_are_equal_or_far_apart():
    states = torch.tensor([[-5.0], [-5.0], [5.0], [5.0]], dtype=torch.float64, requires_grad=True)
    assert soft_vaa(states).item() == pytest.approx(vaa(states).item(), rel=1e-3)
    soft_vaa(states).backward()
    assert states.grad.isfinite().all()


def test_gradients_of_the_soft_share():
    states = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: soft_vaa(x, eps=0.1), states)


@torch.no_grad()
def test_a_latch_reaches_two_states_and_a_leak_one():
    pulses = torch.zeros(20, 2, 1)
    pulses[:5, 0], pulses[:5, 1] = 3, -3
    network, silence = latch(), torch.Generator().manual_seed(7)
    assert torch.randn(1, generator=silence).abs() < 0.2, "a constant input that flips no latch"
    silence.manual_seed(7)
    assert vaa(settle(network, pulses, 500, silence)) == 1
    nn.init.constant_(network.cells[0].br, -1)
    assert vaa(settle(network, pulses, 500, silence)) == pytest.approx(0.5)


@pytest.mark.parametrize("batch_first", [False, True])
@torch.no_grad()
def test_all_kinds_of_networks_settle_as_in_one_long_sequence(batch_first):
    cells = [BistableRecurrentCell(2, 4), BistableRecurrentCell(4, 4)]
    networks = {
        "last alone": MultiLayerBase("BRC", cells, 4, batch_first),
        "all": MultiLayerBase("BRC", cells, 4, batch_first, return_sequences=True),
        "both": NBRC(2, 4, 2, batch_first=batch_first, bidirectional=True),
        "torch's": nn.LSTM(2, 4, 2, batch_first=batch_first),
    }
    input = torch.randn(3, 5, 2) if batch_first else torch.randn(5, 3, 2)
    for name, network in networks.items():
        states = settle(network, input, 7)
        directions = 2 if name == "both" else 1
        assert states.shape == (2 * directions, 3, 8 if name == "torch's" else 4)
    assert networks["last alone"](input).shape == (1, 3, 4), "the network itself is as it was"


def warmed(network, steps=60, learning_rate=0.03):
    """Warm up a network of one input, and return VAA* at each step."""
    batches = [torch.randn(10, 32, 1) for _ in range(steps)]
    if network.batch_first:
        batches = [batch.transpose(0, 1) for batch in batches]
    return warmup(network, batches, learning_rate=learning_rate, most_steps=60)


def test_warming_up_gives_every_layer_stable_states():
    network = nn.GRU(1, 16, 2)
    inputs = torch.randn(10, 32, 1)
    with torch.no_grad():
        before = vaa(settle(network, inputs, 500))
    reached = warmed(network)
    assert len(reached) == 60
    with torch.no_grad():
        after = vaa(settle(network, inputs, 500))
    assert (before < 0.1).all()
    assert (after > 4 * before).all()
    assert all(parameter.grad is None for parameter in network.parameters())


def test_warming_up_keeps_the_states_of_an_lstm_apart():
    """Over many batches: it is unsteady, and the network of a single batch may be a bad one."""
    network = nn.LSTM(1, 16, 2)
    unchanged = warmed(copy.deepcopy(network), learning_rate=1e-12)
    reached = warmed(network)
    assert sum(unchanged[-20:]) / 20 < 0.3
    assert sum(reached[-20:]) / 20 > 0.6


def test_torch_s_networks_are_warmed_up_as_the_same_cells_are():
    network = nn.GRU(1, 6, 2, bidirectional=True)
    cells = [nn.GRUCell(1, 6), nn.GRUCell(12, 6)]
    same = MultiLayerBase("GRU", cells, 6, bidirectional=True, return_sequences=True)
    ours, theirs = ([*part.parameters()] for part in (same, network))
    with torch.no_grad():
        for parameter, copied in zip(ours, theirs, strict=True):
            parameter.copy_(copied)
    reached = []
    for each in (network, same):
        torch.manual_seed(1)
        reached.append(warmed(each, 4))
    assert reached[0] == pytest.approx(reached[1], rel=1e-3)
    for parameter, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(parameter, other, rtol=0, atol=1e-3)


@pytest.mark.parametrize("network_type", [nn.LSTM, nn.RNN, NBRC])
def test_any_kind_of_network_is_warmed_up(network_type):
    network = network_type(1, 6, 2)
    before = [parameter.clone() for parameter in network.parameters()]
    assert all(0 < variety <= 1 for variety in warmed(network, 2))
    for parameter, first in zip(network.parameters(), before, strict=True):
        assert parameter.isfinite().all()
        assert (parameter != first).any()


def test_of_a_double_cell_the_first_half_is_warmed_up():
    cells = [DoubleCell(nn.GRUCell(1, 8), nn.GRUCell(1, 8))]
    network = MultiLayerBase("GRU", cells, 16, return_sequences=True)
    second = {name: value.clone() for name, value in cells[0].second.state_dict().items()}
    warmed(network, 5)
    for name, value in cells[0].second.state_dict().items():
        assert (value == second[name]).all()
    inputs = torch.randn(32, 10, 1)
    warmed(network, 55)
    with torch.no_grad():
        states = settle(network, inputs, 500)
    assert vaa(states[..., :8]) > 0.3
    assert vaa(states[..., 8:]) < 0.1


def test_a_memory_curve_is_one_where_nothing_is_lost_and_zero_where_all_is():
    network = nn.RNN(1, 8)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.weight_ih_l0[0] = 0.01  # a shift register of four places, nearly linear
        for place in range(3):
            network.weight_hh_l0[place + 1, place] = 1
    curve = memory_curve(network, torch.tensor([0, 3, 4, 20]), sequences=400)
    assert curve[:2] == pytest.approx([1, 1], abs=1e-2)
    assert (curve[2:].abs() < 0.1).all()


def test_bad_arguments_are_named():
    network = BRC(1, 2)
    with pytest.raises(ValueError, match=r"^input: expected a batch of sequences"):
        settle(network, torch.zeros(5, 1))
    with pytest.raises(ValueError, match=r"^steps: expected 0 or more, got -1"):
        settle(network, torch.zeros(5, 2, 1), -1)
    with pytest.raises(ValueError, match=r"^input: expected a batch of sequences"):
        warmup(network, [torch.zeros(5, 1)])
    for name in ("growth", "most_steps"):
        with pytest.raises(ValueError, match=rf"^{name}: expected 1 or more, got 0"):
            warmup(network, [], **{name: 0})
    with pytest.raises(ValueError, match=r"^network: expected one without projections"):
        warmup(nn.LSTM(1, 4, proj_size=2), [])
    with pytest.raises(ValueError, match=r"^delays: expected 0 to 9"):
        memory_curve(network, torch.tensor([10]), steps=10)
