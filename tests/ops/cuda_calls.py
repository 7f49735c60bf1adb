"""What the tests of the Triton kernels share: run on a GPU, or interpreted."""

import dataclasses
import os

# cuBLAS is deterministic with a workspace of its own, as the poisoned tests ask for.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import pytest
import torch

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
