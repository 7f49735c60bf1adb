"""The denoising task of the cells' authors."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from brc_pytorch.datasets import BRCDataset, denoising
from brc_pytorch.experiments.tasks.cells import recurrent_network
from brc_pytorch.experiments.tasks.recall import Recall
from brc_pytorch.experiments.tasks.settings import check_settings, setting
from brc_pytorch.experiments.tasks.task import random_stream
from brc_pytorch.layers import SelectItem


@dataclass(frozen=True)
class DenoisingTask(Recall):
    """Keep five marked ones of many random numbers and give them back; squared error.

    The defaults are those of the cells' authors: two layers of 128 units, and nothing to keep in
    the last 5, 100 or 200 steps before the numbers are asked for.
    """

    name: ClassVar[str] = "denoising"
    title: ClassVar[str] = "Denoising"
    dimensions: ClassVar[tuple[str, ...]] = ("delay", "layers")

    delay: int = setting(200, "Last steps without a marked number.", compared=(5, 100, 200))
    layers: int = setting(2, "Recurrent layers.", compared=(2,))
    length: int = setting(400, "Steps until the numbers are asked for.")
    marked: int = setting(5, "Marked numbers.")
    hidden_size: int = setting(128, "Units of a layer.")
    train_size: int = setting(60_000, "Training sequences.")
    test_size: int = setting(10_000, "Test sequences.")
    batch_size: int = setting(100, "Sequences in a batch.")
    epochs: int = setting(100, "Epochs at most.")
    learning_rate: float = setting(1e-3, "Step size of Adam.", least=0)
    stop_below: float = setting(
        0.0, "Training ends after an epoch with a test loss below this.", least=0
    )

    def __post_init__(self) -> None:
        """Refuse settings that no run could have."""
        check_settings(self, length=self.delay + self.marked)

    def data(self, seed: int, length: int) -> tuple[BRCDataset, BRCDataset]:
        """Return the training and the test data: (N, T + M - 1, 2) and (N, M), M marked."""
        train, test = (
            BRCDataset(
                *denoising(
                    size,
                    length,
                    delay=self.delay,
                    marked=self.marked,
                    generator=random_stream(seed, self.name, use, length, self.delay),
                )
            )
            for use, size in (("train", self.train_size), ("test", self.test_size))
        )
        return train, test

    def network(self, cell: str) -> nn.Module:
        """Return recurrent layers and a linear one at their last steps: (B, T, 2) to (B, M)."""
        layers = recurrent_network(cell, 2, self.hidden_size, self.layers, return_sequences=True)
        last = SelectItem(0, -self.marked)
        return nn.Sequential(layers, last, nn.Linear(self.hidden_size, 1), nn.Flatten())
