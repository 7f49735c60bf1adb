"""What the tests of the compiled CPU kernels share."""

from functools import partial

import pytest
import torch

from brc_pytorch.ops import cpu
from tests.ops.calls import run, shapes_of

needs_kernels = pytest.mark.skipif(
    not cpu.instruction_sets(), reason="this installation has no compiled kernels"
)

NAMES = "brc", "nbrc", "gru", "lstm"
every_recurrence = pytest.mark.parametrize("recurrence", NAMES)
# Gates of the others are kept in any case, or for a backward pass of their own.
both = pytest.mark.parametrize("recurrence", NAMES[:2])

dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])

every_set = pytest.mark.parametrize("instructions", cpu.instruction_sets() or ["none"])


def arguments(recurrence, steps=5, batch=3, inputs=2, hidden=4, dtype=None, requires_grad=False):
    """Leaves: input, states (several are one tensor), kernel, memory, bias."""

    def normal(*shape, scale=1.0):
        return scale * torch.randn(*shape, dtype=dtype)

    states, kernel, memory, (bias_gates, *_) = shapes_of(recurrence, inputs, hidden)
    tensors = [
        normal(steps, batch, inputs),
        normal(*states, batch, hidden),
        normal(*kernel, scale=inputs**-0.5),
        normal(*memory, scale=hidden**-0.5),
        normal(bias_gates * hidden),
    ]
    return [tensor.requires_grad_(requires_grad) for tensor in tensors]


def stacked(states):
    """The states as the operator itself takes them, (S, B, H)."""
    return states if states.dim() > 2 else states[None]


def operator(recurrence):
    """A recurrence as a function of these leaves."""
    return partial(run, recurrence)
