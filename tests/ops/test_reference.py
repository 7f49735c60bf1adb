"""The recurrences against the written equations, and against themselves another way."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from brc_pytorch import ops

SCANS = {"BRC": ops.brc, "nBRC": ops.nbrc}
STEPS = {"BRC": ops.brc_step, "nBRC": ops.nbrc_step}
GATES = {"BRC": ops.brc_gates, "nBRC": ops.nbrc_gates}


def draw(recurrence, steps, batch, features, hidden, *, seed=0, dtype=torch.float64, scale=1.0):
    """Random arguments of an operator: input, h_0, kernel, memory, bias."""
    generator = torch.Generator().manual_seed(seed)
    memory = (2 * hidden,) if recurrence == "BRC" else (hidden, 2 * hidden)
    shapes = [
        (steps, batch, features),
        (batch, hidden),
        (features, 3 * hidden),
        memory,
        (2 * hidden,),
    ]
    return [
        (scale * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)
        for shape in shapes
    ]


def by_hand(recurrence, x, h, kernel, memory, bias):
    """The paper's equations for one row, with Python's own floats."""
    size, features = len(h), len(x)

    def drive(gate, unit):
        return sum(x[i] * kernel[i][gate * size + unit] for i in range(features))

    def feedback(gate, unit):
        if recurrence == "BRC":
            return memory[gate * size + unit] * h[unit]
        return sum(h[j] * memory[j][gate * size + unit] for j in range(size))

    result = []
    for unit in range(size):
        c = 1 / (1 + math.exp(-(drive(0, unit) + feedback(0, unit) + bias[unit])))
        a = 1 + math.tanh(drive(1, unit) + feedback(1, unit) + bias[size + unit])
        result.append(c * h[unit] + (1 - c) * math.tanh(drive(2, unit) + a * h[unit]))
    return result


@pytest.mark.parametrize("recurrence", SCANS)
def test_scan_and_step_follow_the_paper(recurrence):
    arguments = draw(recurrence, 6, 3, 2, 4)
    x, h_0, *parameters = arguments
    output, last = SCANS[recurrence](*arguments)
    plain = [parameter.tolist() for parameter in parameters]
    for row in range(3):
        state = h_0[row].tolist()
        for t in range(6):
            state = by_hand(recurrence, x[t, row].tolist(), state, *plain)
            assert output[t, row].tolist() == pytest.approx(state, rel=1e-12)
        assert last[row].tolist() == pytest.approx(state, rel=1e-12)
    torch.testing.assert_close(STEPS[recurrence](x[0], h_0, *parameters), output[0])


@pytest.mark.parametrize("recurrence", SCANS)
def test_no_bias_is_a_zero_bias(recurrence):
    x, h_0, kernel, memory, bias = draw(recurrence, 4, 2, 3, 5)
    with_zeros = SCANS[recurrence](x, h_0, kernel, memory, torch.zeros_like(bias))
    torch.testing.assert_close(SCANS[recurrence](x, h_0, kernel, memory), with_zeros)


@pytest.mark.parametrize("recurrence", SCANS)
def test_gates_of_a_whole_sequence_rebuild_its_outputs(recurrence):
    arguments = draw(recurrence, 6, 3, 2, 4)
    x, h_0, kernel, *memory = arguments
    output, _ = SCANS[recurrence](*arguments)
    previous = torch.cat((h_0.unsqueeze(0), output[:-1]))
    a, c = GATES[recurrence](x, previous, kernel, *memory)
    assert bool(((a > 0) & (a < 2) & (c > 0) & (c < 1)).all())
    candidate = torch.tanh(x @ kernel[:, 8:] + a * previous)
    torch.testing.assert_close(c * previous + (1 - c) * candidate, output)


@pytest.mark.parametrize("recurrence", SCANS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", [None, [4, 1, 0]])
def test_first_and_second_derivatives(recurrence, reverse, lengths):
    arguments = [each.requires_grad_() for each in draw(recurrence, 4, 3, 2, 3)]
    lengths = None if lengths is None else torch.tensor(lengths)

    def scan(*arguments):
        return SCANS[recurrence](*arguments, lengths=lengths, reverse=reverse)

    assert torch.autograd.gradcheck(scan, arguments, check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(scan, arguments, fast_mode=True)


@pytest.mark.parametrize("recurrence", SCANS)
def test_vmap_over_networks(recurrence):
    """An ensemble: the same input, several sets of parameters."""
    several = [draw(recurrence, 5, 2, 3, 4, seed=seed) for seed in range(3)]
    x = several[0][0]
    stacked = [torch.stack(each) for each in zip(*(one[1:] for one in several), strict=True)]
    output, last = torch.func.vmap(lambda *rest: SCANS[recurrence](x, *rest))(*stacked)
    for seed, (_, *rest) in enumerate(several):
        expected, expected_last = SCANS[recurrence](x, *rest)
        torch.testing.assert_close(output[seed], expected)
        torch.testing.assert_close(last[seed], expected_last)


@pytest.mark.parametrize("recurrence", SCANS)
def test_reverse_is_the_sequence_turned_around(recurrence):
    x, *rest = draw(recurrence, 6, 3, 2, 4)
    output, last = SCANS[recurrence](x, *rest, reverse=True)
    turned, turned_last = SCANS[recurrence](x.flip(0), *rest)
    torch.testing.assert_close(output, turned.flip(0))
    torch.testing.assert_close(last, turned_last)


@given(
    recurrence=st.sampled_from([*SCANS]),
    lengths=st.lists(st.integers(0, 6), min_size=1, max_size=4),
    reverse=st.booleans(),
    seed=st.integers(0, 100),
)
def test_each_row_of_a_padded_batch_is_as_if_alone(recurrence, lengths, reverse, seed):
    arguments = draw(recurrence, 6, len(lengths), 2, 3, seed=seed)
    x, h_0, *parameters = arguments
    for row, length in enumerate(lengths):
        x[length:, row] = math.nan  # padding may hold anything
    for each in arguments:
        each.requires_grad_()
    output, last = SCANS[recurrence](*arguments, lengths=torch.tensor(lengths), reverse=reverse)
    cotangents = torch.randn_like(output), torch.randn_like(last)
    gradients = torch.autograd.grad((output, last), arguments, cotangents)

    expected = [torch.zeros_like(each) for each in arguments]
    for row, length in enumerate(lengths):
        assert not output[length:, row].any()
        if length == 0:
            torch.testing.assert_close(last[row], h_0[row])
            expected[1][row] += cotangents[1][row]
            continue
        alone = [x[:length, row : row + 1].detach(), h_0[row : row + 1].detach()]
        alone = [each.requires_grad_() for each in alone]
        outputs = SCANS[recurrence](*alone, *parameters, reverse=reverse)
        torch.testing.assert_close(outputs[0][:, 0], output[:length, row])
        torch.testing.assert_close(outputs[1][0], last[row])
        row_cotangents = cotangents[0][:length, row : row + 1], cotangents[1][row : row + 1]
        row_gradients = torch.autograd.grad(outputs, [*alone, *parameters], row_cotangents)
        expected[0][:length, row] += row_gradients[0][:, 0]
        expected[1][row] += row_gradients[1][0]
        for index in (2, 3, 4):
            expected[index] += row_gradients[index]
    torch.testing.assert_close(gradients, tuple(expected))


@given(seed=st.integers(0, 1000), scale=st.floats(0, 50), recurrence=st.sampled_from([*SCANS]))
def test_a_state_in_the_unit_interval_stays_there(seed, scale, recurrence):
    x, h_0, *parameters = draw(recurrence, 20, 2, 2, 3, seed=seed, scale=scale)
    output, _ = SCANS[recurrence](x, h_0.clamp(-1, 1), *parameters)
    assert bool((output.abs() <= 1).all())


def test_a_bistable_unit_holds_its_sign_and_a_monostable_one_forgets():
    """What the cell is for: with a > 1 two states are stable, with a < 1 only zero is."""
    x = torch.zeros(2000, 2, 1, dtype=torch.float64)
    h_0 = torch.tensor([[0.1], [-0.1]], dtype=torch.float64)
    kernel, memory = torch.zeros(1, 3, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    for feedback, stays in ((0.5, True), (-0.5, False)):
        bias = torch.tensor([0, math.atanh(feedback)], dtype=torch.float64)
        _, last = ops.brc(x, h_0, kernel, memory, bias)
        if stays:
            fixed_point = last[0, 0].item()
            assert fixed_point > 0.8
            assert fixed_point == pytest.approx(math.tanh((1 + feedback) * fixed_point))
            assert last[1, 0].item() == pytest.approx(-fixed_point)
        else:
            assert last.abs().max().item() < 1e-12


@pytest.mark.parametrize("recurrence", SCANS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_stays_near_double(recurrence, dtype):
    exact = draw(recurrence, 8, 3, 2, 4, scale=0.5)
    output, last = SCANS[recurrence](*(each.to(dtype) for each in exact))
    expected, expected_last = SCANS[recurrence](*exact)
    tolerance = 30 * torch.finfo(dtype).eps
    assert output.dtype == last.dtype == dtype
    torch.testing.assert_close(output.double(), expected, rtol=0, atol=tolerance)
    torch.testing.assert_close(last.double(), expected_last, rtol=0, atol=tolerance)


def test_strided_arguments_give_the_same():
    x, h_0, kernel, memory, bias = draw("nBRC", 6, 3, 2, 4)
    expected = ops.nbrc(x, h_0, kernel, memory, bias)
    strided = (
        x.transpose(0, 1).contiguous().transpose(0, 1),
        h_0.T.contiguous().T,
        kernel.repeat(1, 2)[:, :12],
        memory.T.contiguous().T,
        bias.repeat_interleave(2)[::2],
    )
    torch.testing.assert_close(ops.nbrc(*strided), expected)


def test_peephole_lstm_follows_its_equations():
    generator = torch.Generator().manual_seed(0)
    shapes = {"x": (2,), "h": (3,), "c": (3,), "k": (2, 12), "m": (3, 12), "p": (3, 9), "b": (12,)}
    drawn = {
        name: torch.randn(shape, generator=generator, dtype=torch.float64)
        for name, shape in shapes.items()
    }
    x, h, c, kernel, memory, peephole, bias = drawn.values()
    hidden, cell = ops.peephole_lstm_step(x, (h, c), kernel, memory, peephole, bias)

    def gate(index, state, window):
        columns = slice(3 * index, 3 * index + 3)
        drive = x @ kernel[:, columns] + h @ memory[:, columns] + bias[columns]
        return drive if window is None else torch.sigmoid(drive + state @ peephole[:, window])

    expected = gate(0, c, slice(0, 3)) * c + gate(1, c, slice(3, 6)) * torch.tanh(gate(2, c, None))
    torch.testing.assert_close(cell, expected)
    torch.testing.assert_close(hidden, gate(3, expected, slice(6, 9)) * torch.tanh(expected))
