"""Copy-First-Input, the task of the cells' authors that brc-pytorch 0.1.3 repeats."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from brc_pytorch.datasets import BRCDataset, copy_first_input
from brc_pytorch.experiments.tasks.cells import LastState, recurrent_network
from brc_pytorch.experiments.tasks.recall import Recall
from brc_pytorch.experiments.tasks.settings import check_settings, setting
from brc_pytorch.experiments.tasks.task import random_stream


@dataclass(frozen=True)
class CopyFirstInputTask(Recall):
    """Recall the first number of a long sequence (mean squared error).

    The defaults are those of brc-pytorch 0.1.3; the article also has sequences of 600 numbers. They
    take up to 10 hours on two cores.
    """

    name: ClassVar[str] = "copy-first-input"
    title: ClassVar[str] = "Copy-First-Input"
    dimensions: ClassVar[tuple[str, ...]] = ("length", "layers")
    same_axis: ClassVar[bool] = False  # sequences of other lengths are learnt in other times

    length: int = setting(300, "Lengths of the sequences.", compared=(5, 100, 300))
    layers: int = setting(2, "Numbers of recurrent layers.", compared=(2,))
    hidden_size: int = setting(100, "Units per layer.")
    train_size: int = setting(45_000, "Training sequences.")
    test_size: int = setting(5_000, "Test sequences.")
    batch_size: int = setting(100, "Sequences per batch.")
    epochs: int = setting(60, "Maximum number of epochs.")
    learning_rate: float = setting(1e-3, "Learning rate of Adam.", least=0)
    stop_below: float = setting(0.1, "Stop after an epoch with a test loss below this.", least=0)

    def __post_init__(self) -> None:
        """Refuse settings that no run could have."""
        check_settings(self)

    def data(self, seed: int, length: int) -> tuple[BRCDataset, BRCDataset]:
        """Return the training and the test data: inputs (N, T, 1), targets (N, 1)."""
        train, test = (
            BRCDataset(
                *copy_first_input(
                    size, length, generator=random_stream(seed, self.name, use, length)
                )
            )
            for use, size in (("train", self.train_size), ("test", self.test_size))
        )
        return train, test

    def network(self, cell: str) -> nn.Module:
        """Return recurrent layers and a linear one on their last state: (B, T, 1) to (B, 1)."""
        layers = recurrent_network(
            cell, 1, self.hidden_size, self.layers, steps=self.length, return_sequences=False
        )
        return nn.Sequential(layers, LastState(), nn.Linear(self.hidden_size, 1))
