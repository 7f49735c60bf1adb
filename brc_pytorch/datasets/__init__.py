"""Seeded, vectorised benchmark data, and a data set that is indexed a batch at a time."""

from brc_pytorch.datasets.binary_addition import BinaryAddition
from brc_pytorch.datasets.brc_dataset import BRCDataset
from brc_pytorch.datasets.copy_first_input import copy_first_input

__all__ = ["BRCDataset", "BinaryAddition", "copy_first_input"]
