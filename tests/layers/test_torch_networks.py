"""GRU and LSTM beside nn.GRU and nn.LSTM."""

import contextlib
import copy
import inspect
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from brc_pytorch import GRU, LSTM, ops

TORCHS = {GRU: nn.GRU, LSTM: nn.LSTM}
# By whatever computes here, and by the operator everywhere.
WAYS = {"chosen": contextlib.nullcontext, "operator": lambda: ops.backend("reference")}

networks = pytest.mark.parametrize("network_type", TORCHS)


def pair(network_type, *arguments, dtype=torch.float64, **options):
    """One of our networks and torch's, with the same weights."""
    ours = network_type(*arguments, dtype=dtype, **options)
    theirs = TORCHS[network_type](*arguments, dtype=dtype, **options)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def flat(value):
    """The tensors of results, one after the other."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, PackedSequence):
        return [value.data]
    return [tensor for part in value for tensor in flat(part)]


def random_state(network, *batch):
    shape = (len(network.all_weights), *batch, network.hidden_size)
    states = [torch.randn(shape, dtype=network.weight_hh_l0.dtype) for _ in range(2)]
    return tuple(states) if isinstance(network, nn.LSTM) else states[0]


def leaves(value):
    """A copy of a state that wants gradients."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone().requires_grad_()
    return tuple(map(leaves, value))


def results_and_gradients(network, x, hx, form, cotangents):
    """Everything that a network computes: output, states, and the gradient of every tensor."""
    x, hx = leaves(x), None if hx is None else leaves(hx)
    given = form(x)
    results = flat(network(given, hx))
    wanted = [x, *([] if hx is None else flat(hx)), *network.parameters()]
    gradients = torch.autograd.grad(
        results, wanted, [c[: len(r)] for c, r in zip(cotangents, results, strict=True)]
    )
    return results, gradients


@networks
@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=10)
@given(
    layers=st.integers(1, 2),
    bidirectional=st.booleans(),
    batch_first=st.booleans(),
    bias=st.booleans(),
    form=st.sampled_from(["batch", "one sequence", "sorted", "packed"]),
    with_state=st.booleans(),
)
def test_results_and_gradients_are_torchs(
    network_type, way, layers, bidirectional, batch_first, bias, form, with_state
):
    options = {"bias": bias, "batch_first": batch_first, "bidirectional": bidirectional}
    ours, theirs = pair(network_type, 3, 5, layers, **options)
    shape = (5, 3) if form == "one sequence" else (4, 5, 3) if batch_first else (5, 4, 3)
    x = torch.randn(shape, dtype=torch.float64)
    hx = random_state(theirs, *([] if form == "one sequence" else [4])) if with_state else None
    lengths = {"sorted": [5, 4, 4, 1], "packed": [4, 1, 5, 4]}.get(form)

    def enter(x):
        if lengths is None:
            return x
        return pack_padded_sequence(x, lengths, batch_first, enforce_sorted=form == "sorted")

    cotangents = [torch.randn_like(each) for each in flat(theirs(enter(x), hx))]
    expected = results_and_gradients(theirs, x, hx, enter, cotangents)
    with WAYS[way]():
        found = results_and_gradients(ours, x, hx, enter, cotangents)
        with torch.no_grad():
            alone = flat(ours(enter(x), hx))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(alone, expected[0])


@pytest.mark.parametrize("bias", [0.0, 2.5])
def test_an_lstms_gates_are_recalled_where_a_cell_state_is_zero_or_large(bias):
    """Its gates are told from states for the backward pass: c_t is 0 throughout, or above 25."""
    ours, theirs = pair(LSTM, 3, 5, 2)
    for network in (ours, theirs):
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.dim() == 1 or bias == 0:
                    parameter.fill_(bias)
    ours, theirs = ours.float(), theirs.double()
    x = torch.randn(40, 4, 3)
    cotangents = [torch.randn_like(each) for each in flat(ours(x))]
    found = results_and_gradients(ours, x, None, lambda x: x, cotangents)
    cotangents = [each.double() for each in cotangents]
    expected = results_and_gradients(theirs, x.double(), None, lambda x: x, cotangents)
    torch.testing.assert_close(found, expected, check_dtype=False, rtol=1e-4, atol=1e-5)
    if bias:
        assert found[0][2].max() > 25


@networks
@pytest.mark.parametrize("way", WAYS)
def test_float32_is_as_near_to_double_as_torchs(network_type, way):
    ours, theirs = pair(network_type, 3, 20, 2)
    x = torch.randn(50, 4, 3, dtype=torch.float64)
    exact, _ = theirs(x)
    with WAYS[way]():
        single, _ = ours.float()(x.float())
    of_torch, _ = theirs.float()(x.float())
    scale = (of_torch - exact).abs().max() + torch.finfo(torch.float32).eps
    assert (single - exact).abs().max() < 5 * scale


@networks
def test_it_starts_as_torchs_network_starts(network_type):
    options = {"num_layers": 2, "bidirectional": True}
    drawn = []
    for each in (network_type, TORCHS[network_type]):
        torch.manual_seed(3)
        network = each(3, 5, **options)
        drawn.append((network.state_dict(), torch.rand(1)))
        torch.manual_seed(4)
        network.reset_parameters()
        drawn[-1] += (copy.deepcopy(network.state_dict()),)
    torch.testing.assert_close(*drawn, rtol=0, atol=0)
    assert [*drawn[0][0]] == [*drawn[1][0]]


@networks
@pytest.mark.parametrize("bias", [False, True])
def test_saved_models_load_both_ways(network_type, bias, tmp_path):
    options = {"num_layers": 2, "bidirectional": True, "bias": bias}
    ours, theirs = network_type(3, 5, **options), TORCHS[network_type](3, 5, **options)
    x = torch.randn(7, 4, 3)
    for source, target in ((ours, theirs), (theirs, ours)):
        for network in (nn.Sequential(source), nn.Sequential(target)):
            nn.init.normal_(network[0].weight_hh_l1)
        torch.save(nn.Sequential(source).state_dict(), tmp_path / "model.pt")
        assert not torch.equal(source(x)[0], target(x)[0])
        nn.Sequential(target).load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
        torch.testing.assert_close(target(x), source(x))
    with pytest.raises(RuntimeError, match=r"Missing key.*weight_hh_l0"):
        ours.load_state_dict({})


@networks
@pytest.mark.parametrize("way", WAYS)
def test_dropout_drops_what_torch_drops(network_type, way):
    ours, theirs = pair(network_type, 3, 5, 3, dropout=0.5, bidirectional=True)
    x = torch.randn(7, 4, 3, dtype=torch.float64)
    outputs = []
    for network, context in ((ours, WAYS[way]()), (theirs, contextlib.nullcontext())):
        with context:
            torch.manual_seed(1)
            outputs.append(network(x))
            outputs.append(network.eval()(x))
    torch.testing.assert_close(outputs[:2], outputs[2:])
    assert not torch.equal(outputs[0][0], outputs[1][0])
    with pytest.warns(UserWarning, match="dropout option adds dropout after all but last"):
        network_type(3, 5, dropout=0.5)


@networks
def test_its_interface_is_that_of_torchs(network_type):
    theirs = TORCHS[network_type]
    names = [*inspect.signature(network_type).parameters]
    assert names == [*inspect.signature(nn.RNNBase).parameters][1:]
    assert [*inspect.signature(network_type(3, 5).forward).parameters][:2] == ["input", "hx"]
    for options in ({}, {"num_layers": 2, "dropout": 0.2, "batch_first": True}, {"bias": False}):
        assert repr(network_type(3, 5, **options)) == repr(theirs(3, 5, **options))
    ours, theirs = network_type(3, 5, 2), theirs(3, 5, 2)
    missing = {
        name for name in vars(theirs) | vars(type(theirs)) if not name.startswith("_")
    } - set(dir(ours))
    assert missing <= {"check_forward_args", "get_expected_cell_size", "permute_hidden"}
    assert len(ours.all_weights) == 2
    ours.flatten_parameters()


@networks
def test_projections_are_refused(network_type):
    with pytest.raises(ValueError, match="proj_size: expected 0, got 2"):
        network_type(3, 5, proj_size=2)


@networks
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "call",
    [
        lambda rnn: rnn(0, 5),
        lambda rnn: rnn(3, 0),
        lambda rnn: rnn(3, 5, 0),
        lambda rnn: rnn(3.0, 5),
        lambda rnn: rnn(3, 5, batch_first=1),
        lambda rnn: rnn(3, 5, 2, dropout=1.5),
        lambda rnn: rnn(3, 5)(torch.zeros(7)),
        lambda rnn: rnn(3, 5)(torch.zeros(7, 4, 2)),
        lambda rnn: rnn(3, 5)(torch.zeros(0, 4, 3)),
        lambda rnn: rnn(3, 5)(torch.zeros(7, 4, 3).double()),
    ],
)
def test_errors_are_worded_as_torch_words_them(network_type, way, call):
    raised = []
    for each in (TORCHS[network_type], network_type):
        with WAYS[way](), pytest.raises((TypeError, ValueError, RuntimeError)) as error:
            call(each)
        raised.append((error.type, str(error.value)))
    assert raised[0] == raised[1]


@pytest.mark.parametrize(
    ("network_type", "hx", "error", "expected"),
    [
        (GRU, torch.zeros(1, 4, 6), RuntimeError, r"Expected hidden size \(1, 4, 5\), got \[1, 4"),
        (GRU, torch.zeros(1, 5), RuntimeError, "hx should also be 3-D but got 2-D"),
        (GRU, (torch.zeros(1, 4, 5),) * 2, ValueError, "hx: expected one tensor h_0, got a tuple"),
        (LSTM, torch.zeros(1, 4, 5), ValueError, r"hx: expected a pair \(h_0, c_0\), got one"),
        (LSTM, (torch.zeros(1, 4, 5),), ValueError, r"hx: expected a pair .* got a tuple of 1"),
        (LSTM, (torch.zeros(1, 4, 5), torch.zeros(1, 4, 6)), RuntimeError, "Expected hidden size"),
        (LSTM, (torch.zeros(1, 5),) * 2, RuntimeError, "hx should also be 3-D but got 2-D"),
    ],
)
def test_a_state_that_does_not_fit_is_named(network_type, hx, error, expected):
    with pytest.raises(error, match=expected):
        network_type(3, 5)(torch.zeros(7, 4, 3), hx)


@networks
def test_copies_are_equal_and_apart(network_type):
    rnn = network_type(3, 5, 2, bidirectional=True)
    x = torch.randn(7, 4, 3)
    for twin in (copy.deepcopy(rnn), pickle.loads(pickle.dumps(rnn))):  # noqa: S301 - ours
        torch.testing.assert_close(twin(x), rnn(x))
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.zero_()
        assert all(parameter.any() for parameter in rnn.parameters())
        assert not twin(x)[0].any()
