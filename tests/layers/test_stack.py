"""What every network of cells does alike: the way it goes, and its gates."""

import copy
import dataclasses

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from brc_pytorch import ops
from brc_pytorch.layers import (
    BRC,
    GRU,
    LSTM,
    NBRC,
    BistableRecurrentCell,
    MultiLayerBase,
    NeuromodulatedBistableRecurrentCell,
    bistable_cell,
)
from brc_pytorch.ops import backends

BISTABLE = {
    "BRC": ("BRC", [BistableRecurrentCell] * 2),
    "nBRC": ("nBRC", [NeuromodulatedBistableRecurrentCell] * 2),
    "both": ("RNN", [BistableRecurrentCell, NeuromodulatedBistableRecurrentCell]),
}


def network(name, bidirectional=False, **options):
    mode, cells = BISTABLE[name]
    sizes = (3, 10 if bidirectional else 5)
    layers = [cell(size, 5) for cell, size in zip(cells, sizes, strict=True)]
    options = {"return_sequences": True, **options}
    rnn = MultiLayerBase(mode, layers, 5, bidirectional=bidirectional, **options).double()
    for parameter in rnn.parameters():
        nn.init.normal_(parameter, std=0.7)
    return rnn


def gates_of_step(cell, x, h):
    """a_t and c_t by the cell's equations, from x_t and h_{t-1}."""
    if isinstance(cell, BistableRecurrentCell):
        feedback_a, feedback_c = cell.memoryr * h, cell.memoryz * h
    else:
        feedback_a, feedback_c = h @ cell.memoryr, h @ cell.memoryz
    a = 1 + torch.tanh(x @ cell.kernelr + feedback_a + cell.br)
    return a, torch.sigmoid(x @ cell.kernelz + feedback_c + cell.bz)


def gates_by_steps(rnn, x, state):
    """The gates of all cells over one row (T, I), each (cells, T, H), step after step."""
    directions = rnn.num_directions
    found = []
    for layer in range(rnn.layers):
        outputs = []
        for direction in range(directions):
            index = layer * directions + direction
            cell, h = rnn.cells[index], state[index]
            results = [None] * len(x)
            for t in range(len(x)) if direction == 0 else reversed(range(len(x))):
                gates = gates_of_step(cell, x[t], h)
                h = cell(x[t], h)
                results[t] = (*gates, h)
            a, c, output = (torch.stack(part) for part in zip(*results, strict=True))
            outputs.append(output)
            found.append((a, c))
        x = torch.cat(outputs, -1)
    return tuple(torch.stack(gate) for gate in zip(*found, strict=True))


@pytest.mark.parametrize("name", BISTABLE)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("return_sequences", [False, True])
def test_gates_are_those_of_the_steps(name, bidirectional, batch_first, return_sequences):
    rnn = network(name, bidirectional, batch_first=batch_first, return_sequences=return_sequences)
    lengths = [4, 7, 1, 4]
    x = torch.randn(4, 7, 3, dtype=torch.float64)
    state = torch.randn(len(rnn.cells), 4, 5, dtype=torch.float64)
    given = x if batch_first else x.transpose(0, 1)
    of_batch = rnn.gates(given, state)
    of_zero_state = rnn.gates(given)
    packed = pack_padded_sequence(given, lengths, batch_first, enforce_sorted=False)
    of_packed = rnn.gates(packed, state)
    for row, length in enumerate(lengths):
        expected = gates_by_steps(rnn, x[row], state[:, row])
        torch.testing.assert_close(rnn.gates(x[row], state[:, row]), expected)
        from_zero = gates_by_steps(rnn, x[row], torch.zeros_like(state[:, row]))
        of_data = gates_by_steps(rnn, x[row, :length], state[:, row])
        for gate in range(2):
            in_row = (slice(None), row) if batch_first else (slice(None), slice(None), row)
            torch.testing.assert_close(of_batch[gate][in_row], expected[gate])
            torch.testing.assert_close(of_zero_state[gate][in_row], from_zero[gate])
            torch.testing.assert_close(of_packed[gate][in_row][:, :length], of_data[gate])
            assert not of_packed[gate][in_row][:, length:].any()


@pytest.mark.parametrize("name", BISTABLE)
def test_gates_can_be_trained_through(name):
    rnn = network(name)
    x = torch.randn(2, 4, 3, dtype=torch.float64)
    sum(gate.square().sum() for gate in rnn.gates(x)).backward()
    for parameter_name, parameter in rnn.named_parameters():
        assert parameter.grad.any(), parameter_name
    with torch.no_grad():
        torch.testing.assert_close(rnn.gates(x), rnn.gates(x.clone().requires_grad_()))


@pytest.mark.parametrize("bidirectional", [False, True])
def test_each_cell_takes_what_the_layer_below_gives(bidirectional):
    rnn = NBRC(3, 5, 2, bidirectional=bidirectional, dropout=0.5).eval()
    x, state = torch.randn(7, 4, 3), torch.randn(len(rnn.cells), 4, 5)
    passes = rnn.cell_passes(x, state)
    directions = 2 if bidirectional else 1
    assert [of.cell for of in passes] == [*rnn.cells]
    assert [of.reverse for of in passes] == [False, True][:directions] * 2
    below = torch.cat([of.output for of in passes[:directions]], dim=-1)
    output, _ = rnn(x, state)
    for index, of in enumerate(passes):
        assert (of.input == (x if index < directions else below)).all()
        assert (of.state == state[index]).all()
        torch.testing.assert_close(of.cell.scan(of.input, *of[3:])[0], of.output)
    torch.testing.assert_close(torch.cat([of.output for of in passes[-directions:]], -1), output)


def test_a_cell_of_ones_own_may_have_gates():
    class Leaky(nn.Module):
        """A pair of states, and one gate: how much of its state it forgets."""

        def forward(self, input_t, state):
            hidden, total = state
            leak = torch.sigmoid(input_t.mean(-1, keepdim=True)).expand(-1, 5)
            hidden = (1 - leak) * hidden + leak
            return hidden, total + hidden

        def gates(self, input, output, state, lengths, reverse):
            assert output.shape == (4, 2, 5)
            assert [part.shape for part in state] == [(2, 5), (2, 5)]
            assert lengths is None
            assert not reverse
            return (torch.sigmoid(input.mean(-1, keepdim=True)).expand(-1, -1, 5),)

    rnn = MultiLayerBase("LSTM", [Leaky(), Leaky()], 5, return_sequences=True)
    x = torch.randn(2, 4, 3)
    output, _ = rnn(x)
    (leak,) = rnn.gates(x)
    torch.testing.assert_close(leak[0], torch.sigmoid(x.mean(-1, keepdim=True)).expand(-1, -1, 5))
    assert leak.shape == (2, 2, 4, 5)
    assert output.shape == (2, 4, 5)

    class Gateless(Leaky):
        def gates(self, *_):
            return ()

    with pytest.raises(ValueError, match=r"cells\[1\]: expected 1 gates, as cells\[0\] has, got 0"):
        MultiLayerBase("LSTM", [Leaky(), Gateless()], 5).gates(x)


@pytest.mark.parametrize("cell", [nn.GRUCell, nn.RNNCell])
def test_a_cell_without_gates_is_named(cell):
    rnn = MultiLayerBase("RNN", [BistableRecurrentCell(3, 5), cell(5, 5)], 5)
    with pytest.raises(TypeError, match=rf"cells\[1\]: .* with gates, .* got a {cell.__name__}"):
        rnn.gates(torch.randn(2, 4, 3))


def test_a_users_scan_is_used():
    class Cumulative(nn.Module):
        def scan(self, input, state, lengths, reverse):
            assert lengths is None
            assert not reverse
            output = state + input[..., :1].cumsum(0).expand(-1, -1, 5)
            return output, output[-1]

    rnn = MultiLayerBase("RNN", [Cumulative()], 5, return_sequences=True)
    x = torch.ones(2, 4, 3)
    assert rnn(x)[0][0, :, 0].tolist() == [1, 2, 3, 4]


def test_a_users_scan_is_used_where_all_layers_could_run_at_once():
    class Silent(NeuromodulatedBistableRecurrentCell):
        def scan(self, input, state=None, lengths=None, reverse=False):
            output, last = super().scan(input, state, lengths, reverse)
            return torch.zeros_like(output), last

    rnn = MultiLayerBase("nBRC", [Silent(3, 5), Silent(5, 5)], 5, return_sequences=True)
    x = torch.randn(2, 4, 3)
    with torch.no_grad():
        assert not rnn(x)[0].any()
        plain = MultiLayerBase(
            "nBRC", [NeuromodulatedBistableRecurrentCell(3, 5)], 5, return_sequences=True
        )
        plain.cells[0].scan = lambda *_: (torch.ones(4, 2, 5), torch.ones(2, 5))
        assert (plain(x)[0] == 1).all()


def test_a_users_scan_of_all_layers_is_used():
    class Cumulative(nn.Module):
        @staticmethod
        def scan_layers(cells, input, states, lengths=None):
            assert lengths is None
            assert states.shape == (2, 2, 5)
            output = len(cells) * input[..., :1].cumsum(0).expand(-1, -1, 5)
            return output, states + output[-1]

    rnn = MultiLayerBase("RNN", [Cumulative(), Cumulative()], 5, return_sequences=True)
    output, last = rnn(torch.ones(2, 4, 3))
    assert output[0, :, 0].tolist() == [2, 4, 6, 8]
    assert (last == 8).all()


@pytest.mark.parametrize("network_type", [BRC, NBRC])
@pytest.mark.parametrize("grad", [False, True])
def test_layers_that_cannot_run_at_once_run_one_by_one(network_type, grad, monkeypatch):
    rnn, x = network_type(3, 5, num_layers=2), torch.randn(7, 4, 3)
    with torch.set_grad_enabled(grad):
        expected = rnn(x)
        asked = []
        monkeypatch.setattr(bistable_cell, "scan_layers", lambda *_: asked.append(1))
        found = rnn(x)
    assert asked
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.fixture
def kernels_for_float32(monkeypatch):
    """Kernels for all recurrences on the CPU: their calls are counted, the reference computes."""
    calls = []
    reference = backends.choice.backends["reference"]

    def forward(call, *results):
        calls.append(call.recurrence.name)
        reference.forward(call, *results)

    kernels = dataclasses.replace(
        reference, device_type="cpu", dtypes=frozenset((torch.float32,)), forward=forward
    )
    monkeypatch.setattr(backends.choice, "backends", {"reference": reference})
    monkeypatch.setattr(backends.choice, "chosen", {})
    backends.register_backend("counted", kernels)
    return calls


OF_TORCH = {"gru": (nn.GRUCell, GRU), "lstm": (nn.LSTMCell, LSTM)}


@pytest.mark.parametrize("recurrence", OF_TORCH)
@pytest.mark.parametrize("as_cells", [True, False])
def test_torchs_cells_run_in_kernels_where_these_can_compute(
    recurrence, as_cells, kernels_for_float32
):
    cell, network_type = OF_TORCH[recurrence]
    if as_cells:
        rnn = MultiLayerBase(recurrence.upper(), [cell(3, 5), cell(5, 5)], 5, return_sequences=True)
    else:
        rnn = network_type(3, 5, 2, batch_first=True)
    x = torch.randn(2, 4, 3)

    def of(call):
        kernels_for_float32.clear()
        call()
        return kernels_for_float32

    both_layers = [recurrence] * 2
    assert of(lambda: rnn(x)) == both_layers
    with torch.no_grad():
        assert of(lambda: rnn(x)) == both_layers
    assert of(lambda: rnn(pack_padded_sequence(x, [4, 2], batch_first=True))) == both_layers
    assert of(lambda: torch.func.jvp(lambda x: rnn(x)[0], (x,), (x,))) == []
    with ops.backend("reference"):
        assert of(lambda: rnn(x)) == []
    double = copy.deepcopy(rnn).double()
    assert of(lambda: double(x.double())) == []
    with ops.backend("counted"):  # what is asked for by name computes, in its own dtype
        assert of(lambda: double(x.double())) == both_layers


@pytest.mark.parametrize("recurrence", OF_TORCH)
def test_a_hook_of_one_of_torchs_cells_sees_every_step(recurrence, kernels_for_float32):
    cell, _ = OF_TORCH[recurrence]
    cells = [cell(3, 5), cell(5, 5)]
    rnn, seen = MultiLayerBase(recurrence.upper(), cells, 5), []
    x = torch.randn(2, 4, 3)
    expected = rnn(x)
    kernels_for_float32.clear()
    cells[1].register_forward_hook(lambda *_: seen.append(1))
    torch.testing.assert_close(rnn(x), expected)
    assert len(seen) == 4
    assert kernels_for_float32 == [recurrence]  # the other cell's
