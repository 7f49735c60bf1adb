"""Recurrences as functions of as many tensors each, and the shapes of those."""

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
