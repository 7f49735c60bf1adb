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
    """Remember five marked numbers amid noise, then repeat them in order (mean squared error).

    The defaults are those of the cells' authors: two layers of 128 units, and no marked number in
    the last 5, 100 or 200 steps. They take days on two cores; with --train-size 20000 and
    --epochs 10 a run of BRC takes 7 minutes, and one of nBRC 12.
    """

    name: ClassVar[str] = "denoising"
    title: ClassVar[str] = "Denoising"
    dimensions: ClassVar[tuple[str, ...]] = ("delay", "layers")

    delay: int = setting(200, "Steps at the end without a marked number.", compared=(5, 100, 200))
    layers: int = setting(2, "Numbers of recurrent layers.", compared=(2,))
    length: int = setting(400, "Steps before the numbers are to be repeated.")
    marked: int = setting(5, "How many numbers are marked.")
    hidden_size: int = setting(128, "Units per layer.")
    train_size: int = setting(60_000, "Training sequences.")
    test_size: int = setting(10_000, "Test sequences.")
    batch_size: int = setting(100, "Sequences per batch.")
    epochs: int = setting(100, "Maximum number of epochs.")
    learning_rate: float = setting(1e-3, "Learning rate of Adam.", least=0)
    stop_below: float = setting(
        0.0, "Stop after an epoch with a test loss below this; 0: never.", least=0
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
        layers = recurrent_network(
            cell,
            2,
            self.hidden_size,
            self.layers,
            steps=self.length + self.marked - 1,
            return_sequences=True,
        )
        last = SelectItem(0, -self.marked)
        return nn.Sequential(layers, last, nn.Linear(self.hidden_size, 1), nn.Flatten())
