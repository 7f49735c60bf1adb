"""The Triton kernels beside the reference: on a GPU at real sizes, or interpreted at small ones."""

import dataclasses

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import brc_pytorch
from brc_pytorch import ops
from brc_pytorch.ops import backends
from brc_pytorch.ops.triton import backend as triton_backend
from tests.ops.cuda_calls import (
    BACKEND,
    DEVICE,
    arguments,
    both,
    interpreted,
    lengths_of,
    narrow,
    on_a_gpu,
    on_the_backend,  # noqa: F401 - a fixture of all tests here
    operator,
)

# NumPy, which interprets, warns of what a GPU does silently: exp overflows to infinity.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")


@pytest.fixture(params=["brc", "nbrc", "nbrc step by step"])
def recurrence_of_any_design(request, monkeypatch):
    """The recurrence's name, for each way of walking over time, whatever the size."""
    name, *step_by_step = request.param.split(" ", maxsplit=1)
    if step_by_step:
        monkeypatch.setattr(triton_backend, "_RESIDENT_ROWS", 0)
    return name


@pytest.mark.parametrize(
    ("steps", "batch", "input_size", "hidden_size"),
    [(1, 1, 1, 1), (5, 3, 4, 5), (6, 2, 33, 17), (9, 1, 1, 33), (2, 0, 3, 4), (4, 2, 0, 6)],
)
def test_parity(assert_parity, recurrence_of_any_design, steps, batch, input_size, hidden_size):
    for dtype in (torch.float32, torch.float64):
        for lengths, reverse in [(False, False), (True, False), (True, True)]:
            assert_parity(
                BACKEND,
                recurrence=recurrence_of_any_design,
                dtype=dtype,
                steps=steps,
                batch=batch,
                input_size=input_size,
                hidden_size=hidden_size,
                lengths=lengths,
                reverse=reverse,
                device=DEVICE,
            )


@both
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_parity_of_any_call(assert_parity_of_any_call, recurrence, data):
    assert_parity_of_any_call(
        BACKEND,
        data,
        recurrence=recurrence,
        device=DEVICE,
        steps=9,
        batch=5,
        input_size=7,
        hidden_size=40,
    )


@narrow
@pytest.mark.parametrize("hidden_size", [5, 129], ids=["small", "streamed weights"])
@pytest.mark.parametrize(
    ("lengths", "reverse", "resets"),
    [(False, False, False), (True, True, False), (True, True, True)],
)
def test_parity_of_narrow_types(
    assert_parity, recurrence_of_any_design, dtype, hidden_size, lengths, reverse, resets
):
    assert_parity(
        BACKEND,
        recurrence=recurrence_of_any_design,
        dtype=dtype,
        steps=3,
        hidden_size=hidden_size,
        lengths=lengths,
        reverse=reverse,
        resets=resets,
        reset_states=resets,
        device=DEVICE,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("lengths", "reverse"), [(False, False), (False, True), (True, True)])
@pytest.mark.parametrize("resets", [False, True])
def test_a_sequence_of_several_spans(
    assert_parity, monkeypatch, recurrence_of_any_design, dtype, lengths, reverse, resets
):
    monkeypatch.setattr(triton_backend, "_SPAN_BYTES", 3 * 3 * 3 * 5 * dtype.itemsize)
    input = torch.empty(7, 3, 2, dtype=dtype)
    spans = triton_backend._spans(
        triton_backend._Inputs(
            *("nbrc", input, None, torch.empty(2, 15), None, None, None, reverse, None, None)
        )
    )
    assert sorted(spans) == [(0, 3), (3, 3), (6, 1)]
    assert_parity(
        BACKEND,
        recurrence=recurrence_of_any_design,
        dtype=dtype,
        steps=7,
        lengths=lengths,
        reverse=reverse,
        resets=resets,
        reset_states=resets and reverse,
        strided=True,
        device=DEVICE,
    )


@on_a_gpu
@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("steps", "batch", "hidden_size"),
    [
        (300, 100, 100),
        (200, 64, 256),
        (100, 32, 512),
        (50, 17, 1000),
        (5000, 4, 64),
        (40, 3000, 50),
    ],
)
@pytest.mark.parametrize(("lengths", "reverse"), [(False, False), (True, True)])
def test_parity_at_real_sizes(
    assert_parity, recurrence, dtype, steps, batch, hidden_size, lengths, reverse
):
    assert_parity(
        BACKEND,
        recurrence=recurrence,
        dtype=dtype,
        steps=steps,
        batch=batch,
        input_size=3,
        hidden_size=hidden_size,
        lengths=lengths,
        reverse=reverse,
        # Among so many bistable states some are near an edge, where two bytes decide nothing.
        weak_feedback=dtype.itemsize == 2,
        device=DEVICE,
    )


@both
@pytest.mark.parametrize("reverse", [False, True])
def test_gradcheck(recurrence, reverse):
    tensors = arguments(recurrence, 3, 2, 1, 2, torch.float64, requires_grad=True)
    lengths = lengths_of(1, 3)
    assert torch.autograd.gradcheck(
        lambda *t: operator(recurrence)(*t, lengths=lengths, reverse=reverse),
        tensors,
        fast_mode=True,
    )


@both
def test_second_derivatives(recurrence):
    tensors = arguments(recurrence, 2, 2, 1, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(operator(recurrence), tensors, fast_mode=True)


@both
@pytest.mark.parametrize("only", [0, 1], ids=["output", "last"])
def test_a_result_that_is_not_used_counts_as_zero(recurrence, only):
    tensors = arguments(recurrence, requires_grad=True)
    gradients = {}
    for name in (BACKEND, "reference"):
        with ops.backend(name):
            loss = operator(recurrence)(*tensors)[only].square().sum()
            gradients[name] = torch.autograd.grad(loss, tensors)
    torch.testing.assert_close(gradients[BACKEND], gradients["reference"], rtol=1e-4, atol=1e-5)


@both
def test_only_what_asks_for_a_gradient_gets_one(recurrence):
    tensors = arguments(recurrence)
    tensors[2].requires_grad_()
    operator(recurrence)(*tensors)[0].sum().backward()
    assert [tensor.grad is not None for tensor in tensors] == [False, False, True, False, False]


def test_padding_has_no_effect_whatever_it_holds(recurrence_of_any_design):
    tensors = arguments(recurrence_of_any_design, requires_grad=True)
    with torch.no_grad():
        tensors[0][2:, 1] = float("nan")
        tensors[0][:, 2] = float("inf")
    output, last = operator(recurrence_of_any_design)(*tensors, lengths=lengths_of(3, 2, 0))
    assert (output[2:, 1] == 0).all()
    assert torch.equal(last[2], tensors[1][2])
    cotangent = torch.ones_like(output)
    cotangent[2:, 1] = float("nan")
    for gradient in torch.autograd.grad((output, last), tensors, (cotangent, cotangent[0])):
        assert gradient.isfinite().all()


@both
def test_nan_and_infinity_pass_as_in_the_reference(recurrence):
    tensors = arguments(recurrence, steps=2, batch=6, inputs=1)
    tensors[0][0, :3, 0] = torch.tensor([float("nan"), float("inf"), -float("inf")])
    tensors[1][3:, 0] = torch.tensor([float("nan"), float("inf"), -float("inf")])
    got = operator(recurrence)(*tensors)
    with ops.backend("reference"):
        expected = operator(recurrence)(*tensors)
    torch.testing.assert_close(got, expected, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nonlinearities_over_the_whole_range(dtype):
    """Weights that leave h_1 = tanh(U x), and h_1 = sigmoid(U_c x) h_0, of 1 so nearly all."""
    x = torch.cat((torch.linspace(0, 12, 301), 10.0 ** torch.arange(-37, 2))).to(DEVICE, dtype)
    x = torch.cat((x, -x))
    memory = torch.zeros(2, dtype=dtype, device=DEVICE)

    def last(h_0, kernel, bias):
        kernel, bias = (torch.tensor(v, dtype=dtype, device=DEVICE) for v in ([kernel], bias))
        state = torch.full((len(x), 1), h_0, dtype=dtype, device=DEVICE)
        return ops.brc(x.view(1, -1, 1), state, kernel, memory, bias)[1].double().flatten()

    def error(value, exact):
        return ((value - exact) / exact).abs().nan_to_num(0).max()  # 0 / 0 is 0

    limit = 1e-6 if dtype == torch.float32 else 1e-15
    tanh = last(0.0, [0.0, 0.0, 1.0], [-1000.0, 0.0])
    assert error(tanh, torch.tanh(x.double())) < limit
    sigmoid = last(1.0, [1.0, 0.0, 0.0], [0.0, -1000.0])
    assert error(sigmoid, torch.sigmoid(x.double())) < limit


@both
def test_an_output_changed_in_place_is_noticed(recurrence):
    tensors = arguments(recurrence, requires_grad=True)
    output, last = operator(recurrence)(*tensors)
    with torch.no_grad():
        output.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        last.sum().backward()


@both
def test_nothing_but_inputs_and_states_is_kept(recurrence):
    kept = []

    def keep(tensor):
        kept.append(tensor.numel())
        return tensor

    tensors = arguments(recurrence, steps=50, batch=1, inputs=1, hidden=3, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        operator(recurrence)(*tensors)
    assert sum(kept) == sum(tensor.numel() for tensor in tensors) + 50 * 3


@pytest.mark.parametrize("kind", ["BRC", "NBRC"])
def test_a_network_of_two_layers_and_directions(kind):
    rnn = getattr(brc_pytorch, kind)(2, 3, num_layers=2, bidirectional=True).to(DEVICE)
    input = torch.nn.utils.rnn.pack_sequence(
        [torch.randn(size, 2, device=DEVICE) for size in (4, 3, 1)]
    )
    got, got_last = rnn(input)
    with ops.backend("reference"):
        want, want_last = rnn(input)
    torch.testing.assert_close(got.data, want.data, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got_last, want_last, rtol=1e-4, atol=1e-5)


@on_a_gpu
@both
def test_chosen_for_tensors_on_a_gpu(recurrence, monkeypatch):
    called = []
    monkeypatch.setattr(backends.choice, "forced", None)
    known = backends.choice.chosen["cuda", recurrence]

    def forward(*given):
        called.append(given)
        known.forward(*given)

    spy = dataclasses.replace(known, forward=forward)
    monkeypatch.setitem(backends.choice.chosen, ("cuda", recurrence), spy)
    operator(recurrence)(*arguments(recurrence))
    assert called


@pytest.mark.skipif(not interpreted, reason="a GPU has no memory that is promised but not there")
def test_strides_beyond_32_bits(recurrence_of_any_design, tmp_path):
    """The output's gradient lies in a file with holes, its third unit 2**31 elements in."""
    recurrence = recurrence_of_any_design.split(maxsplit=1)[0]
    leaves = arguments(recurrence, steps=2, batch=2, hidden=3, dtype=torch.float16)
    leaves = [leaf.requires_grad_() for leaf in leaves]
    unit = 2**30 + 64
    sizes, strides = (2, 2, 3), (4, 2, unit)
    path = tmp_path / "holes"
    with path.open("wb") as file:
        file.truncate(2 * (2 * unit + 8))
    storage = torch.from_file(str(path), shared=True, size=2 * unit + 8, dtype=torch.float16)
    cotangent = storage.as_strided(sizes, strides).copy_(torch.randn(sizes))
    output, _ = operator(recurrence)(*leaves)
    got = torch.autograd.grad(output, leaves, cotangent, retain_graph=True)
    want = torch.autograd.grad(output, leaves, cotangent.contiguous())
    for one, other in zip(got, want, strict=True):
        assert torch.equal(one, other)
