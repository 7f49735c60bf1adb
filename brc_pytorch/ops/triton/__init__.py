"""Kernels for GPUs, written in Triton, which comes with torch's CUDA builds."""

from brc_pytorch.ops.triton import backend as _backend  # noqa: F401 - registers it
