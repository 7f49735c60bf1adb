"""The compiled CPU kernels with numbers that are not finite, huge or denormal."""

import math

import pytest
import torch

from brc_pytorch import ops
from brc_pytorch.ops import cpu
from tests.ops.cpu_calls import (
    arguments,
    both,
    dtypes,
    every_recurrence,
    every_set,
    needs_kernels,
    operator,
)

pytestmark = needs_kernels


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


@every_recurrence
@every_set
def test_nan_and_infinity_pass_as_in_the_reference(recurrence, instructions):
    tensors = arguments(recurrence, steps=2, batch=6, inputs=1)
    tensors[0][0, :3, 0] = torch.tensor([float("nan"), float("inf"), -float("inf")])
    tensors[1][..., 3:, 0] = torch.tensor([float("nan"), float("inf"), -float("inf")])
    with cpu.instruction_set(instructions):
        got = operator(recurrence)(*tensors)
    with ops.backend("reference"):
        expected = operator(recurrence)(*tensors)
    torch.testing.assert_close(got, expected, equal_nan=True)


@every_recurrence
def test_padding_has_no_effect_whatever_it_holds(recurrence):
    tensors = arguments(recurrence, requires_grad=True)
    lengths = torch.tensor([5, 2, 0])
    with torch.no_grad():
        tensors[0][2:, 1] = float("nan")
        tensors[0][:, 2] = float("inf")
    output, last = operator(recurrence)(*tensors, lengths=lengths)
    assert (output[2:, 1] == 0).all()
    assert torch.equal(last[..., 2, :], tensors[1][..., 2, :])
    for gradient in torch.autograd.grad(output.sum() + last.sum(), tensors):
        assert gradient.isfinite().all()


def results_and_gradients(recurrence, backend, tensors, cotangents, dtype, **options):
    leaves = [tensor.detach().to(dtype).requires_grad_() for tensor in tensors]
    with ops.backend(backend):
        results = operator(recurrence)(*leaves, **options)
        gradients = torch.autograd.grad(results, leaves, [c.to(dtype) for c in cotangents])
    return [*results, *gradients]


@every_recurrence
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
        cotangents = torch.randn(6, 4, hidden), torch.randn_like(tensors[1])
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


@every_recurrence
@every_set
@pytest.mark.parametrize("inputs", [2, 30], ids=["gates computed again", "gates kept"])
@pytest.mark.parametrize("reverse", [False, True])
def test_a_row_that_is_not_finite_leaves_all_others_alone(
    recurrence, instructions, inputs, reverse
):
    tensors = arguments(recurrence, 6, 4, inputs, 5)
    cotangents = torch.randn(6, 4, 5), torch.randn_like(tensors[1])
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


@every_recurrence
@every_set
@pytest.mark.parametrize("scale", [7.0, 1e2, 1e5, 1e8])
def test_large_states_cost_no_digits(recurrence, instructions, scale):
    """The candidate is told from two states only where that keeps its digits."""
    tensors = arguments(recurrence, 6, 4, 30, 12, torch.float64)
    tensors[1][..., 1, :] *= scale
    tensors[3] /= scale
    tensors = [tensor.float().double() for tensor in tensors]
    cotangents = torch.randn(6, 4, 12), torch.randn_like(tensors[1])
    exact = results_and_gradients(recurrence, "reference", tensors, cotangents, dtype=torch.float64)
    naive = results_and_gradients(recurrence, "reference", tensors, cotangents, dtype=torch.float32)
    with cpu.instruction_set(instructions):
        got = results_and_gradients(recurrence, "cpu", tensors, cotangents, dtype=torch.float32)
    for one, rough, want in zip(got, naive, exact, strict=True):
        largest = want.abs().max()
        assert (one - want).abs().max() <= 10 * (rough - want).abs().max() + 3e-6 * largest


@every_recurrence
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
