"""Bistable recurrent cells for PyTorch (Vecoven, Ernst and Drion, PLOS ONE 2021)."""

from importlib.metadata import version

__version__ = version("brc_pytorch")
