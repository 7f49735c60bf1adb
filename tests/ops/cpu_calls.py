"""What the tests of the compiled CPU kernels share."""

import pytest
import torch

from brc_pytorch import ops
from brc_pytorch.ops import cpu

needs_kernels = pytest.mark.skipif(
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
