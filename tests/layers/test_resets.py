"""Networks whose sequences hold several segments: resets, learned first states, streams."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from brc_pytorch import (
    BRC,
    GRU,
    LSTM,
    NBRC,
    BistableRecurrentCell,
    MultiLayerBase,
    NeuromodulatedBistableRecurrentCell,
    PeepholeLSTMCell,
)
from tests.layers.cells import LeakyCell

T, B, I, H = 7, 3, 2, 4  # noqa: E741 - the field's letter
networks = pytest.mark.parametrize("network_type", [BRC, NBRC, GRU, LSTM])
bistable = pytest.mark.parametrize("network_type", [BRC, NBRC])


class ScanningCell(LeakyCell):
    """One with a scan that knows no resets."""

    def scan(self, input, state, lengths, reverse):  # noqa: ARG002 - the protocol
        raise AssertionError("must not be called with resets")


class HalvingCell(LeakyCell):
    """One whose scan takes resets."""

    def scan(self, input, state, lengths, reverse, resets=None, reset_state=None):  # noqa: ARG002
        return 0.5 * resets.unsqueeze(-1).expand(-1, -1, H).float(), state


CELLS = [
    ("GRU", nn.GRUCell),
    ("LSTM", nn.LSTMCell),
    ("RNN", nn.RNNCell),
    ("LSTM", PeepholeLSTMCell),
    ("RNN", LeakyCell),
    ("BRC", BistableRecurrentCell),
    ("nBRC", NeuromodulatedBistableRecurrentCell),
]


def mask(steps=T, batch=B):
    drawn = torch.rand(steps, batch) < 0.3
    drawn[2, 0] = True
    return drawn


def of_cells(mode, cell, bidirectional):
    cells = [cell(I, H), cell(2 * H if bidirectional else H, H)]
    options = {"batch_first": False, "bidirectional": bidirectional, "return_sequences": True}
    return MultiLayerBase(mode, cells, H, **options)


def parts(state):
    return (state,) if isinstance(state, torch.Tensor) else state


def first_states(network, kind):
    """Random states before the first step, (cells, B, H) or a pair."""
    drawn = [torch.randn(len(network.cells), B, H, dtype=torch.float64) for _ in range(kind)]
    return drawn[0] if kind == 1 else tuple(drawn)


def assert_segments_are_alone(network, state, resets):
    """Compare each segment with the network run on it alone, from its own first states."""
    input = torch.randn(T, B, I, dtype=torch.float64)
    output, _ = network(input, state, resets=resets)
    learned = getattr(network, "initial_state", None)
    two_ways = network.num_directions == 2
    for row in range(B):
        begins = sorted({0, *resets[:, row].nonzero().flatten().tolist()})
        for begin, end in zip(begins, [*begins[1:], T], strict=True):
            own = [part[:, row].clone() for part in parts(state)]
            for index in range(len(network.cells)):
                goes_back = two_ways and index % 2 == 1
                if end < T if goes_back else begin > 0 or resets[0, row]:
                    for part in own:
                        part[index] = 0 if learned is None else learned[index]
            alone, _ = network(input[begin:end, row], own[0] if len(own) == 1 else tuple(own))
            torch.testing.assert_close(output[begin:end, row], alone)


@networks
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("grad", [False, True])
def test_a_network_runs_each_segment_as_if_alone(network_type, bidirectional, grad):
    network = network_type(I, H, num_layers=2, bidirectional=bidirectional, dtype=torch.float64)
    with torch.set_grad_enabled(grad):
        state = first_states(network, 2 if network_type is LSTM else 1)
        assert_segments_are_alone(network, state, mask())


@pytest.mark.parametrize(("mode", "cell"), CELLS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_any_cells_run_each_segment_as_if_alone(mode, cell, bidirectional):
    network = of_cells(mode, cell, bidirectional).double()
    state = first_states(network, 2 if mode == "LSTM" else 1)
    assert_segments_are_alone(network, state, mask())


def test_a_scan_is_used_if_it_takes_resets():
    x, resets = torch.randn(T, B, I), mask()
    with torch.no_grad():
        network = MultiLayerBase("RNN", [HalvingCell(I, H)], H, False, return_sequences=True)
        output, _ = network(x, resets=resets)
        assert torch.equal(output[..., 0], 0.5 * resets.float())
        network = MultiLayerBase("RNN", [ScanningCell(I, H)], H, False, return_sequences=True)
        plain = MultiLayerBase("RNN", [LeakyCell(I, H)], H, False, return_sequences=True)
        plain.load_state_dict(network.state_dict())
        assert torch.equal(network(x, resets=resets)[0], plain(x, resets=resets)[0])


@bistable
def test_segments_start_from_the_learned_state_and_teach_it(network_type):
    options = {"num_layers": 2, "bidirectional": True, "learn_initial_state": True}
    network = network_type(I, H, dtype=torch.float64, **options)
    nn.init.normal_(network.initial_state)
    resets = mask()
    assert_segments_are_alone(network, first_states(network, 1), resets)
    state = first_states(network, 1)
    output, _ = network(torch.randn(T, B, I, dtype=torch.float64), state, resets=resets)
    output.sum().backward()
    assert (network.initial_state.grad != 0).any(1).all()


@networks
def test_every_form_of_the_input_has_its_form_of_the_mask(network_type):
    network = network_type(I, H, num_layers=2, bidirectional=True)
    first = network_type(I, H, num_layers=2, bidirectional=True, batch_first=True)
    first.load_state_dict(network.state_dict())
    x, resets = torch.randn(T, B, I), mask()
    output, _ = network(x, resets=resets)
    transposed, _ = first(x.transpose(0, 1), resets=resets.t())
    torch.testing.assert_close(transposed.transpose(0, 1), output)
    single, _ = network(x[:, 0], resets=resets[:, 0])
    torch.testing.assert_close(single, output[:, 0])
    lengths = [4, 7, 2]
    rows = [(x[:size, row], resets[:size, row]) for row, size in enumerate(lengths)]
    packed, masks = (
        pack_sequence([*each], enforce_sorted=False) for each in zip(*rows, strict=True)
    )
    found, _ = network(packed, resets=masks)
    for row, size in enumerate(lengths):
        want, _ = network(x[:size, row], resets=resets[:size, row])
        at = int((found.sorted_indices == row).nonzero())
        padded, _ = nn.utils.rnn.pad_packed_sequence(PackedSequence(found.data, found.batch_sizes))
        torch.testing.assert_close(padded[:size, at], want)


@bistable
@pytest.mark.parametrize("bidirectional", [False, True])
def test_gates_are_those_of_the_segments(network_type, bidirectional):
    network = network_type(I, H, bidirectional=bidirectional, batch_first=True)
    x, resets = torch.randn(B, T, I), mask().t()
    resets[:, 3] = True
    gates = network.gates(x, resets=resets)
    late = network.gates(x[:, 3:], resets=resets[:, 3:])
    early = network.gates(x[:, :3], resets=resets[:, :3])
    for whole, before, after in zip(gates, early, late, strict=True):
        torch.testing.assert_close(whole, torch.cat((before, after), 2))


def test_gates_that_take_no_resets_are_refused():
    class Gated(LeakyCell):
        def gates(self, input, output, state, lengths, reverse):  # noqa: ARG002
            return (output,)

    network = MultiLayerBase("RNN", [Gated(I, H)], H, False)
    with pytest.raises(TypeError, match=r"cells\[0\]: expected gates that take resets"):
        network.gates(torch.randn(T, B, I), resets=mask())


PACKED = pack_sequence([torch.randn(3, I), torch.randn(2, I)])
BOOLS = torch.zeros(5, dtype=torch.bool)


@pytest.mark.parametrize(
    ("input", "resets", "error", "message"),
    [
        (torch.randn(T, B, I), mask().t(), ValueError, r"expected shape \(7, 3\).*got \(3, 7\)"),
        (torch.randn(T, B, I), mask()[..., None], ValueError, r"\(7, 3\).*got \(7, 3, 1\)"),
        (torch.randn(T, B, I), mask().float(), ValueError, "expected dtype torch.bool, got .*32"),
        (torch.randn(T, B, I), mask().to("meta"), ValueError, "expected device cpu.*got meta"),
        (torch.randn(T, I), mask(), ValueError, r"expected shape \(7,\)"),
        (torch.randn(T, B, I), mask().tolist(), TypeError, "expected a tensor, .*got a list"),
        (PACKED, torch.zeros(3, 2, dtype=torch.bool), TypeError, "expected a PackedSequence"),
        (torch.randn(T, B, I), PACKED, TypeError, "expected a tensor.*got a PackedSequence"),
        (
            PACKED,
            PackedSequence(BOOLS, torch.tensor([3, 2])),
            ValueError,
            r"rows as long.*\[3, 2",
        ),
        (
            PACKED,
            PackedSequence(BOOLS, PACKED.batch_sizes, torch.tensor([1, 0]), torch.tensor([1, 0])),
            ValueError,
            "rows in the order of those of input",
        ),
    ],
)
@pytest.mark.parametrize(
    "network",
    [NBRC(I, H), of_cells("GRU", nn.GRUCell, bidirectional=False)],
    ids=["NBRC", "MultiLayerBase"],
)
def test_a_bad_mask_is_refused(network, input, resets, error, message):
    with pytest.raises(error, match=f"resets: .*{message}"):
        network(input, resets=resets)


@networks
def test_resets_are_compiled_and_exported(network_type):
    network, x, resets = network_type(I, H, num_layers=2), torch.randn(T, B, I), mask()

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, x, resets):
            return self.network(x, resets=resets)[0]

    want = Model()(x, resets)
    compiled = torch.compile(Model(), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x, resets), want)
    steps, batch = torch.export.Dim("steps", min=2), torch.export.Dim("batch", min=2)
    shapes = ({0: steps, 1: batch}, {0: steps, 1: batch})
    program = torch.export.export(Model(), (x, resets), dynamic_shapes=shapes).module()
    torch.testing.assert_close(program(x, resets), want)
    other, masks = torch.randn(5, 2, I), mask(5, 2)
    torch.testing.assert_close(program(other, masks), Model()(other, masks))


@networks
@pytest.mark.parametrize("grad", [False, True])
def test_a_stream_in_chunks_has_the_bits_of_the_whole(network_type, grad):
    network = network_type(I, H, num_layers=2)
    x, resets = torch.randn(60, B, I), mask(60)
    with torch.set_grad_enabled(grad):
        whole, last = network(x, resets=resets)
        state, outputs = None, []
        for chunk, begins in zip(x.split(13), resets.split(13), strict=True):
            output, state = network(chunk, state, resets=begins)
            outputs.append(output)
    assert torch.equal(torch.cat(outputs), whole)
    for one, other in zip(parts(state), parts(last), strict=True):
        assert torch.equal(one, other)


@bistable
def test_truncated_backpropagation_is_a_detached_state(network_type):
    """Each chunk's gradients end at its first step: those of the chunk with a constant state."""
    network = network_type(I, H, num_layers=2, dtype=torch.float64)
    x = torch.randn(20, B, I, dtype=torch.float64, requires_grad=True)
    state, states = None, []
    for chunk in x.split(5):
        output, state = network(chunk, state)
        output.square().sum().backward()
        state = state.detach()
        states.append(state)
    got = x.grad.clone()
    for number, chunk in enumerate(x.detach().split(5)):
        alone = chunk.clone().requires_grad_()
        output, _ = network(alone, states[number - 1] if number else None)
        output.square().sum().backward()
        torch.testing.assert_close(got[5 * number : 5 * number + 5], alone.grad)
