"""Segments inside a sequence: each is what it would be alone, and nothing leaks across."""

import dataclasses
import math

import pytest
import torch

from brc_pytorch import ops
from brc_pytorch.ops import backends, cpu
from tests.ops.cpu_calls import (
    arguments,
    both,
    every_recurrence,
    every_set,
    needs_kernels,
    operator,
    stacked,
)

directions = pytest.mark.parametrize("reverse", [False, True])


def segments(resets, reverse):
    """Each segment's first step and end, and whether it starts from the initial states."""
    begins = sorted({0, *resets.nonzero().flatten().tolist()})
    ends = [*begins[1:], len(resets)]
    for begin, end in zip(begins, ends, strict=True):
        starts_first = end == len(resets) if reverse else begin == 0 and not resets[0]
        yield begin, end, starts_first


def mask(steps, batch, share=0.3):
    return torch.rand(steps, batch) < share


@needs_kernels
@every_set
@every_recurrence
@directions
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("steps", "batch", "inputs", "hidden"), [(9, 3, 2, 5), (300, 2, 30, 70)])
def test_a_segment_has_the_bits_that_it_has_alone(
    instructions, recurrence, reverse, threads, steps, batch, inputs, hidden
):
    """The second size is large enough for teams of threads and several chunks."""
    tensors = arguments(recurrence, steps, batch, inputs, hidden)
    input, states, *parameters = tensors
    resets, reset_states = mask(steps, batch, 0.1), torch.randn_like(states)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with cpu.instruction_set(instructions):
            output, last = operator(recurrence)(
                *tensors, reverse=reverse, resets=resets, reset_states=reset_states
            )
            for row in range(batch):
                for begin, end, starts_first in segments(resets[:, row], reverse):
                    first = (states if starts_first else reset_states)[..., row : row + 1, :]
                    alone = input[begin:end, row : row + 1]
                    want, want_last = operator(recurrence)(
                        alone, first, *parameters, reverse=reverse
                    )
                    assert torch.equal(output[begin:end, row], want[:, 0])
                    if (begin == 0) if reverse else (end == steps):
                        assert torch.equal(last[..., row, :], want_last[..., 0, :])
    finally:
        torch.set_num_threads(before)


@every_recurrence
@directions
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_gradients_are_those_of_the_segments_alone(recurrence, reverse, backend):
    if backend not in backends.choice.backends:
        pytest.skip("this installation has no compiled kernels")
    steps, batch = 11, 2
    tensors = arguments(recurrence, steps, batch, 3, 4, torch.float64, requires_grad=True)
    input, states, *parameters = tensors
    reset_states = torch.randn_like(states).requires_grad_()
    resets, cotangent = mask(steps, batch), torch.randn(steps, batch, 4, dtype=torch.float64)
    leaves = [*tensors, reset_states]
    with ops.backend(backend):
        output, _ = operator(recurrence)(
            *tensors, reverse=reverse, resets=resets, reset_states=reset_states
        )
        got = torch.autograd.grad((output * cotangent).sum(), leaves)
        loss = torch.zeros((), dtype=torch.float64)
        for row in range(batch):
            for begin, end, starts_first in segments(resets[:, row], reverse):
                first = (states if starts_first else reset_states)[..., row : row + 1, :]
                alone = input[begin:end, row : row + 1]
                part, _ = operator(recurrence)(alone, first, *parameters, reverse=reverse)
                loss = loss + (part * cotangent[begin:end, row : row + 1]).sum()
        want = torch.autograd.grad(loss, leaves)
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other)


@every_recurrence
@directions
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("inputs", [2, 30], ids=["gates computed again", "gates kept"])
def test_nothing_leaks_out_of_a_segment(recurrence, reverse, bad, backend, inputs):
    if backend not in backends.choice.backends:
        pytest.skip("this installation has no compiled kernels")
    steps, begin, end = 9, 3, 6
    tensors = arguments(recurrence, steps, 2, inputs, 4, requires_grad=True)
    resets = torch.zeros(steps, 2, dtype=torch.bool)
    resets[begin, 0] = resets[end, 0] = True
    spoiled = tensors[0].detach().clone()
    spoiled[begin:end, 0] = bad
    found = []
    with ops.backend(backend):
        for input in (tensors[0].detach(), spoiled):
            input.requires_grad_()
            output, last = operator(recurrence)(input, *tensors[1:], reverse=reverse, resets=resets)
            loss = output.sum() + last.sum()
            found.append([output, *torch.autograd.grad(loss, [input, tensors[1]])])
    inside = torch.zeros(steps, 2, dtype=torch.bool)
    inside[begin:end, 0] = True
    for clean, other in zip(found[0][:2], found[1][:2], strict=True):
        assert torch.equal(clean[~inside], other[~inside])
    assert torch.equal(found[0][2], found[1][2])


@every_recurrence
@directions
@pytest.mark.parametrize("lengths", [None, torch.tensor([0, 3, 5])])
def test_gradcheck(recurrence, reverse, lengths):
    tensors = arguments(recurrence, 5, 3, 2, 2, torch.float64, requires_grad=True)
    reset_states = torch.randn_like(tensors[1]).requires_grad_()
    options = {"lengths": lengths, "reverse": reverse, "resets": mask(5, 3, 0.5)}

    def run(reset_states, *tensors):
        return operator(recurrence)(*tensors, reset_states=reset_states, **options)

    assert torch.autograd.gradcheck(run, (reset_states, *tensors))


@both
def test_second_derivatives(recurrence):
    tensors = arguments(recurrence, 3, 2, 2, 2, torch.float64, requires_grad=True)
    reset_states = torch.randn_like(tensors[1]).requires_grad_()
    resets = mask(3, 2, 0.5)

    def run(reset_states, *tensors):
        return operator(recurrence)(*tensors, reset_states=reset_states, resets=resets)

    assert torch.autograd.gradgradcheck(run, (reset_states, *tensors))


@pytest.mark.parametrize("recurrence", ["nbrc", "lstm"])
def test_opcheck(recurrence):
    input, states, *parameters = arguments(recurrence, 4, 3, requires_grad=True)
    states = stacked(states).detach().requires_grad_()
    reset_states = torch.randn_like(states).requires_grad_()
    given = recurrence, input, states, parameters, torch.tensor([4, 2, 0]), True, True
    torch.library.opcheck(torch.ops.brc_pytorch.scan.default, (*given, mask(4, 3), reset_states))


@every_recurrence
@pytest.mark.parametrize("with_states", [False, True])
def test_several_layers_at_once_are_one_after_the_other(recurrence, with_states):
    input, states, kernel, memory, bias = arguments(recurrence, 7, 3, 4, 4)
    known = backends.RECURRENCES[recurrence]
    parts = (kernel, memory, bias)
    if known.apart == 1:
        parts = [gate.contiguous() for part in parts for gate in part.split(4, dim=-1)]
    else:
        parts = [kernel, memory, *bias.chunk(2)]
    resets = mask(7, 3)
    both_states = torch.stack((stacked(states), -stacked(states)), 1).unbind()
    reset_states = tuple(torch.randn_like(state) for state in both_states) if with_states else None
    with torch.no_grad():
        found = ops.scan_layers(
            recurrence, input, both_states, [parts, parts], None, resets, reset_states
        )
        if found is None:
            pytest.skip("this installation has no compiled kernels")
        output = input
        for layer in range(2):
            first = tuple(state[layer] for state in both_states)
            reset = None if reset_states is None else tuple(s[layer] for s in reset_states)
            given = (kernel, memory, bias), None, False, resets, reset
            output, last = ops.scan(recurrence, output, first, *given)
            for one, other in zip(found[1], last, strict=True):
                assert torch.equal(one[layer], other)
    assert torch.equal(found[0], output)


@pytest.mark.parametrize(
    ("resets", "expected"),
    [
        (torch.zeros(5, 2), "resets: expected dtype torch.bool, got torch.float32"),
        (torch.zeros(2, 5, dtype=torch.bool), r"resets: expected shape \(5, 2\), got \(2, 5\)"),
        (torch.zeros(5, 2, dtype=torch.bool, device="meta"), "resets: expected device cpu, got me"),
        (torch.zeros(5, 2, dtype=torch.bool).to_sparse(), "resets: expected a dense tensor"),
    ],
)
@pytest.mark.parametrize("name", ["reference", None])
def test_bad_resets_are_refused(resets, expected, name):
    tensors = arguments("nbrc", 5, 2)
    with ops.backend(name or ops.backend_for(torch.device("cpu"))):
        with pytest.raises(ValueError, match=expected):
            ops.nbrc(*tensors, resets=resets)
        with pytest.raises(ValueError, match=r"reset_states: expected shape \(1, 2, 4\)"):
            ops.nbrc(*tensors, resets=mask(5, 2), reset_state=torch.zeros(2, 3))
        with pytest.raises(ValueError, match="reset_states: expected resets beside them, got none"):
            ops.nbrc(*tensors, reset_state=torch.zeros(2, 4))
        tensors[2].requires_grad_()
        with pytest.raises(ValueError, match="reset_states: expected resets beside them, got none"):
            ops.nbrc(*tensors, reset_state=torch.zeros(2, 4))


def test_a_backend_that_knows_no_resets_stands_back(monkeypatch):
    chosen = {
        key: dataclasses.replace(backend, knows_resets=False)
        for key, backend in backends.choice.chosen.items()
    }
    monkeypatch.setattr(backends.choice, "chosen", chosen)
    tensors, resets = arguments("brc", 5, 2), mask(5, 2)
    got = ops.brc(*tensors, resets=resets)
    with ops.backend("reference"):
        want = ops.brc(*tensors, resets=resets)
    for one, other in zip(got, want, strict=True):
        assert torch.equal(one, other)
