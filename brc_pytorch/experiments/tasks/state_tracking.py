"""State tracking, where models whose state changes linearly fail on long sequences."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from brc_pytorch.datasets import (
    STATE_PROBLEMS,
    BRCDataset,
    multiplication_table,
    state_tracking,
)
from brc_pytorch.experiments.tasks.cells import recurrent_network
from brc_pytorch.experiments.tasks.curves import Curve, Mark, length_curve
from brc_pytorch.experiments.tasks.measures import Measure, accuracy, failing_length
from brc_pytorch.experiments.tasks.settings import check_settings, setting
from brc_pytorch.experiments.tasks.task import Task, random_stream

PASSED = 0.9
"""Share of right answers below which a network has failed."""
_LENGTHS_AN_OCTAVE = 8
_CHUNK = 512
"""Steps that a network takes at a time where a sequence is long."""


class StateTracker(nn.Module):
    """Recurrent layers over elements, and a linear one that tells the state after each.

    Args:
        layers: A network that returns all outputs and its last states, of inputs (B, T, n).
        elements: How many elements there are, n.
    """

    def __init__(self, layers: nn.Module, hidden_size: int, elements: int) -> None:
        super().__init__()
        self.layers = layers
        self.linear = nn.Linear(hidden_size, elements)

    def forward(self, elements: Tensor) -> Tensor:
        """Return the logits (B, T, n) of the states after each of the elements (B, T)."""
        logits, _ = self.go_on(elements, None)
        return logits

    def go_on(self, elements: Tensor, state: Any) -> tuple[Tensor, Any]:  # noqa: ANN401 - a tensor or a pair
        """Return the same from the layers' states on, and their last states."""
        inputs = functional.one_hot(elements, self.linear.out_features)
        outputs, state = self.layers(inputs.to(self.linear.weight.dtype), state)
        return self.linear(outputs), state


def lengths_tested(first: int, last: int) -> list[int]:
    """Return lengths that double, with others between, from `first` to `last`."""
    lengths, start = [first], first
    while start < last:
        parts = range(1, _LENGTHS_AN_OCTAVE + 1)
        lengths += [round(start * (1 + part / _LENGTHS_AN_OCTAVE)) for part in parts]
        start *= 2
    return [*dict.fromkeys(length for length in lengths if length < last), last]


@dataclass(frozen=True)
class StateTrackingTask(Task):
    """Read the elements of a group and tell their product after each, on ever longer sequences.

    Z2 is parity, Z16 a counter; S3, S4 and A5 are permutations; the flip-flop holds what was set
    last. Networks are trained on sequences of 2, 4, 8 and so on up to 64 steps, and tested on
    longer and longer ones until less than 90 % of the answers are right.
    """

    name: ClassVar[str] = "state-tracking"
    title: ClassVar[str] = "State tracking"
    dimensions: ClassVar[tuple[str, ...]] = ("problem", "layers")
    seeds: ClassVar[tuple[int, ...]] = (0, 1, 2, 3, 4)
    cells: ClassVar[tuple[str, ...]] = ("RNN", "GRU", "LSTM", "BRC", "nBRC")
    held_out: ClassVar[str] = "validation"
    loss_name: ClassVar[str] = "cross-entropy"
    short_loss_name: ClassVar[str] = loss_name
    metric_names: ClassVar[tuple[str, ...]] = ("loss", "accuracy")

    problem: str = setting(
        "Z2", "What is multiplied.", choices=STATE_PROBLEMS, compared=STATE_PROBLEMS
    )
    layers: int = setting(2, "Recurrent layers.", compared=(2,))
    hidden_size: int = setting(64, "Units of a layer.")
    length: int = setting(64, "Length trained last.", least=2)
    keep: float = setting(0.8, "Share of the flip-flop's steps that change nothing.", least=0)
    train_size: int = setting(12_800, "Training sequences a length.")
    validation_size: int = setting(1_000, "Validation sequences a length.")
    batch_size: int = setting(64, "Sequences in a batch.")
    epochs_per_length: int = setting(1, "Epochs on each length but the last one.")
    epochs: int = setting(10, "Epochs in all.")
    learning_rate: float = setting(2e-3, "Step size of Adam.", least=0)
    test_size: int = setting(32, "Test sequences.")
    max_test_length: int = setting(2**20, "Longest length tested.")

    def __post_init__(self) -> None:
        """Refuse settings that no run could have."""
        check_settings(self, max_test_length=self.length)
        if self.keep > 1:
            raise ValueError(f"keep: expected a share, from 0 to 1, got {self.keep}")
        if self.length_at(self.epochs - 1) < self.length:
            raise ValueError(
                f"epochs: expected enough to reach length {self.length} with "
                f"{self.epochs_per_length} on each length before, got {self.epochs}"
            )

    @property
    def total_epochs(self) -> int:
        """Epochs of a run."""
        return self.epochs

    def length_at(self, epoch: int) -> int:
        """Return the length of the sequences of an epoch: it doubles until it is the last one."""
        return min(self.length, 1 << min(1 + epoch // self.epochs_per_length, 63))

    def _draw(self, size: int, length: int, **options: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401 - those of state_tracking
        return state_tracking(size, length, self.problem, keep=self.keep, **options)

    def data(self, seed: int, length: int) -> tuple[BRCDataset, BRCDataset]:
        """Return the training and the validation data: elements and states, (N, T) each."""
        train, validation = (
            BRCDataset(
                *self._draw(
                    size,
                    length,
                    generator=random_stream(seed, self.name, self.problem, use, length),
                )
            )
            for use, size in (("train", self.train_size), ("validation", self.validation_size))
        )
        return train, validation

    def network(self, cell: str) -> nn.Module:
        """Return recurrent layers and a linear one at every step: (B, T) to (B, T, n)."""
        size = len(multiplication_table(self.problem))
        layers = recurrent_network(
            cell, size, self.hidden_size, self.layers, steps=self.length, return_sequences=True
        )
        return StateTracker(layers, self.hidden_size, size)

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the mean cross-entropy of the states of all steps, of logits."""
        return functional.cross_entropy(prediction.flatten(0, 1), target.flatten())

    def metrics(self, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return "loss", and as "accuracy" the share of steps whose state is right."""
        right = prediction.argmax(-1) == target
        return {"loss": self.loss(prediction, target), "accuracy": right.float().mean()}

    def final_tests(
        self,
        network: nn.Module,
        seed: int,
        evaluate: Callable[[Any], dict[str, float]],  # noqa: ARG002 - the sequences are too long for it
    ) -> Iterator[dict[str, float]]:
        """Yield the metrics of the steps up to each test length, from the length before on.

        One set of sequences goes on and on, in chunks, with the network's states carried along, so
        that the memory needed does not grow. It ends at twice the length at which the network has
        failed.
        """
        assert isinstance(network, StateTracker)  # noqa: S101 - what `network` made
        device = network.linear.weight.device
        generator = random_stream(seed, self.name, self.problem, "test")
        network.eval()
        start, carried, before, end = None, None, 0, self.max_test_length
        for length in lengths_tested(self.length, self.max_test_length):
            if length > end:
                return
            sums = dict.fromkeys(self.metric_names, 0.0)
            for first in range(before, length, _CHUNK):
                steps = min(_CHUNK, length - first)
                elements, states = self._draw(
                    self.test_size, steps, start=start, generator=generator
                )
                start = states[:, -1]
                with torch.inference_mode():
                    logits, carried = network.go_on(elements.to(device), carried)
                    metrics = self.metrics(logits, states.to(device))
                for name, value in metrics.items():
                    sums[name] += float(value) * steps
            row = {name: value / (length - before) for name, value in sums.items()}
            before = length
            if row["accuracy"] < PASSED:
                end = min(end, 2 * length)
            yield {"length": length, **row}

    @classmethod
    def measures(cls, settings: Mapping[str, Any]) -> list[Measure]:
        """Return the failing length, the accuracy at the length trained, and the losses."""
        length = settings["length"]
        return [
            failing_length(PASSED, length, settings["max_test_length"]),
            accuracy(length, length),
            *super().measures(settings),
        ]

    @classmethod
    def guessing(cls, settings: Mapping[str, Any]) -> tuple[Mark, ...]:
        """Return the entropy of the states, of which all are equally likely after a few steps."""
        states = len(multiplication_table(settings["problem"]))
        return (Mark("y", math.log(states), "guessing at random"),)

    @classmethod
    def curves(cls, settings: Mapping[str, Any]) -> list[Curve]:
        """Return the accuracy by test length, and the losses."""
        limit = settings["length"]
        return [
            length_curve(
                "accuracy",
                "Share of right answers in the steps from one length to the next, of "
                f"{settings['test_size']:,} sequences. A run is tested up to twice the length at "
                f"which less than {PASSED:.0%} are right.",
                x_label="length",
                y_label="right answers",
                x_scale="log",
                marks=lambda _: (
                    Mark("x", limit, f"trained up to {limit}"),
                    Mark("y", PASSED, f"{PASSED:.0%}"),
                ),
            ),
            *super().curves(settings),
        ]
