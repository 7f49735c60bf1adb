"""Floor 1: the recurrences as functions of tensors."""

from brc_pytorch.ops import cpu as cpu
from brc_pytorch.ops import cuda as cuda
from brc_pytorch.ops.library import backend, backend_for, brc, nbrc
from brc_pytorch.ops.reference import (
    brc_gates,
    brc_step,
    nbrc_gates,
    nbrc_step,
    peephole_lstm_step,
)

__all__ = [
    "backend",
    "backend_for",
    "brc",
    "brc_gates",
    "brc_step",
    "nbrc",
    "nbrc_gates",
    "nbrc_step",
    "peephole_lstm_step",
]
