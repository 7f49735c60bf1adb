"""BRC and NBRC in the place of nn.GRU."""

import copy
import inspect
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.parametrize import register_parametrization
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from brc_pytorch import BRC, NBRC, ops

NETWORKS = [BRC, NBRC]


def stacked(cell):
    kernel = torch.cat((cell.kernelz, cell.kernelr, cell.kernelh), -1)
    memory = torch.cat((cell.memoryz, cell.memoryr), -1)
    return kernel, memory, torch.cat((cell.bz, cell.br))


@pytest.mark.parametrize("network_type", NETWORKS)
def test_the_signature_starts_as_that_of_gru(network_type):
    names = [*inspect.signature(network_type).parameters]
    assert names[:9] == [
        "input_size",
        "hidden_size",
        "num_layers",
        "bias",
        "batch_first",
        "dropout",
        "bidirectional",
        "device",
        "dtype",
    ]
    assert [*inspect.signature(network_type(3, 5).forward).parameters][:2] == ["input", "hx"]


@pytest.mark.parametrize("network_type", NETWORKS)
@settings(max_examples=25)
@given(
    layers=st.integers(1, 3),
    bidirectional=st.booleans(),
    batch_first=st.booleans(),
    bias=st.booleans(),
    batch=st.one_of(st.none(), st.integers(0, 3)),
    steps=st.integers(1, 5),
    with_state=st.booleans(),
)
def test_shapes_are_those_of_gru(
    network_type, layers, bidirectional, batch_first, bias, batch, steps, with_state
):
    options = (3, 5, layers, bias, batch_first, 0.0, bidirectional)
    rnn, gru = (each(*options, dtype=torch.float64) for each in (network_type, nn.GRU))
    shape = (steps, 3) if batch is None else (batch, steps, 3) if batch_first else (steps, batch, 3)
    x = torch.randn(shape, dtype=torch.float64)
    hx = torch.randn_like(gru(x)[1]) if with_state else None
    for ours, theirs in zip(rnn(x, hx), gru(x, hx), strict=True):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)


@pytest.mark.parametrize(("network_type", "scan"), [(BRC, ops.brc), (NBRC, ops.nbrc)])
def test_a_network_is_its_recurrences(network_type, scan):
    rnn = network_type(3, 5, num_layers=2, bidirectional=True).double()
    x = torch.randn(7, 4, 3, dtype=torch.float64)
    h_0 = torch.randn(4, 4, 5, dtype=torch.float64)
    sequence, last = x, []
    for layer in (0, 1):
        outputs = []
        for direction in (0, 1):
            index = 2 * layer + direction
            parameters = stacked(rnn.cells[index])
            output, h_n = scan(sequence, h_0[index], *parameters, reverse=direction == 1)
            outputs.append(output)
            last.append(h_n)
        sequence = torch.cat(outputs, -1)
    torch.testing.assert_close(rnn(x, h_0), (sequence, torch.stack(last)))


@pytest.mark.parametrize("network_type", NETWORKS)
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("enforce_sorted", [False, True])
def test_packed_sequences(network_type, batch_first, enforce_sorted):
    rnn = network_type(3, 5, 2, batch_first=batch_first, bidirectional=True).double()
    lengths = [5, 4, 4, 1] if enforce_sorted else [4, 1, 5, 4]
    x = torch.randn(4, 5, 3, dtype=torch.float64)
    hx = torch.randn(4, 4, 5, dtype=torch.float64)
    given = x if batch_first else x.transpose(0, 1)
    packed = pack_padded_sequence(given, lengths, batch_first, enforce_sorted)
    output, h_n = rnn(packed, hx)
    padded, _ = pad_packed_sequence(output, batch_first=True)
    a, c = rnn.gates(packed, hx)
    for row, length in enumerate(lengths):
        alone, alone_h_n = rnn(x[row, :length], hx[:, row])
        torch.testing.assert_close(padded[row, :length], alone)
        torch.testing.assert_close(h_n[:, row], alone_h_n)
        for gate, alone_gate in zip((a, c), rnn.gates(x[row, :length], hx[:, row]), strict=True):
            of_row = gate[:, row] if batch_first else gate[:, :, row]
            torch.testing.assert_close(of_row[:, :length], alone_gate)
            assert not of_row[:, length:].any()


def _halve(cell):
    register_parametrization(cell, "kernelz", _Halved())


class _Halved(nn.Module):
    def forward(self, x):
        return x / 2


@pytest.mark.parametrize("network_type", NETWORKS)
@pytest.mark.parametrize(
    ("options", "prepare"),
    [
        ({}, None),
        ({"bidirectional": True}, None),
        ({"bias": False}, None),
        ({"candidate_bias": True}, None),
        ({"learn_initial_state": True}, lambda rnn: nn.init.normal_(rnn.initial_state)),
        ({}, lambda rnn: _halve(rnn.cells[1])),
        ({}, lambda rnn: rnn.cells[0].register_forward_hook(lambda *call: call[2] + 1)),
    ],
    ids=["plain", "bidirectional", "no bias", "candidate bias", "state", "parametrized", "hook"],
)
@pytest.mark.parametrize("form", ["batch", "one sequence", "packed"])
def test_without_gradients_the_results_are_the_same(network_type, options, prepare, form):
    rnn = network_type(3, 5, num_layers=3, batch_first=True, **options)
    for parameter in rnn.parameters():
        nn.init.normal_(parameter)
    if prepare:
        prepare(rnn)
    x = torch.randn(4, 9, 3)
    if form == "one sequence":
        x = x[0]
    elif form == "packed":
        x = pack_padded_sequence(x, [4, 9, 1, 4], batch_first=True, enforce_sorted=False)
    expected, expected_h_n = rnn(x)
    with torch.no_grad():
        output, h_n = rnn(x)
        again, _ = rnn(x, h_n)
    torch.testing.assert_close((output, h_n), (expected, expected_h_n), rtol=0, atol=0)
    torch.testing.assert_close(again, rnn(x, h_n)[0], rtol=0, atol=0)


@pytest.mark.parametrize("network_type", NETWORKS)
@pytest.mark.parametrize("batch_first", [False, True])
def test_gates_rebuild_the_output(network_type, batch_first):
    rnn = network_type(3, 5, batch_first=batch_first, bidirectional=True).double()
    x = torch.randn(7, 4, 3, dtype=torch.float64)
    h_0 = torch.randn(2, 4, 5, dtype=torch.float64)
    given = x.transpose(0, 1) if batch_first else x
    a, c = rnn.gates(given, h_0)
    output, _ = rnn(given, h_0)
    if batch_first:
        a, c, output = a.transpose(1, 2), c.transpose(1, 2), output.transpose(0, 1)
    forward, backward = output.split(5, -1)
    previous = (
        torch.cat((h_0[:1], forward[:-1])),
        torch.cat((backward[1:], h_0[1:])),
    )
    for direction, result in enumerate((forward, backward)):
        h, kernel = previous[direction], rnn.cells[direction].kernelh
        candidate = torch.tanh(x @ kernel + a[direction] * h)
        torch.testing.assert_close(c[direction] * h + (1 - c[direction]) * candidate, result)


@pytest.mark.parametrize("network_type", NETWORKS)
def test_dropout_acts_between_layers_in_training_only(network_type):
    torch.manual_seed(0)
    rnn = network_type(3, 5, num_layers=2, dropout=0.5)
    x = torch.randn(7, 4, 3)
    first_layer = network_type(3, 5)
    first_layer.cells[0] = rnn.cells[0]
    trained, again = rnn(x)[0], rnn(x)[0]
    assert not torch.equal(trained, again)
    with torch.no_grad():
        assert not torch.equal(rnn(x)[0], rnn(x)[0])
    torch.testing.assert_close(rnn(x)[1][0], first_layer(x)[1][0])  # before any dropout
    rnn.eval()
    torch.testing.assert_close(rnn(x), rnn(x), rtol=0, atol=0)
    all_dropped = network_type(3, 5, num_layers=2, dropout=1.0)
    all_dropped.cells[1] = rnn.cells[1]
    second_layer = network_type(5, 5)
    second_layer.cells[0] = rnn.cells[1]
    torch.testing.assert_close(all_dropped(x)[0], second_layer(torch.zeros(7, 4, 5))[0])
    with pytest.warns(UserWarning, match="dropout option adds dropout after all but last"):
        network_type(3, 5, dropout=0.5)


@pytest.mark.parametrize("network_type", NETWORKS)
def test_a_learnable_initial_state(network_type):
    rnn = network_type(3, 5, 2, bidirectional=True, learn_initial_state=True)
    x = torch.randn(7, 4, 3)
    torch.testing.assert_close(rnn(x), rnn(x, torch.zeros(4, 4, 5)))
    with torch.no_grad():
        rnn.initial_state.normal_()
    expanded = rnn.initial_state.unsqueeze(1).expand(-1, 4, -1)
    torch.testing.assert_close(rnn(x), rnn(x, expanded))
    torch.testing.assert_close(rnn(x[:, 0]), rnn(x[:, 0], rnn.initial_state))
    rnn(x)[0].sum().backward()
    assert bool(rnn.initial_state.grad.any(dim=1).all())
    rnn.reset_parameters()
    assert not rnn.initial_state.any()
    assert "initial_state" not in network_type(3, 5).state_dict()


@pytest.mark.parametrize("network_type", NETWORKS)
def test_a_candidate_bias(network_type):
    plain = network_type(3, 5, dtype=torch.float64)
    biased = network_type(3, 5, dtype=torch.float64, candidate_bias=True)
    biased.load_state_dict({**plain.state_dict(), "cells.0.bh": torch.zeros(5)})
    x = torch.randn(7, 4, 3, dtype=torch.float64)
    torch.testing.assert_close(biased(x), plain(x))
    with torch.no_grad():
        biased.cells[0].bh.normal_()
    # It is what a constant input adds through U.
    wide = network_type(4, 5, dtype=torch.float64)
    with torch.no_grad():
        for name in ("kernelz", "kernelr", "kernelh"):
            bias = biased.cells[0].bh if name == "kernelh" else torch.zeros(5)
            kernel = torch.cat((getattr(plain.cells[0], name), bias.unsqueeze(0)))
            getattr(wide.cells[0], name).copy_(kernel)
        for name in ("memoryz", "memoryr"):
            getattr(wide.cells[0], name).copy_(getattr(plain.cells[0], name))
    ones = torch.ones(7, 4, 1, dtype=torch.float64)
    torch.testing.assert_close(biased(x), wide(torch.cat((x, ones), -1)))
    assert biased(x)[0].grad_fn is not None
    biased(x)[0].sum().backward()
    assert bool(biased.cells[0].bh.grad.all())
    with pytest.raises(ValueError, match="candidate_bias: expected False where bias=False"):
        network_type(3, 5, bias=False, candidate_bias=True)


@pytest.mark.parametrize("network_type", NETWORKS)
def test_without_bias(network_type):
    rnn = network_type(3, 5, bias=False)
    names = {name.split(".")[-1] for name in rnn.state_dict()}
    assert names == {"kernelz", "kernelr", "kernelh", "memoryz", "memoryr"}
    biased = network_type(3, 5)
    biased.load_state_dict(rnn.state_dict(), strict=False)
    x = torch.randn(7, 4, 3)
    torch.testing.assert_close(rnn(x), biased(x))


@pytest.mark.parametrize("network_type", NETWORKS)
def test_initializers_reach_their_parameters(network_type):
    rnn = network_type(3, 5, 2, bidirectional=True, candidate_bias=True)
    rnn.reset_parameters(
        kernel=lambda weight: nn.init.constant_(weight, 1),
        memory=lambda weight: nn.init.constant_(weight, 2),
        bias=lambda weight: nn.init.constant_(weight, 3),
    )
    expected = {"k": 1, "m": 2, "b": 3}
    for name, parameter in rnn.named_parameters():
        assert bool((parameter == expected[name.split(".")[-1][0]]).all()), name


@pytest.mark.parametrize("network_type", NETWORKS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_layers": 2, "dropout": 0.2, "bidirectional": True, "batch_first": True},
        {"bias": False},
    ],
)
def test_it_shows_itself_as_gru_does(network_type, options):
    ours, theirs = repr(network_type(3, 5, **options)), repr(nn.GRU(3, 5, **options))
    assert ours == theirs.replace("GRU", network_type.__name__)


def both(network_type, call):
    """What nn.GRU raises, and what ours raises, for the same call."""
    raised = []
    for each in (nn.GRU, network_type):
        with pytest.raises((TypeError, ValueError, RuntimeError)) as error:
            call(each)
        raised.append((error.type, str(error.value).replace("GRU", network_type.__name__)))
    return raised


@pytest.mark.parametrize("network_type", NETWORKS)
@pytest.mark.parametrize(
    "call",
    [
        lambda rnn: rnn(0, 5),
        lambda rnn: rnn(3, 0),
        lambda rnn: rnn(3, 5, 0),
        lambda rnn: rnn(3.0, 5),
        lambda rnn: rnn(3, 5.0),
        lambda rnn: rnn(3, 5, bias=1),
        lambda rnn: rnn(3, 5, batch_first=1),
        lambda rnn: rnn(3, 5, 2, dropout=1.5),
        lambda rnn: rnn(3, 5, 2, dropout=True),
        lambda rnn: rnn(3, 5)(torch.zeros(7)),
        lambda rnn: rnn(3, 5)(torch.zeros(7, 4, 3, 1)),
        lambda rnn: rnn(3, 5)(torch.zeros(7, 4, 2)),
        lambda rnn: rnn(3, 5)(torch.zeros(0, 4, 3)),
        lambda rnn: rnn(3, 5)(torch.zeros(7, 4, 3).double()),
        lambda rnn: rnn(3, 5)(torch.zeros(7, 4, 3), torch.zeros(1, 4, 6)),
        lambda rnn: rnn(3, 5)(torch.zeros(7, 4, 3), torch.zeros(1, 5)),
        lambda rnn: rnn(3, 5)(torch.zeros(7, 3), torch.zeros(1, 1, 5)),
        lambda rnn: rnn(3, 5, 2, batch_first=True)(torch.zeros(4, 7, 3), torch.zeros(2, 7, 5)),
        lambda rnn: rnn(3, 5)(torch.zeros(7, 3), torch.zeros(1, 6)),
        lambda rnn: rnn(3, 5)(pack_padded_sequence(torch.zeros(7, 4), [7, 3, 3, 1])),
        lambda rnn: rnn(3, 5)(pack_padded_sequence(torch.zeros(7, 1, 2), [7])),
        lambda rnn: rnn(3, 5)(pack_padded_sequence(torch.zeros(7, 1, 3), [7]), torch.zeros(1, 5)),
    ],
)
def test_errors_are_worded_as_torch_words_them(network_type, call):
    theirs, ours = both(network_type, call)
    assert ours == theirs


@pytest.mark.parametrize("network_type", NETWORKS)
def test_a_state_of_another_dtype_or_device_is_refused(network_type):
    rnn = network_type(3, 5)
    with pytest.raises(ValueError, match=r"hx dtype \(torch.float64\) does not match input dtype"):
        rnn(torch.zeros(7, 4, 3), torch.zeros(1, 4, 5).double())
    with pytest.raises(RuntimeError, match=r"not at the same device.*hidden tensor at meta"):
        rnn(torch.zeros(7, 4, 3), torch.zeros(1, 4, 5, device="meta"))
    with pytest.raises(RuntimeError, match=r"not at the same device.*input tensor at meta and par"):
        rnn(torch.zeros(7, 4, 3, device="meta"))


@pytest.mark.parametrize("network_type", NETWORKS)
def test_a_state_or_an_input_of_another_kind_is_refused(network_type):
    rnn, x = network_type(3, 5), torch.zeros(7, 4, 3)
    with pytest.raises(ValueError, match="hx: expected one tensor h_0, got a tuple of 2"):
        rnn(x, (torch.zeros(1, 4, 5), torch.zeros(1, 4, 5)))
    with pytest.raises(TypeError, match="input: expected a tensor or a PackedSequence, got a list"):
        rnn(x.tolist())


@pytest.mark.parametrize("network_type", NETWORKS)
def test_copies_are_equal_and_apart(network_type):
    rnn = network_type(3, 5, 2, bidirectional=True, learn_initial_state=True)
    x = torch.randn(7, 4, 3)
    loaded = network_type(3, 5, 2, bidirectional=True, learn_initial_state=True)
    loaded.load_state_dict(rnn.state_dict())
    for twin in (copy.deepcopy(rnn), pickle.loads(pickle.dumps(rnn)), loaded):  # noqa: S301 - ours
        torch.testing.assert_close(twin(x), rnn(x))
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.zero_()
        assert all(rnn.state_dict()[f"cells.{index}.kernelz"].any() for index in range(4))


@pytest.mark.parametrize("network_type", NETWORKS)
def test_flattening_is_allowed(network_type):
    rnn = network_type(3, 5)
    before = {name: value.clone() for name, value in rnn.state_dict().items()}
    rnn.flatten_parameters()
    torch.testing.assert_close(dict(rnn.state_dict()), before)
