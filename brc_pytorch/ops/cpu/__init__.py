"""The compiled kernels for CPU tensors (sources in ``csrc``)."""

from brc_pytorch.ops.cpu import backend as _backend  # noqa: F401 - registers it
from brc_pytorch.ops.cpu.interface import instruction_set, instruction_sets

__all__ = ["instruction_set", "instruction_sets"]
