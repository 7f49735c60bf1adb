"""Bistable recurrent cells for PyTorch (Vecoven, Ernst and Drion, PLOS ONE 2021)."""

from importlib.metadata import version

from brc_pytorch.layers import (
    BistableRecurrentCell,
    MultiLayerBase,
    NeuromodulatedBistableRecurrentCell,
    PeepholeLSTMCell,
    SelectItem,
)

__all__ = [
    "BistableRecurrentCell",
    "MultiLayerBase",
    "NeuromodulatedBistableRecurrentCell",
    "PeepholeLSTMCell",
    "SelectItem",
]

__version__ = version("brc_pytorch")
