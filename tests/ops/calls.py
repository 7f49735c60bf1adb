"""Recurrences as functions of as many tensors each, the shapes of those, and how they compile."""

import warnings

import torch

from brc_pytorch import ops
from brc_pytorch.ops.recurrences import RECURRENCES


def shapes_of(recurrence, inputs, hidden):
    """The states' leading dimensions, the kernel's and the memory's shape, gates with biases."""
    known = RECURRENCES[recurrence]
    rows = {"I": (inputs,), "H": (hidden,), None: ()}
    kernel, memory = ((*rows[p.rows], p.gates[0] * hidden) for p in known.parameters[:2])
    count = len(known.states)
    return (count,) if count > 1 else (), kernel, memory, known.parameters[2].gates


def run(recurrence, input, states, *parameters, reset_states=None, **options):
    """The output, and the last states as the first ones were given: several are one tensor."""
    if states.dim() < 3:
        options["reset_state"] = reset_states
        return getattr(ops, recurrence)(input, states, *parameters, **options)
    options["reset_states"] = None if reset_states is None else reset_states.unbind()
    output, last = getattr(ops, recurrence)(input, states.unbind(), *parameters, **options)
    return output, torch.stack(last)


def assert_compiles_to_the_same_bits(function, tensors, lengths):
    """Compile an operator whole, and compare results and gradients with those of the call."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's compiler warns about itself
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        results = compiled(*tensors, lengths=lengths)
    expected = function(*tensors, lengths=lengths)
    for got, want in zip(results, expected, strict=True):
        assert torch.equal(got, want)
    got = torch.autograd.grad(results[0].sum(), tensors)
    want = torch.autograd.grad(expected[0].sum(), tensors)
    assert all(map(torch.equal, got, want))
