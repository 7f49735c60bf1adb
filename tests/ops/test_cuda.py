"""The Triton kernels beside the reference: on a GPU at real sizes, or interpreted at small ones."""

import dataclasses
import os

# cuBLAS is deterministic with a workspace of its own, as the poisoned tests ask for.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.autograd import forward_ad

import brc_pytorch
from brc_pytorch import ops
from brc_pytorch.ops import backends
from brc_pytorch.ops.triton import backend as triton_backend

pytest.importorskip("triton")
interpreted = os.environ.get("TRITON_INTERPRET") == "1"
if not interpreted and not torch.cuda.is_available():
    pytest.skip("needs a GPU, or Triton's interpreter: make test-triton", allow_module_level=True)

if interpreted:
    DEVICE, BACKEND = "cpu", "interpreted"
    backends.register_backend(
        BACKEND, dataclasses.replace(triton_backend.BACKEND, device_type="cpu")
    )
else:
    DEVICE, BACKEND = "cuda", "cuda"

# NumPy, which interprets, warns of what a GPU does silently: exp overflows to infinity.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")
both = pytest.mark.parametrize("recurrence", ["brc", "nbrc"])
narrow = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
on_a_gpu = pytest.mark.skipif(interpreted, reason="needs a GPU")


@pytest.fixture(autouse=True)
def on_the_backend():
    with ops.backend(BACKEND):
        yield


def arguments(recurrence, steps=3, batch=3, inputs=2, hidden=4, dtype=None, requires_grad=False):
    """Leaves: input, h_0, kernel, memory, bias."""

    def normal(*shape, scale=1.0):
        return scale * torch.randn(*shape, dtype=dtype, device=DEVICE)

    memory = (hidden, 2 * hidden) if recurrence == "nbrc" else (2 * hidden,)
    tensors = [
        normal(steps, batch, inputs),
        normal(batch, hidden),
        normal(inputs, 3 * hidden, scale=inputs**-0.5),
        normal(*memory, scale=hidden**-0.5),
        normal(2 * hidden),
    ]
    return [tensor.requires_grad_(requires_grad) for tensor in tensors]


def operator(recurrence):
    return getattr(ops, recurrence)


def lengths_of(*values):
    return torch.tensor(values, device=DEVICE)


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
@pytest.mark.parametrize("hidden_size", [5, 129], ids=["small", "packed weights"])
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
def test_opcheck(recurrence):
    x, h_0, *parameters = arguments(recurrence)
    x, h_0, *parameters = (t.requires_grad_() for t in (x, h_0[None], *parameters))
    scan = torch.ops.brc_pytorch.scan.default
    lengths = lengths_of(0, 3, 2)
    torch.library.opcheck(scan, (recurrence, x, h_0, parameters, lengths, True, True))
    torch.library.opcheck(scan, (recurrence, x, h_0, parameters[:2], None, False, False))


@both
def test_opcheck_of_the_gradients(recurrence):
    x, h_0, *parameters = arguments(recurrence)
    given = x, h_0[None], parameters, None, False
    flat = x, h_0[None], *parameters, None, None, False
    output, last, saved = torch.ops.brc_pytorch.scan(recurrence, *given, True)
    cotangents = torch.randn_like(output), torch.randn_like(last)
    torch.library.opcheck(
        torch.ops.brc_pytorch.scan_backward.default,
        (recurrence, *cotangents, *flat, output, saved, True),
    )


@both
@pytest.mark.filterwarnings("ignore")  # torch's compiler warns about itself
def test_compiled_whole_and_bitwise_equal(recurrence):
    tensors = arguments(recurrence, requires_grad=True)
    lengths = lengths_of(0, 3, 2)
    run = operator(recurrence)
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    results = compiled(*tensors, lengths=lengths)
    expected = run(*tensors, lengths=lengths)
    for got, want in zip(results, expected, strict=True):
        assert torch.equal(got, want)
    got = torch.autograd.grad(results[0].sum(), tensors)
    want = torch.autograd.grad(expected[0].sum(), tensors)
    assert all(map(torch.equal, got, want))


@both
def test_function_transforms_fall_back_to_the_reference(recurrence):
    tensors = arguments(recurrence, dtype=torch.float64)

    def loss(h_0):
        return operator(recurrence)(tensors[0], h_0, *tensors[2:])[0].square().sum()

    leaf = tensors[1].clone().requires_grad_()
    expected = torch.autograd.grad(loss(leaf), leaf)[0]
    mapped = torch.func.vmap(torch.func.grad(loss))(torch.stack([tensors[1]]))
    torch.testing.assert_close(mapped[0], expected)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(tensors[1], torch.ones_like(tensors[1]))
        tangent = forward_ad.unpack_dual(loss(dual)).tangent
    torch.testing.assert_close(tangent, expected.sum())


@both
def test_autocast_keeps_the_inputs_type(recurrence):
    tensors = arguments(recurrence, requires_grad=True)
    exact, _ = operator(recurrence)(*tensors)
    with torch.autocast(DEVICE, torch.bfloat16):
        same, _ = operator(recurrence)(*tensors)
        narrow, _ = operator(recurrence)(tensors[0].bfloat16(), *tensors[1:])
    assert torch.equal(same, exact)
    assert narrow.dtype == torch.bfloat16
    torch.testing.assert_close(narrow.float(), exact, rtol=0.05, atol=0.05)
    assert all(g.dtype == torch.float32 for g in torch.autograd.grad(narrow.sum(), tensors))


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
@pytest.mark.parametrize("hidden", [64, 300], ids=["weights on chip", "step by step"])
def test_replayed_as_a_cuda_graph(recurrence, hidden):
    tensors = arguments(recurrence, 20, 8, 3, hidden, requires_grad=True)

    def run():
        output, last = operator(recurrence)(*tensors)
        return output, *torch.autograd.grad(output.sum() + last.sum(), tensors)

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    with torch.no_grad():
        tensors[0].normal_()
    graph.replay()
    torch.testing.assert_close(captured, run())


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
