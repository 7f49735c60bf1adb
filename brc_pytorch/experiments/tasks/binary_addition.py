"""Binary Addition, the second experiment of brc-pytorch 0.1.3."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional

from brc_pytorch.datasets import BinaryAddition
from brc_pytorch.experiments.tasks.cells import recurrent_network
from brc_pytorch.experiments.tasks.curves import Curve, Mark, length_curve, training_loss_curve
from brc_pytorch.experiments.tasks.measures import (
    ITERATIONS,
    Measure,
    accuracy,
    training_loss,
)
from brc_pytorch.experiments.tasks.settings import check_settings, setting
from brc_pytorch.experiments.tasks.task import Task, random_stream
from brc_pytorch.layers import SelectItem

_MOST_STEPS = 5
"""Columns of test lengths beyond the longest one trained, at most."""


@dataclass(frozen=True)
class BinaryAdditionTask(Task):
    """Add two binary numbers; trained on ever longer ones, tested on ones far longer still.

    The defaults are those of brc-pytorch 0.1.3. They take 3 hours on two cores.
    """

    name: ClassVar[str] = "binary-addition"
    title: ClassVar[str] = "Binary Addition"
    dimensions: ClassVar[tuple[str, ...]] = ("layers",)
    seeds: ClassVar[tuple[int, ...]] = (0, 1, 2, 3, 4)
    held_out: ClassVar[str] = "validation"
    loss_name: ClassVar[str] = "binary cross-entropy"
    short_loss_name: ClassVar[str] = loss_name
    metric_names: ClassVar[tuple[str, ...]] = ("loss", "accuracy")

    layers: int = setting(1, "Numbers of recurrent layers.", compared=(1, 2))
    hidden_size: int = setting(100, "Units per layer.")
    min_length: int = setting(
        3, "Length of the first training sequences, and shortest test length.", least=2
    )
    max_length: int = setting(20, "Length of the last training sequences.", least=2)
    epochs_per_length: int = setting(15, "Epochs at each length.")
    train_size: int = setting(10_000, "Training sequences of each length.")
    validation_size: int = setting(1_000, "Validation sequences of each length.")
    batch_size: int = setting(200, "Sequences per batch.")
    learning_rate: float = setting(1e-3, "Learning rate of Adam.", least=0)
    test_size: int = setting(1_000, "Test sequences of each length.")
    max_test_length: int = setting(60, "Longest test length.", least=2)

    def __post_init__(self) -> None:
        """Refuse settings that no run could have."""
        check_settings(self, max_length=self.min_length, max_test_length=self.min_length)

    @property
    def total_epochs(self) -> int:
        """Epochs of a run."""
        return self.epochs_per_length * (self.max_length - self.min_length + 1)

    def length_at(self, epoch: int) -> int:
        """Return the length of the sequences of an epoch."""
        return self.min_length + epoch // self.epochs_per_length

    def _samples(self, seed: int, use: str, size: int, length: int) -> BinaryAddition:
        generator = random_stream(seed, self.name, use, length)
        return BinaryAddition(size, length, length, length, "single", generator=generator)

    def data(self, seed: int, length: int) -> tuple[BinaryAddition, BinaryAddition]:
        """Return training and validation data of a length: (N, T, 2) and (N, T, 1)."""
        return (
            self._samples(seed, "train", self.train_size, length),
            self._samples(seed, "validation", self.validation_size, length),
        )

    def final_tests(
        self,
        network: nn.Module,  # noqa: ARG002 - `evaluate` has it
        seed: int,
        evaluate: Callable[[BinaryAddition], dict[str, float]],
    ) -> Iterator[dict[str, float]]:
        """Yield the metrics of every length from `min_length` to `max_test_length`."""
        for length in range(self.min_length, self.max_test_length + 1):
            samples = self._samples(seed, "test", self.test_size, length)
            yield {"length": length, **evaluate(samples)}

    def network(self, cell: str) -> nn.Module:
        """Return recurrent layers, linear and sigmoid at every step: (B, T, 2) to (B, T, 1)."""
        layers = recurrent_network(
            cell, 2, self.hidden_size, self.layers, steps=self.max_length + 1, return_sequences=True
        )
        return nn.Sequential(layers, SelectItem(0), nn.Linear(self.hidden_size, 1), nn.Sigmoid())

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the mean binary cross-entropy of all bits."""
        return functional.binary_cross_entropy(prediction, target)

    def metrics(self, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return "loss", and as "accuracy" the share of sequences with all bits right."""
        right = (prediction.round() == target).flatten(1).all(1)
        return {"loss": self.loss(prediction, target), "accuracy": right.float().mean()}

    @classmethod
    def measures(cls, settings: Mapping[str, Any]) -> list[Measure]:
        """Return the accuracy at the longest length, those at shorter ones, and the losses."""
        first, limit, last = (
            settings[key] for key in ("min_length", "max_length", "max_test_length")
        )
        step = max(10, 10 * math.ceil((last - limit) / (10 * _MOST_STEPS)))
        lengths = dict.fromkeys((last, limit, *range(limit + step, last, step)))
        accuracies = [accuracy(length, length) for length in lengths]
        return [*accuracies, accuracy(first, limit), training_loss(cls.short_loss_name), ITERATIONS]

    @classmethod
    def curves(cls, settings: Mapping[str, Any]) -> list[Curve]:
        """Return the accuracy by test length, and the training loss."""
        limit = settings["max_length"]
        trained = Mark("x", limit, f"trained up to {limit}")
        return [
            length_curve(
                "accuracy",
                "Share of the test sequences with all bits right, by their length. "
                f"{settings['test_size']:,} sequences of each length.",
                x_label="length (bits of both numbers)",
                y_label="sequences with all bits right",
                marks=lambda _: (trained,),
            ),
            training_loss_curve(
                cls.loss_name, remark=" It jumps where the sequences become longer."
            ),
        ]
