"""Networks out of any cell, beside torch's own networks and step-by-step loops."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from brc_pytorch.layers import (
    BistableRecurrentCell,
    MultiLayerBase,
    NeuromodulatedBistableRecurrentCell,
    PeepholeLSTMCell,
)
from tests.layers.cells import LeakyCell, LeakyPairCell

TORCH = {
    "GRU": (nn.GRUCell, nn.GRU),
    "LSTM": (nn.LSTMCell, nn.LSTM),
    "RNN": (nn.RNNCell, nn.RNN),
}


class ParameterlessCell(nn.Module):
    """Has nothing to learn."""

    def forward(self, input_t, state):
        return 0.9 * state + input_t.mean(-1, keepdim=True)


CELLS = {
    "GRU": ("GRU", nn.GRUCell),
    "LSTM": ("LSTM", nn.LSTMCell),
    "RNN": ("RNN", nn.RNNCell),
    "BRC": ("BRC", BistableRecurrentCell),
    "nBRC": ("nBRC", NeuromodulatedBistableRecurrentCell),
    "PeepholeLSTM": ("LSTM", PeepholeLSTMCell),
    "own cell": ("GRU", LeakyCell),
    "own cell, pair": ("LSTM", LeakyPairCell),
}


def network(name, layers=2, bidirectional=False, hidden=5, **options):
    mode, cell = CELLS[name]
    width = hidden * (2 if bidirectional else 1)
    cells = [cell(3, hidden), *(cell(width, hidden) for _ in range(layers - 1))]
    options = {"return_sequences": True, **options}
    return MultiLayerBase(mode, cells, hidden, bidirectional=bidirectional, **options)


def parts(state):
    return (state,) if isinstance(state, torch.Tensor) else state


def random_state(rnn, batch, dtype=torch.float32):
    shape = (len(rnn.cells), batch, rnn.hidden_size)
    states = torch.randn(shape, dtype=dtype), torch.randn(shape, dtype=dtype)
    return states if rnn.mode == "LSTM" else states[0]


def gradients(module, results, cotangents):
    flat = [results[0], *parts(results[1])]
    return torch.autograd.grad(flat, [*module.parameters()], cotangents, retain_graph=True)


@pytest.mark.parametrize("mode", TORCH)
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_torch_cells_are_torch_networks(mode, layers, bidirectional, batch_first, bias):
    cell_type, network_type = TORCH[mode]
    options = {"bidirectional": bidirectional, "batch_first": batch_first}
    expected = network_type(3, 5, layers, bias=bias, **options)
    width = 10 if bidirectional else 5
    cells = [cell_type(3 if layer == 0 else width, 5, bias=bias) for layer in range(layers)]
    rnn = MultiLayerBase(mode, cells, 5, return_sequences=True, **options)
    with torch.no_grad():  # the parameters stand in the same order
        for ours, theirs in zip(rnn.parameters(), expected.parameters(), strict=True):
            ours.copy_(theirs)

    x, state = torch.randn(4, 7, 3), random_state(rnn, 4 if batch_first else 7)
    results, expected_results = rnn(x, state), expected(x, state)
    torch.testing.assert_close(results, expected_results)
    torch.testing.assert_close(rnn(x), expected(x))
    torch.testing.assert_close(rnn(x[0]), expected(x[0]))  # without a batch dimension

    cotangents = [torch.randn_like(each) for each in (results[0], *parts(results[1]))]
    torch.testing.assert_close(
        gradients(rnn, results, cotangents), gradients(expected, expected_results, cotangents)
    )

    lengths = [7, 2, 4, 4] if batch_first else [1, 4, 4, 2, 3, 3, 1]
    packed = pack_padded_sequence(x, lengths, batch_first=batch_first, enforce_sorted=False)
    results, expected_results = rnn(packed, state), expected(packed, state)
    for ours, theirs in zip(results[0], expected_results[0], strict=True):
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(results[1], expected_results[1])


def test_relu_cells_are_relu_networks():
    expected = nn.RNN(3, 5, nonlinearity="relu", batch_first=True)
    rnn = MultiLayerBase("RNN", [nn.RNNCell(3, 5, nonlinearity="relu")], 5, return_sequences=True)
    with torch.no_grad():
        for ours, theirs in zip(rnn.parameters(), expected.parameters(), strict=True):
            ours.copy_(theirs)
    x = torch.randn(4, 7, 3)
    torch.testing.assert_close(rnn(x), expected(x))


def by_steps(rnn, x, state):
    """The network as nested loops over its cells, on (T, B, I)."""
    directions = rnn.num_directions
    last = []
    for layer in range(rnn.layers):
        outputs = []
        for direction in range(directions):
            index = layer * directions + direction
            steps = range(len(x)) if direction == 0 else reversed(range(len(x)))
            hidden = tuple(part[index] for part in parts(state))
            hidden = hidden if rnn.mode == "LSTM" else hidden[0]
            results = [None] * len(x)
            for t in steps:
                hidden = rnn.cells[index](x[t], hidden)
                results[t] = parts(hidden)[0]
            outputs.append(torch.stack(results))
            last.append(parts(hidden))
        x = torch.cat(outputs, -1)
    stacked = tuple(torch.stack(part) for part in zip(*last, strict=True))
    return x, stacked if rnn.mode == "LSTM" else stacked[0]


@pytest.mark.parametrize("name", CELLS)
@settings(max_examples=10)
@given(
    layers=st.integers(1, 3),
    bidirectional=st.booleans(),
    batch_first=st.booleans(),
    steps=st.integers(1, 6),
    batch=st.integers(0, 3),
    seed=st.integers(0, 1000),
)
def test_every_way_to_scan_is_the_loop_over_steps(
    name, layers, bidirectional, batch_first, steps, batch, seed
):
    torch.manual_seed(seed)
    rnn = network(name, layers, bidirectional, batch_first=batch_first).double()
    x = torch.randn(steps, batch, 3, dtype=torch.float64)
    state = random_state(rnn, batch, torch.float64)
    given_x = x.transpose(0, 1) if batch_first else x
    output, last = rnn(given_x, state)
    output = output.transpose(0, 1) if batch_first else output
    torch.testing.assert_close((output, last), by_steps(rnn, x, state))

    rnn.return_seq = False
    only_last = rnn(given_x, state)
    directions = rnn.num_directions
    for ours, all_layers in zip(parts(only_last), parts(last), strict=True):
        assert ours.shape == (directions, batch, 5)
        torch.testing.assert_close(ours, all_layers[-directions:])


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("enforce_sorted", [False, True])
def test_a_packed_sequence_is_as_each_sequence_alone(name, bidirectional, enforce_sorted):
    rnn = network(name, 2, bidirectional).double()
    lengths = [6, 4, 4, 1] if enforce_sorted else [4, 1, 6, 4]
    x = torch.randn(4, 6, 3, dtype=torch.float64)
    state = random_state(rnn, 4, torch.float64)
    packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=enforce_sorted)
    output, last = rnn(packed, state)
    assert isinstance(output, PackedSequence)
    assert (output.sorted_indices is None) == enforce_sorted
    padded, got_lengths = pad_packed_sequence(output, batch_first=True)
    assert got_lengths.tolist() == lengths
    for row, length in enumerate(lengths):
        own = [part[:, row : row + 1] for part in parts(state)]
        alone, alone_last = rnn(
            x[row : row + 1, :length], tuple(own) if rnn.mode == "LSTM" else own[0]
        )
        torch.testing.assert_close(padded[row, :length], alone[0])
        for ours, theirs in zip(parts(last), parts(alone_last), strict=True):
            torch.testing.assert_close(ours[:, row], theirs[:, 0])


@pytest.mark.parametrize("name", CELLS)
def test_zero_state_follows_the_input(name):
    rnn = network(name).double()
    x = torch.randn(2, 4, 3, dtype=torch.float64)
    output, last = rnn(x)
    assert output.dtype == torch.float64
    zeros = torch.zeros_like(parts(last)[0])
    torch.testing.assert_close(
        (output, last), rnn(x, (zeros, zeros) if len(parts(last)) == 2 else zeros)
    )


@pytest.mark.parametrize("name", CELLS)
def test_init_state_is_zeros_of_a_state_s_shape(name):
    rnn = network(name, bidirectional=True).double()
    zeros = rnn.init_state(3)
    assert (zeros.shape, zeros.dtype) == ((4, 3, 5), torch.float64)
    assert not zeros.any()
    assert MultiLayerBase("RNN", [ParameterlessCell()], 5).init_state(3).shape == (1, 3, 5)


@pytest.mark.parametrize("name", CELLS)
def test_calls_leave_nothing_behind(name):
    rnn = network(name, bidirectional=True)
    x = torch.randn(2, 4, 3)
    before = set(vars(rnn))
    first = rnn(x)
    rnn(torch.randn(5, 9, 3))
    assert set(vars(rnn)) == before
    torch.testing.assert_close(rnn(x), first)


@pytest.mark.parametrize("name", CELLS)
def test_backward_cells_start_with_weights_of_their_own(name):
    rnn = network(name, layers=1, bidirectional=True)
    forward, backward = rnn.cells
    assert type(forward) is type(backward)
    weights = zip(forward.parameters(), backward.parameters(), strict=True)
    assert any(not torch.equal(ours, theirs) for ours, theirs in weights)
    assert not {*map(id, forward.parameters())} & {*map(id, backward.parameters())}


def test_hooks_of_a_cell_fire_at_every_step():
    rnn = network("nBRC", layers=1)
    x = torch.randn(2, 6, 3)
    expected = rnn(x)
    seen = []
    handle = rnn.cells[0].register_forward_hook(lambda *call: seen.append(call[2]))
    torch.testing.assert_close(rnn(x), expected)
    torch.testing.assert_close(torch.stack(seen, 1), expected[0])
    handle.remove()
    rnn(x)
    assert len(seen) == 6


@pytest.mark.parametrize("base", [nn.GRUCell, NeuromodulatedBistableRecurrentCell])
def test_an_overridden_forward_is_what_runs(base):
    class Halved(base):
        def forward(self, input, hx):
            return 0.5 * super().forward(input, hx)

    torch.manual_seed(0)
    rnn = MultiLayerBase("RNN", [Halved(3, 5)], 5, return_sequences=True)
    x = torch.randn(2, 4, 3)
    torch.testing.assert_close(
        rnn(x)[0].transpose(0, 1), by_steps(rnn, x.transpose(0, 1), torch.zeros(1, 2, 5))[0]
    )


def test_a_cell_may_serve_several_layers():
    shared = nn.GRUCell(5, 5)
    rnn = MultiLayerBase("GRU", [shared, shared], 5, return_sequences=True)
    twice = MultiLayerBase("GRU", [shared, copy.deepcopy(shared)], 5, return_sequences=True)
    x = torch.randn(2, 4, 5)
    torch.testing.assert_close(rnn(x), twice(x))
    assert len([*rnn.parameters()]) == 4


@pytest.mark.parametrize("name", CELLS)
def test_networks_move(name):
    rnn = network(name, device="meta", bidirectional=True)
    assert {parameter.device.type for parameter in rnn.parameters()} == {"meta"}
    output, _ = rnn(torch.randn(2, 4, 3, device="meta"))
    assert (output.device.type, output.shape) == ("meta", (2, 4, 10))


def test_representation_shows_what_differs():
    assert network("BRC").extra_repr() == "BRC, 5, return_sequences=True"
    rnn = network("GRU", batch_first=False, bidirectional=True, return_sequences=False)
    assert rnn.extra_repr() == "GRU, 5, batch_first=False, bidirectional=True"
