"""Bistable recurrent cells for PyTorch (Vecoven, Ernst and Drion, PLOS ONE 2021)."""

from importlib.metadata import PackageNotFoundError, version

from brc_pytorch.layers import (
    BRC,
    GRU,
    LSTM,
    NBRC,
    BistableRecurrentCell,
    DoubleCell,
    MultiLayerBase,
    NeuromodulatedBistableRecurrentCell,
    PeepholeLSTMCell,
    SelectItem,
    check_cell,
)

__all__ = [
    "BRC",
    "GRU",
    "LSTM",
    "NBRC",
    "BistableRecurrentCell",
    "DoubleCell",
    "MultiLayerBase",
    "NeuromodulatedBistableRecurrentCell",
    "PeepholeLSTMCell",
    "SelectItem",
    "check_cell",
]

try:
    __version__ = version("brc_pytorch")
except PackageNotFoundError:  # the sources alone, not installed
    __version__ = "0+sources"
