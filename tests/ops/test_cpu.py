"""The compiled CPU kernels: beside the reference, inside torch, and under odd conditions."""

import ctypes
import math
import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.autograd import forward_ad

from brc_pytorch import ops
from brc_pytorch.ops import backends, cpu
from brc_pytorch.ops.cpu import interface

pytestmark = pytest.mark.skipif(
    not cpu.instruction_sets(), reason="this installation has no compiled kernels"
)

both = pytest.mark.parametrize("recurrence", ["brc", "nbrc"])
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
every_set = pytest.mark.parametrize("instructions", cpu.instruction_sets() or ["none"])


def arguments(recurrence, steps=5, batch=3, inputs=2, hidden=4, dtype=None, requires_grad=False):
    """Leaves: input, h_0, kernel, memory, bias."""

    def normal(*shape, scale=1.0):
        return scale * torch.randn(*shape, dtype=dtype)

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


@every_set
@both
@dtypes
@pytest.mark.parametrize(
    ("steps", "batch", "input_size", "hidden_size"),
    [
        (1, 1, 1, 1),
        (7, 3, 4, 5),
        (2, 5, 33, 100),
        (20, 13, 1, 17),
        (3, 40, 70, 3),
        (9, 1, 130, 64),
        (9, 3, 2, 100),
        (300, 1, 2, 8),
        (2, 0, 3, 4),
        (4, 2, 0, 6),
    ],
)
def test_parity(
    assert_parity, instructions, recurrence, dtype, steps, batch, input_size, hidden_size
):
    with cpu.instruction_set(instructions):
        for lengths, reverse in [(False, False), (True, False), (True, True)]:
            assert_parity(
                "cpu",
                recurrence=recurrence,
                dtype=dtype,
                steps=steps,
                batch=batch,
                input_size=input_size,
                hidden_size=hidden_size,
                lengths=lengths,
                reverse=reverse,
            )


@both
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_parity_of_any_call(assert_parity_of_any_call, recurrence, data):
    assert_parity_of_any_call(
        "cpu", data, recurrence=recurrence, steps=12, batch=21, input_size=40, hidden_size=70
    )


@both
def test_parity_over_a_long_sequence(assert_parity, recurrence):
    assert_parity("cpu", recurrence=recurrence, steps=1000, batch=5, input_size=20, hidden_size=30)


@both
@pytest.mark.parametrize("inputs", [2, 24], ids=["gates computed again", "gates kept"])
@pytest.mark.parametrize("lengths", [None, torch.tensor([0, 3, 5])])
@pytest.mark.parametrize("reverse", [False, True])
def test_gradcheck(recurrence, inputs, lengths, reverse):
    tensors = arguments(recurrence, 5, 3, inputs, 2, torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda *t: operator(recurrence)(*t, lengths=lengths, reverse=reverse), tensors
    )


@both
def test_second_derivatives(recurrence):
    tensors = arguments(recurrence, steps=3, dtype=torch.float64, requires_grad=True)
    lengths = torch.tensor([0, 2, 3])
    assert torch.autograd.gradgradcheck(
        lambda *t: operator(recurrence)(*t, lengths=lengths), tensors
    )


@both
def test_one_tensor_in_two_places_has_both_second_derivatives(recurrence):
    tensors = arguments(recurrence, steps=3, inputs=4, dtype=torch.float64)
    shared = torch.randn(1, 3, 4, dtype=torch.float64, requires_grad=True)

    def run(shared):
        return operator(recurrence)(shared, shared[0], *tensors[2:])

    assert torch.autograd.gradgradcheck(run, (shared,))


@both
@pytest.mark.parametrize("only", [0, 1], ids=["output", "last"])
def test_a_result_that_is_not_used_counts_as_zero(recurrence, only):
    tensors = arguments(recurrence, requires_grad=True)
    gradients = {}
    for name in ("cpu", "reference"):
        with ops.backend(name):
            loss = operator(recurrence)(*tensors)[only].square().sum()
            gradients[name] = torch.autograd.grad(loss, tensors)
    torch.testing.assert_close(gradients["cpu"], gradients["reference"], rtol=1e-4, atol=1e-5)


@both
def test_only_what_asks_for_a_gradient_gets_one(recurrence):
    tensors = arguments(recurrence)
    tensors[2].requires_grad_()
    output, _ = operator(recurrence)(*tensors)
    output.sum().backward()
    assert [tensor.grad is not None for tensor in tensors] == [False, False, True, False, False]


@both
@every_set
@dtypes
def test_nonlinearities_over_the_whole_range(recurrence, instructions, dtype):
    """Weights that leave h_1 = tanh(U x), and h_1 = sigmoid(U_c x) h_0."""
    low, limit = (87, 3e-7) if dtype == torch.float32 else (700, 1e-15)
    x = torch.cat(
        [
            torch.linspace(-12, 12, 20001),
            torch.linspace(-low, low, 2001),
            10.0 ** torch.arange(-37, 2),
            -(10.0 ** torch.arange(-37, 2)),
        ]
    ).to(dtype)

    def last(h_0, kernel, bias):
        given = torch.tensor([kernel], dtype=dtype), torch.tensor(bias, dtype=dtype)
        memory = torch.zeros(2 if recurrence == "brc" else (1, 2), dtype=dtype)
        state = torch.full((len(x), 1), h_0, dtype=dtype)
        with cpu.instruction_set(instructions):
            return operator(recurrence)(x.view(1, -1, 1), state, given[0], memory, given[1])[1]

    def error(value, exact):
        return ((value.double().flatten() - exact) / exact).abs().nan_to_num(0).max()  # 0 / 0 is 0

    closed, no_feedback = -1000.0, -1000.0
    tanh = last(0.0, [0.0, 0.0, 1.0], [closed, 0.0])
    assert error(tanh, torch.tanh(x.double())) < limit
    sigmoid = last(1.0, [1.0, 0.0, 0.0], [0.0, no_feedback])
    assert error(sigmoid, torch.sigmoid(x.double())) < limit
    # Where exp(-x) overflows, sigmoid is zero or next to it.
    x = torch.linspace(-1.05 * low, -low, 20001, dtype=dtype)
    sigmoid = last(1.0, [1.0, 0.0, 0.0], [0.0, no_feedback])
    assert (sigmoid >= 0).all()
    assert (sigmoid <= 2 * math.exp(-low)).all()


@both
@every_set
def test_nan_and_infinity_pass_as_in_the_reference(recurrence, instructions):
    tensors = arguments(recurrence, steps=2, batch=6, inputs=1)
    tensors[0][0, :3, 0] = torch.tensor([float("nan"), float("inf"), -float("inf")])
    tensors[1][3:, 0] = torch.tensor([float("nan"), float("inf"), -float("inf")])
    with cpu.instruction_set(instructions):
        got = operator(recurrence)(*tensors)
    with ops.backend("reference"):
        expected = operator(recurrence)(*tensors)
    torch.testing.assert_close(got, expected, equal_nan=True)


@both
def test_padding_has_no_effect_whatever_it_holds(recurrence):
    tensors = arguments(recurrence, requires_grad=True)
    lengths = torch.tensor([5, 2, 0])
    with torch.no_grad():
        tensors[0][2:, 1] = float("nan")
        tensors[0][:, 2] = float("inf")
    output, last = operator(recurrence)(*tensors, lengths=lengths)
    assert (output[2:, 1] == 0).all()
    assert torch.equal(last[2], tensors[1][2])
    for gradient in torch.autograd.grad(output.sum() + last.sum(), tensors):
        assert gradient.isfinite().all()


def results_and_gradients(recurrence, backend, tensors, cotangents, dtype, **options):
    leaves = [tensor.detach().to(dtype).requires_grad_() for tensor in tensors]
    with ops.backend(backend):
        results = operator(recurrence)(*leaves, **options)
        gradients = torch.autograd.grad(results, leaves, [c.to(dtype) for c in cotangents])
    return [*results, *gradients]


@both
@every_set
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("inputs", [2, 30], ids=["gates computed again", "gates kept"])
@pytest.mark.parametrize("hidden", [5, 12, 16])
def test_what_is_not_finite_goes_where_it_goes_in_the_reference(
    recurrence, instructions, value, inputs, hidden
):
    """One element of one tensor; the lanes that pad a gate must not hand it on."""
    for place in range(7):
        tensors = arguments(recurrence, 6, 4, inputs, hidden, torch.float64)
        cotangents = torch.randn(6, 4, hidden), torch.randn(4, hidden)
        spoilt = (*tensors, *cotangents)[place]
        spoilt.flatten()[spoilt.numel() // 2] = value  # a view
        exact = results_and_gradients(
            recurrence, "reference", tensors, cotangents, dtype=torch.float64
        )
        with cpu.instruction_set(instructions):
            got = results_and_gradients(recurrence, "cpu", tensors, cotangents, dtype=torch.float32)
        for number, (one, want) in enumerate(zip(got, exact, strict=True)):
            assert torch.equal(one.isfinite(), want.isfinite()), (place, number)
            finite = want.isfinite()
            torch.testing.assert_close(one[finite].double(), want[finite], rtol=1e-3, atol=1e-4)


@both
@every_set
@pytest.mark.parametrize("inputs", [2, 30], ids=["gates computed again", "gates kept"])
@pytest.mark.parametrize("reverse", [False, True])
def test_a_row_that_is_not_finite_leaves_all_others_alone(
    recurrence, instructions, inputs, reverse
):
    tensors = arguments(recurrence, 6, 4, inputs, 5)
    cotangents = torch.randn(6, 4, 5), torch.randn(4, 5)
    lengths = torch.tensor([6, 3, 0, 5])

    def run():
        with cpu.instruction_set(instructions):
            return results_and_gradients(
                recurrence,
                "cpu",
                tensors,
                cotangents,
                dtype=torch.float32,
                lengths=lengths,
                reverse=reverse,
            )

    expected = run()
    for row in range(4):
        others = [r for r in range(4) if r != row]
        for value in (float("nan"), float("inf")):
            kept = [tensor[..., row, :].clone() for tensor in tensors[:2]]
            for tensor in tensors[:2]:
                tensor[..., row, :] = value
            got = run()
            for number in range(4):  # output, last, and the gradients of input and h_0
                assert torch.equal(got[number][..., others, :], expected[number][..., others, :])
            if lengths[row] == 0:  # nor has it a part in the parameters' gradients
                for one, want in zip(got[4:], expected[4:], strict=True):
                    assert torch.equal(one, want)
            for tensor, values in zip(tensors, kept, strict=False):
                tensor[..., row, :] = values


@both
@every_set
@pytest.mark.parametrize("scale", [7.0, 1e2, 1e5, 1e8])
def test_large_states_cost_no_digits(recurrence, instructions, scale):
    """The candidate is told from two states only where that keeps its digits."""
    tensors = arguments(recurrence, 6, 4, 30, 12, torch.float64)
    tensors[1][1] *= scale
    tensors[3] /= scale
    tensors = [tensor.float().double() for tensor in tensors]
    cotangents = torch.randn(6, 4, 12), torch.randn(4, 12)
    exact = results_and_gradients(recurrence, "reference", tensors, cotangents, dtype=torch.float64)
    naive = results_and_gradients(recurrence, "reference", tensors, cotangents, dtype=torch.float32)
    with cpu.instruction_set(instructions):
        got = results_and_gradients(recurrence, "cpu", tensors, cotangents, dtype=torch.float32)
    for one, rough, want in zip(got, naive, exact, strict=True):
        largest = want.abs().max()
        assert (one - want).abs().max() <= 10 * (rough - want).abs().max() + 3e-6 * largest


@both
@every_set
def test_denormal_numbers_are_zero_whatever_the_caller_has_set(recurrence, instructions, request):
    """Gradients that fade; in threads of their own and in the caller's."""
    request.addfinalizer(lambda: torch.set_flush_denormal(False))
    if not torch.set_flush_denormal(False):
        pytest.skip("torch cannot set it on this processor")
    tensors = arguments(recurrence, 300, 20, 2, 40, requires_grad=True)
    denormal = torch.tensor(2.0**-130)
    gradients = []
    for mode in (True, False):
        torch.set_flush_denormal(mode)
        with cpu.instruction_set(instructions):
            _, last = operator(recurrence)(*tensors)
            gradients.append(torch.autograd.grad(last.sum(), tensors))
        assert (denormal * 1.5 == 0) == mode  # the caller's setting is still what it was
    for flushed, one in zip(*gradients, strict=True):
        assert torch.equal(flushed, one)
        assert not ((one != 0) & (one.abs() < torch.finfo(torch.float32).tiny)).any()


@both
@every_set
@dtypes
@pytest.mark.parametrize(
    ("steps", "batch", "hidden"), [(40, 29, 50), (300, 2, 71)], ids=["rows", "teams"]
)
def test_any_number_of_threads_computes_the_same(
    recurrence, instructions, dtype, steps, batch, hidden
):
    tensors = arguments(recurrence, steps, batch, 30, hidden, dtype, requires_grad=True)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3, 7):
            torch.set_num_threads(count)
            with cpu.instruction_set(instructions):
                output, last = operator(recurrence)(*tensors)
                gradients = torch.autograd.grad(output.square().sum(), tensors)
            results.append((output, last, *gradients))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        for one, same in zip(results[0][:4], other[:4], strict=True):  # to grad h_0
            assert torch.equal(one, same)
        torch.testing.assert_close(results[0][4:], other[4:], rtol=1e-3, atol=1e-3)


@both
@settings(max_examples=40)
@given(
    steps=st.integers(1, 90),
    batch=st.integers(0, 5),
    inputs=st.integers(0, 40),
    hidden=st.integers(1, 70),
    count=st.integers(1, 4),
    bias_gates=st.sampled_from([0, 2, 3]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    with_lengths=st.booleans(),
    strided=st.booleans(),
    threads=st.integers(1, 9),
)
def test_layers_at_once_are_layers_in_turn(
    recurrence,
    steps,
    batch,
    inputs,
    hidden,
    count,
    bias_gates,
    dtype,
    with_lengths,
    strided,
    threads,
):
    h_0 = torch.randn(count, batch, hidden, dtype=dtype)
    lengths = torch.randint(-1, steps + 2, (batch,)) if with_lengths else None
    input = torch.randn(batch, inputs, steps, dtype=dtype).permute(2, 0, 1)
    if not strided:
        input = input.contiguous()
    memory = (hidden, hidden) if recurrence == "nbrc" else (hidden,)
    layers, expected, last = [], input, []
    for layer in range(count):
        kernels = [torch.randn(expected.shape[2], hidden, dtype=dtype) for _ in range(3)]
        memories = [torch.randn(*memory, dtype=dtype) / hidden for _ in range(2)]
        if strided:
            kernels[1] = kernels[1].t().contiguous().t()
        biases = [torch.randn(hidden, dtype=dtype) for _ in range(bias_gates)]
        layers.append([*kernels, *memories, *biases])
        expected, last_of_layer = operator(recurrence)(
            expected,
            h_0[layer],
            torch.cat(kernels, -1),
            torch.cat(memories, -1),
            torch.cat(biases) if biases else None,
            lengths=lengths,
        )
        last.append(last_of_layer)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        with torch.no_grad():
            output, (h_n,) = ops.scan_layers(recurrence, input, (h_0,), layers, lengths)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(output, expected)
    assert torch.equal(h_n, torch.stack(last))


def two_layers(recurrence, hidden=4):
    """Arguments of a network of two layers with three inputs."""
    memory = (hidden, hidden) if recurrence == "nbrc" else (hidden,)
    layers = [
        [torch.randn(inputs, hidden) for _ in range(3)]
        + [torch.randn(*memory) for _ in range(2)]
        + [torch.randn(hidden) for _ in range(2)]
        for inputs in (3, hidden)
    ]
    return [torch.randn(5, 2, 3), torch.randn(2, 2, hidden), layers, None]


def test_a_team_of_threads_shares_one_row_bit_for_bit():
    x, _, layers, _ = two_layers("nbrc", hidden=128)
    x, h_0 = x.new_zeros(1000, 1, 3).normal_(), torch.randn(2, 1, 128)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            with torch.no_grad():
                results += [ops.scan_layers("nbrc", x, (h_0,), layers) for _ in range(5)]
    finally:
        torch.set_num_threads(before)
    for output, (last,) in results:
        assert torch.equal(output, results[0][0])
        assert torch.equal(last, results[0][1][0])


@both
def test_layers_are_run_one_by_one_where_at_once_will_not_do(recurrence):
    x, h_0, layers, lengths = two_layers(recurrence)

    def at_once(x=x, layers=layers):
        return ops.scan_layers(recurrence, x, (h_0.to(x.dtype),), layers, lengths)

    assert at_once() is None
    with torch.no_grad():
        assert at_once() is not None
        with ops.backend("reference"):
            assert at_once() is None
        seen = []
        torch.func.vmap(lambda x: seen.append(at_once()) or x)(torch.ones(2))
        assert seen == [None]
        assert at_once(layers=[layers[0], layers[1][:5]]) is None
        narrow = [[tensor.bfloat16() for tensor in layer] for layer in layers]
        assert at_once(x.bfloat16(), narrow) is None


@both
@torch.no_grad()
def test_bad_layers_are_refused(recurrence):
    def at_once(place=None, value=None):
        arguments = two_layers(recurrence)
        if place is not None:
            arguments[place] = value
        x, h_0, layers, lengths = arguments
        return ops.scan_layers(recurrence, x, (h_0,), layers, lengths)

    at_once()
    for place, value, expected in [
        (0, torch.randn(5, 2, 4), r"parameters\[0\]: expected shape \(4, 4\), got \(3, 4\)"),
        (0, torch.randn(0, 2, 3), "input: expected .* T > 0"),
        (0, torch.randn(5, 2, 3, dtype=torch.float64), "h_0: expected dtype torch.float64"),
        (0, torch.randn(5, 3), r"input: expected \(T, B, I\)"),
        (1, torch.randn(2, 3, 4), r"h_0: expected shape \(2, 2, 4\), got \(2, 3, 4\)"),
        (1, torch.randn(3, 2, 4), "parameters: expected .* a layer, got 14 for 3"),
        (1, torch.randn(2, 4), r"h_0: expected \(L, B, H\), got \(2, 4\)"),
        (3, torch.tensor([1]), "lengths: expected 2 integers"),
        (3, torch.tensor([1.0, 2.0]), "lengths: expected 2 integers"),
        (3, torch.tensor([True, False]), "lengths: expected 2 integers"),
    ]:
        with pytest.raises(ValueError, match=expected):
            at_once(place, value)
    for number in range(7):
        layers = two_layers(recurrence)[2]
        layers[1][number] = torch.randn(9, 9)
        with pytest.raises(ValueError, match=rf"parameters\[{7 + number}\]: expected shape"):
            at_once(2, layers)
        layers[1][number] = two_layers(recurrence)[2][1][number].double()
        with pytest.raises(ValueError, match=rf"parameters\[{7 + number}\]: expected dtype"):
            at_once(2, layers)
    with pytest.raises(ValueError, match=r"expected .* tensors a layer, got 12 for 2"):
        at_once(2, [layer[:6] for layer in two_layers(recurrence)[2]])


@both
def test_opcheck_of_layers(recurrence):
    x, h_0, layers, _ = two_layers(recurrence)
    parameters = [parameter for layer in layers for parameter in layer]
    scan_layers = torch.ops.brc_pytorch.scan_layers.default
    for lengths in (None, torch.tensor([3, 5])):
        torch.library.opcheck(scan_layers, (recurrence, x, [h_0], parameters, lengths))


def test_several_python_threads_at_once():
    tensors = arguments("nbrc", steps=30, batch=20, inputs=30, hidden=50)
    expected = ops.nbrc(*tensors)[0]
    results = [None] * 4

    def work(index):
        for _ in range(5):
            results[index] = ops.nbrc(*tensors)[0]

    workers = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(torch.equal(result, expected) for result in results)


def test_the_kernels_are_called_without_the_interpreter_lock():
    # ctypes.CDLL releases the lock around a call, ctypes.PyDLL would not.
    assert isinstance(interface.kernels, ctypes.CDLL)
    assert not isinstance(interface.kernels, ctypes.PyDLL)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_process_can_compute():
    script = """
import os, torch
from brc_pytorch import ops
torch.set_num_threads(2)
tensors = [torch.randn(*shape) for shape in ((40, 32, 30), (32, 50), (30, 150), (50, 100))]
expected = ops.nbrc(*tensors)[0]
child = os.fork()
if child == 0:
    os._exit(0 if torch.equal(ops.nbrc(*tensors)[0], expected) else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=600)  # noqa: S603 - our own


@pytest.mark.skipif(sys.platform != "linux", reason="a limit of Linux")
def test_threads_that_cannot_be_had_are_done_without():
    """A team, whose threads wait for each other, has one member fewer."""
    script = """
import resource, torch
from brc_pytorch import ops
tensors = [torch.randn(*shape) for shape in ((300, 1, 100), (1, 256), (100, 768), (512,))]
torch.set_num_threads(1)
expected = ops.brc(*tensors)[0]
torch.set_num_threads(4)
in_use = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
before = resource.getrlimit(resource.RLIMIT_AS)
one_stack = in_use + (12 << 20)
resource.setrlimit(resource.RLIMIT_AS, (one_stack, before[1]))
output = ops.brc(*tensors)[0]
resource.setrlimit(resource.RLIMIT_AS, before)
assert torch.equal(output, expected)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=600)  # noqa: S603 - our own


SIZES = pytest.mark.parametrize(
    "sizes",
    [{"inputs": 2, "hidden": 4}, {"inputs": 2, "hidden": 100}, {"inputs": 24}],
    ids=["no gates kept", "half of the nBRC's", "all"],
)


@both
@SIZES
@pytest.mark.parametrize("keep", [False, True])
def test_opcheck(recurrence, sizes, keep):
    x, h_0, *parameters = arguments(recurrence, **sizes)
    x, h_0, *parameters = (t.requires_grad_() for t in (x, h_0[None], *parameters))
    scan = torch.ops.brc_pytorch.scan.default
    for lengths, reverse in [(None, False), (torch.tensor([0, 3, 5]), True)]:
        given = recurrence, x, h_0, parameters, lengths, reverse, keep
        torch.library.opcheck(scan, given)
    torch.library.opcheck(scan, (recurrence, x, h_0, parameters[:2], None, False, keep))


@both
@SIZES
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("keep", [False, True])
def test_opcheck_of_the_gradients(recurrence, sizes, dtype, keep):
    x, h_0, *parameters = arguments(recurrence, **sizes, dtype=dtype)
    given = x, h_0[None], parameters, None, False
    flat = x, h_0[None], *parameters, None, None, False
    output, last, saved = torch.ops.brc_pytorch.scan(recurrence, *given, keep)
    cotangents = torch.randn_like(output), torch.randn_like(last)
    torch.library.opcheck(
        torch.ops.brc_pytorch.scan_backward.default,
        (recurrence, *cotangents, *flat, output, saved, True),
    )


@both
def test_compiled_whole_and_bitwise_equal(recurrence):
    tensors = arguments(recurrence, requires_grad=True)
    lengths = torch.tensor([0, 3, 5])
    run = operator(recurrence)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's compiler warns about itself
        compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
        results = compiled(*tensors, lengths=lengths)
    expected = run(*tensors, lengths=lengths)
    for got, want in zip(results, expected, strict=True):
        assert torch.equal(got, want)
    got = torch.autograd.grad(results[0].sum(), tensors)
    want = torch.autograd.grad(expected[0].sum(), tensors)
    assert all(map(torch.equal, got, want))


@both
def test_a_compiled_function_obeys_the_forced_backend(recurrence, monkeypatch):
    tensors = arguments(recurrence)
    compiled = torch.compile(operator(recurrence), fullgraph=True, backend="eager")
    compiled(*tensors)
    called = []
    monkeypatch.setattr(interface.kernels, "brc_forward", lambda *_: called.append(1) or 0)
    compiled(*tensors)
    assert called
    called.clear()
    with ops.backend("reference"):
        compiled(*tensors)
    assert not called


@both
def test_exported_with_any_number_of_steps_and_rows(recurrence):
    class Module(torch.nn.Module):
        def forward(self, *tensors):
            return operator(recurrence)(*tensors)

    steps, batch = torch.export.Dim("steps"), torch.export.Dim("batch")
    tensors = arguments(recurrence)
    shapes = (({0: steps, 1: batch}, {0: batch}, None, None, None),)
    exported = torch.export.export(Module(), tuple(tensors), dynamic_shapes=shapes)
    others = [*arguments(recurrence, steps=9, batch=6)[:2], *tensors[2:]]
    assert torch.equal(exported.module()(*others)[0], operator(recurrence)(*others)[0])


@both
def test_function_transforms_fall_back_to_the_reference(recurrence):
    tensors = arguments(recurrence, dtype=torch.float64)

    def loss(h_0):
        return operator(recurrence)(tensors[0], h_0, *tensors[2:])[0].square().sum()

    stacked = torch.stack([tensors[1], 2 * tensors[1]])
    mapped = torch.func.vmap(torch.func.grad(loss))(stacked)
    for h_0, gradient in zip(stacked, mapped, strict=True):
        leaf = h_0.clone().requires_grad_()
        torch.testing.assert_close(gradient, torch.autograd.grad(loss(leaf), leaf)[0])
    tangent = torch.func.jvp(loss, (tensors[1],), (torch.ones_like(tensors[1]),))[1]
    torch.testing.assert_close(tangent, torch.func.grad(loss)(tensors[1]).sum())


@both
@pytest.mark.parametrize("inputs", [2, 24], ids=["gates computed again", "gates kept"])
def test_several_gradients_at_once(recurrence, inputs):
    tensors = arguments(recurrence, inputs=inputs, dtype=torch.float64)

    def last(input):
        return operator(recurrence)(input, *tensors[1:])[1]

    one_by_one = torch.autograd.functional.jacobian(last, tensors[0])
    at_once = torch.autograd.functional.jacobian(last, tensors[0], vectorize=True)
    torch.testing.assert_close(at_once, one_by_one)


@both
def test_forward_mode_falls_back_to_the_reference(recurrence):
    tensors = arguments(recurrence, dtype=torch.float64)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(tensors[1], torch.ones_like(tensors[1]))
        last = operator(recurrence)(tensors[0], dual, *tensors[2:])[1]
        tangent = forward_ad.unpack_dual(last).tangent
    leaf = tensors[1].clone().requires_grad_()
    last = operator(recurrence)(tensors[0], leaf, *tensors[2:])[1]
    torch.testing.assert_close(tangent.sum(), torch.autograd.grad(last.sum(), leaf)[0].sum())


@both
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_types_are_computed_in_float32(recurrence, dtype):
    tensors = [tensor.to(dtype) for tensor in arguments(recurrence, steps=50)]
    output, last = operator(recurrence)(*tensors)
    exact, _ = operator(recurrence)(*(tensor.float() for tensor in tensors))
    assert output.dtype == last.dtype == dtype
    assert torch.equal(output, exact.to(dtype))


@both
def test_autocast_keeps_the_inputs_type(recurrence):
    tensors = arguments(recurrence, requires_grad=True)
    exact, _ = operator(recurrence)(*tensors)
    with torch.autocast("cpu", torch.bfloat16):
        same, _ = operator(recurrence)(*tensors)
        narrow, _ = operator(recurrence)(tensors[0].bfloat16(), *tensors[1:])
    assert torch.equal(same, exact)
    assert narrow.dtype == torch.bfloat16
    torch.testing.assert_close(narrow.float(), exact, rtol=0.05, atol=0.05)
    assert all(g.dtype == torch.float32 for g in torch.autograd.grad(narrow.sum(), tensors))


def test_an_unknown_instruction_set_is_refused():
    with pytest.raises(ValueError, match="expected one of"), cpu.instruction_set("abacus"):
        pytest.fail("the block must not be entered")


@both
def test_an_output_changed_in_place_is_noticed(recurrence):
    tensors = arguments(recurrence, requires_grad=True)
    output, last = operator(recurrence)(*tensors)
    with torch.no_grad():
        output.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        last.sum().backward()


def test_missing_kernels_are_announced_once(monkeypatch):
    monkeypatch.setattr(backends.choice, "chosen", {})
    monkeypatch.setattr(backends, "_said", set())
    with pytest.warns(RuntimeWarning, match="no compiled kernels"):
        ops.nbrc(*arguments("nbrc"))
    ops.nbrc(*arguments("nbrc"))


def test_the_sources_alone_work_through_the_reference(tmp_path):
    root = Path(backends.__file__).parents[1]
    (tmp_path / "brc_pytorch").symlink_to(root)
    script = """
import sys, warnings
sys.path = [entry for entry in sys.path if "editable" not in str(entry)]
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in type(finder).__module__]
sys.path.insert(0, sys.argv[1])
import torch
from brc_pytorch import ops
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(2):
        ops.brc(torch.zeros(2, 1, 1), torch.zeros(1, 1), torch.zeros(1, 3), torch.zeros(2))
print(len([w for w in caught if "compiled kernels" in str(w.message)]), ops.cpu.instruction_sets())
"""
    if any(root.glob("ops/*brc_cpu.*")):
        pytest.skip("the kernels lie beside the sources")
    command = [sys.executable, "-c", script, str(tmp_path)]
    result = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
    assert result.stdout.strip() == "1 []"


@both
def test_gates_that_are_cheap_are_not_kept(recurrence):
    kept = []

    def keep(tensor):
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        tensors = arguments(
            recurrence, steps=1000, batch=1, inputs=1, hidden=16, requires_grad=True
        )
        operator(recurrence)(*tensors)
    assert 1000 * (1 + 16) <= sum(kept) < 1000 * (1 + 16) * 1.1  # the input and the output


def test_gates_are_kept_for_half_of_the_steps_where_the_inputs_part_is_cheap():
    kept = []

    def keep(tensor):
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        ops.nbrc(*arguments("nbrc", steps=1001, batch=2, hidden=100, requires_grad=True))
    assert 500 * 2 * 200 in kept


@both
def test_a_graph_that_is_kept_gives_the_same_gradients_again(recurrence):
    """The last backward pass writes a gradient over what the forward pass kept; no other may."""
    tensors = arguments(recurrence, inputs=30, hidden=20, requires_grad=True)
    output, last = operator(recurrence)(*tensors)
    loss = output.square().sum() + last.sum()
    first = torch.autograd.grad(loss, tensors, retain_graph=True)
    again = torch.autograd.grad(loss, tensors, retain_graph=True)
    final = torch.autograd.grad(loss, tensors)
    for one, two, three in zip(first, again, final, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, three)
