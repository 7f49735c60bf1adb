"""Floor 1: the recurrences as functions of tensors."""

from brc_pytorch.ops import autocast as _autocast  # noqa: F401 - registers its rules
from brc_pytorch.ops import cpu as cpu
from brc_pytorch.ops import triton as triton
from brc_pytorch.ops.backends import backend, backend_for
from brc_pytorch.ops.entry import scan, scan_layers
from brc_pytorch.ops.functional import brc, gru, lstm, nbrc
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
    "gru",
    "lstm",
    "nbrc",
    "nbrc_gates",
    "nbrc_step",
    "peephole_lstm_step",
    "scan",
    "scan_layers",
]
