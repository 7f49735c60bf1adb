"""Bistable recurrent cells for PyTorch (Vecoven, Ernst and Drion, PLOS ONE 2021)."""

from importlib.metadata import version

from brc_pytorch.layers import (
    BRC,
    NBRC,
    BistableRecurrentCell,
    MultiLayerBase,
    NeuromodulatedBistableRecurrentCell,
    PeepholeLSTMCell,
    SelectItem,
)

__all__ = [
    "BRC",
    "NBRC",
    "BistableRecurrentCell",
    "MultiLayerBase",
    "NeuromodulatedBistableRecurrentCell",
    "PeepholeLSTMCell",
    "SelectItem",
]

__version__ = version("brc_pytorch")
