"""The recurrences against the written equations, and against themselves another way."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from brc_pytorch import ops

BISTABLE = {"BRC": ops.brc, "nBRC": ops.nbrc}
STEPS = {"BRC": ops.brc_step, "nBRC": ops.nbrc_step}
GATES = {"BRC": ops.brc_gates, "nBRC": ops.nbrc_gates}
TORCHS = {"GRU": nn.GRU, "LSTM": nn.LSTM}
RECURRENCES = [*BISTABLE, *TORCHS]


def states_of(recurrence):
    return 2 if recurrence == "LSTM" else 1


def scan(recurrence, x, *rest, **options):
    """Run a recurrence: its arguments and its results one after the other."""
    if recurrence != "LSTM":
        return getattr(ops, recurrence.lower())(x, *rest, **options)
    output, last = ops.lstm(x, rest[:2], *rest[2:], **options)
    return output, *last


def draw(recurrence, steps, batch, features, hidden, *, seed=0, dtype=torch.float64, scale=1.0):
    """Random arguments of an operator: input, states, kernel, memory, bias."""
    generator = torch.Generator().manual_seed(seed)
    memory_gates, bias_gates = {"BRC": (2, 2), "nBRC": (2, 2), "GRU": (3, 6), "LSTM": (4, 8)}[
        recurrence
    ]
    memory = (memory_gates * hidden,)
    shapes = [
        (steps, batch, features),
        *[(batch, hidden)] * states_of(recurrence),
        (features, max(memory_gates, 3) * hidden),
        memory if recurrence == "BRC" else (hidden, *memory),
        (bias_gates * hidden,),
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


@pytest.mark.parametrize("recurrence", BISTABLE)
def test_scan_and_step_follow_the_paper(recurrence):
    arguments = draw(recurrence, 6, 3, 2, 4)
    x, h_0, *parameters = arguments
    output, last = scan(recurrence, *arguments)
    plain = [parameter.tolist() for parameter in parameters]
    for row in range(3):
        state = h_0[row].tolist()
        for t in range(6):
            state = by_hand(recurrence, x[t, row].tolist(), state, *plain)
            assert output[t, row].tolist() == pytest.approx(state, rel=1e-12)
        assert last[row].tolist() == pytest.approx(state, rel=1e-12)
    torch.testing.assert_close(STEPS[recurrence](x[0], h_0, *parameters), output[0])


@pytest.mark.parametrize("recurrence", RECURRENCES)
def test_no_bias_is_a_zero_bias(recurrence):
    *others, bias = draw(recurrence, 4, 2, 3, 5)
    with_zeros = scan(recurrence, *others, torch.zeros_like(bias))
    torch.testing.assert_close(scan(recurrence, *others), with_zeros)


@pytest.mark.parametrize("recurrence", BISTABLE)
def test_gates_of_a_whole_sequence_rebuild_its_outputs(recurrence):
    arguments = draw(recurrence, 6, 3, 2, 4)
    x, h_0, kernel, *memory = arguments
    output, _ = scan(recurrence, *arguments)
    previous = torch.cat((h_0.unsqueeze(0), output[:-1]))
    a, c = GATES[recurrence](x, previous, kernel, *memory)
    assert bool(((a > 0) & (a < 2) & (c > 0) & (c < 1)).all())
    candidate = torch.tanh(x @ kernel[:, 8:] + a * previous)
    torch.testing.assert_close(c * previous + (1 - c) * candidate, output)


@pytest.mark.parametrize("recurrence", RECURRENCES)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", [None, [4, 1, 0]])
def test_first_and_second_derivatives(recurrence, reverse, lengths):
    arguments = [each.requires_grad_() for each in draw(recurrence, 4, 3, 2, 3)]
    lengths = None if lengths is None else torch.tensor(lengths)

    def run(*arguments):
        return scan(recurrence, *arguments, lengths=lengths, reverse=reverse)

    assert torch.autograd.gradcheck(run, arguments, check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, arguments, fast_mode=True)


@pytest.mark.parametrize("recurrence", RECURRENCES)
def test_vmap_over_networks(recurrence):
    """An ensemble: the same input, several sets of parameters."""
    several = [draw(recurrence, 5, 2, 3, 4, seed=seed) for seed in range(3)]
    x = several[0][0]
    stacked = [torch.stack(each) for each in zip(*(one[1:] for one in several), strict=True)]
    results = torch.func.vmap(lambda *rest: scan(recurrence, x, *rest))(*stacked)
    for seed, (_, *rest) in enumerate(several):
        for result, expected in zip(results, scan(recurrence, x, *rest), strict=True):
            torch.testing.assert_close(result[seed], expected)


@pytest.mark.parametrize("recurrence", RECURRENCES)
def test_reverse_is_the_sequence_turned_around(recurrence):
    x, *rest = draw(recurrence, 6, 3, 2, 4)
    output, *last = scan(recurrence, x, *rest, reverse=True)
    turned, *turned_last = scan(recurrence, x.flip(0), *rest)
    torch.testing.assert_close(output, turned.flip(0))
    torch.testing.assert_close(last, turned_last)


@given(
    recurrence=st.sampled_from(RECURRENCES),
    lengths=st.lists(st.integers(0, 6), min_size=1, max_size=4),
    reverse=st.booleans(),
    seed=st.integers(0, 100),
)
def test_each_row_of_a_padded_batch_is_as_if_alone(recurrence, lengths, reverse, seed):
    arguments = draw(recurrence, 6, len(lengths), 2, 3, seed=seed)
    count = states_of(recurrence)
    x, states, parameters = arguments[0], arguments[1 : 1 + count], arguments[1 + count :]
    for row, length in enumerate(lengths):
        x[length:, row] = math.nan  # padding may hold anything
    for each in arguments:
        each.requires_grad_()
    results = scan(recurrence, *arguments, lengths=torch.tensor(lengths), reverse=reverse)
    cotangents = [torch.randn_like(result) for result in results]
    gradients = torch.autograd.grad(results, arguments, cotangents)

    expected = [torch.zeros_like(each) for each in arguments]
    for row, length in enumerate(lengths):
        assert not results[0][length:, row].any()
        own = slice(row, row + 1)
        if length == 0:
            for place, state in enumerate(states, 1):
                torch.testing.assert_close(results[place][row], state[row])
                expected[place][row] += cotangents[place][row]
            continue
        alone = [x[:length, own], *(state[own] for state in states)]
        alone = [each.detach().requires_grad_() for each in alone]
        outputs = scan(recurrence, *alone, *parameters, reverse=reverse)
        in_batch = [results[0][:length, own], *(last[own] for last in results[1:])]
        torch.testing.assert_close([*outputs], in_batch)
        of_row = [cotangents[0][:length, own], *(each[own] for each in cotangents[1:])]
        into = [expected[0][:length, own], *(each[own] for each in expected[1 : 1 + count])]
        into += expected[1 + count :]
        row_gradients = torch.autograd.grad(outputs, [*alone, *parameters], of_row)
        for total, gradient in zip(into, row_gradients, strict=True):
            total.add_(gradient)
    torch.testing.assert_close(gradients, tuple(expected))


@given(seed=st.integers(0, 1000), scale=st.floats(0, 50), recurrence=st.sampled_from(RECURRENCES))
def test_a_state_in_the_unit_interval_stays_there(seed, scale, recurrence):
    x, h_0, *parameters = draw(recurrence, 20, 2, 2, 3, seed=seed, scale=scale)
    output, *_ = scan(recurrence, x, h_0.clamp(-1, 1), *parameters)
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


@pytest.mark.parametrize("recurrence", RECURRENCES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_stays_near_double(recurrence, dtype):
    exact = draw(recurrence, 8, 3, 2, 4, scale=0.5)
    results = scan(recurrence, *(each.to(dtype) for each in exact))
    tolerance = 30 * torch.finfo(dtype).eps
    for result, expected in zip(results, scan(recurrence, *exact), strict=True):
        assert result.dtype == dtype
        torch.testing.assert_close(result.double(), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("recurrence", RECURRENCES)
def test_strided_arguments_give_the_same(recurrence):
    arguments = draw(recurrence, 6, 3, 2, 4)
    strided = [
        each.repeat_interleave(2)[::2] if each.dim() == 1 else each.mT.contiguous().mT
        for each in arguments
    ]
    torch.testing.assert_close(scan(recurrence, *strided), scan(recurrence, *arguments))


@pytest.mark.parametrize("recurrence", TORCHS)
@pytest.mark.parametrize("bias", [True, False])
def test_layers_in_one_call_are_torchs(recurrence, bias):
    network = TORCHS[recurrence](2, 4, 2, bias=bias, dtype=torch.float64)
    states = [torch.randn(2, 3, 4, dtype=torch.float64) for _ in range(states_of(recurrence))]
    x = torch.randn(6, 3, 2, dtype=torch.float64)
    parameters = [each.T if each.dim() > 1 else each for each in network.parameters()]
    with torch.no_grad():
        output, last = torch.ops.brc_pytorch.scan_layers(
            recurrence.lower(), x, states, parameters, None
        )
        expected, expected_last = network(x, tuple(states) if len(states) > 1 else states[0])
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(last, [*expected_last] if len(states) > 1 else [expected_last])


@pytest.mark.parametrize("recurrence", TORCHS)
@pytest.mark.parametrize("bias", [True, False])
def test_the_equations_are_torchs(recurrence, bias):
    """Output, last states and every gradient; in float64, so that nothing but rounding differs."""
    network = TORCHS[recurrence](2, 4, bias=bias, dtype=torch.float64)
    x, *states = draw(recurrence, 6, 3, 2, 4)[: 1 + states_of(recurrence)]
    leaves = [each.requires_grad_() for each in (x, *states)]
    weights = [*network.parameters()]
    batch_of_one = tuple(state.unsqueeze(0) for state in states)
    output, last = network(x, batch_of_one if len(states) > 1 else batch_of_one[0])
    expected = output, *(each.squeeze(0) for each in (last if len(states) > 1 else (last,)))
    parameters = [weights[0].T, weights[1].T] + ([torch.cat(weights[2:])] if bias else [])
    results = scan(recurrence, *leaves, *parameters)
    torch.testing.assert_close(results, expected)
    cotangents = [torch.randn_like(each) for each in expected]
    torch.testing.assert_close(
        torch.autograd.grad(results, [*leaves, *weights], cotangents),
        torch.autograd.grad(expected, [*leaves, *weights], cotangents),
    )


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
