"""What a task is.

A task holds every setting of its experiment, with the published one as the default, and gives the
data, the network, the loss and the metrics; and it says by which numbers its runs are measured, and
which curves are drawn of them. It does not know how training is run, nor how anything is shown.

Shapes use T for time steps, B for the batch, and N for samples.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import Field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from brc_pytorch.datasets import BinaryAddition, BRCDataset, SequentialMNIST
from brc_pytorch.experiments.tasks.curves import (
    Curve,
    Mark,
    held_out_loss_curve,
    training_loss_curve,
)
from brc_pytorch.experiments.tasks.measures import (
    ITERATIONS,
    Measure,
    last_held_out,
    training_loss,
)

Data = BRCDataset | BinaryAddition | SequentialMNIST
Inputs = Tensor | PackedSequence

WINDOW = 100
"""Gradient iterations in the moving average of the training loss."""


VALIDATION_SEED = -1
"""Seed of the runs that settings are chosen by; the data of no other run are theirs."""


def random_stream(seed: int, *names: str | int) -> torch.Generator:
    """Return the random numbers of one purpose of a run, such as its data of one length.

    Each purpose has a stream of its own, which depends on nothing but its names, so that a run
    continued at any epoch draws what it would have drawn, and all cells see the same data.

    Args:
        seed: Seed of the run.
        names: What the numbers are for.
    """
    digest = hashlib.sha256(repr((seed, *names)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))


class Task(Protocol):
    """What training, the command and the plots ask of a task.

    Its fields, each a `setting`, are all that its results depend on; its docstring is the help of
    its command.
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    name: ClassVar[str]
    """Name of the task and of its command."""
    title: ClassVar[str]
    """Name of the task in plots."""
    dimensions: ClassVar[tuple[str, ...]]
    """Fields in which the runs of one experiment may differ; all other ones they share."""
    cells: ClassVar[tuple[str, ...]] = ("LSTM", "GRU", "BRC", "nBRC")
    """Cells that its command compares unless told otherwise."""
    seeds: ClassVar[tuple[int, ...]] = (0,)
    """Seeds that its command runs unless told otherwise."""
    held_out: ClassVar[str] = "test"
    """What the predecessor called the data that each epoch ends with: test or validation."""
    loss_name: ClassVar[str]
    """What the loss is called."""
    short_loss_name: ClassVar[str]
    """The same for the head of a column."""
    same_axis: ClassVar[bool] = True
    """Whether the panels of a plot have the same horizontal axis."""
    metric_names: ClassVar[tuple[str, ...]] = ("loss",)
    """What `metrics` returns."""

    @property
    def layers(self) -> int:
        """Number of recurrent layers."""

    @property
    def batch_size(self) -> int:
        """Sequences in a batch, of training and of testing."""

    @property
    def learning_rate(self) -> float:
        """Step size of Adam."""

    @property
    def total_epochs(self) -> int:
        """Epochs of a run that is not ended early."""

    def length_at(self, epoch: int) -> int:
        """Return the length of the sequences of an epoch, counted from 0."""

    def prepare(self) -> None:
        """Fetch what `data` reads, or refuse it, before anything is trained; by default nothing.

        Raises:
            ValueError: If there is no such data; the message tells what to do.
        """
        return  # an empty body would be abstract

    def data(self, seed: int, length: int) -> tuple[Data, Data]:
        """Return the training and the held-out data of a length."""

    def final_tests(
        self,
        network: nn.Module,  # noqa: ARG002 - none by default
        seed: int,  # noqa: ARG002 - none by default
        evaluate: Callable[[Data], dict[str, float]],  # noqa: ARG002 - none by default
    ) -> Iterable[dict[str, float]]:
        """Test the last model on sequences of growing length; by default on none.

        Args:
            network: The last model, on the device that it is trained on.
            seed: The run's seed.
            evaluate: Returns the metrics of the model on data.

        Yields:
            "length" and the metrics, of each test length as soon as they are known.
        """
        return ()

    def network(self, cell: str) -> nn.Module:
        """Return a new network of the cell, from inputs (B, T, I) to predictions."""

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the mean loss of a batch, a scalar."""

    def metrics(self, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return the means over a batch of all that is reported of held-out data."""
        return {"loss": self.loss(prediction, target)}

    def is_solved(self, held_out_loss: float) -> bool:  # noqa: ARG002 - never by default
        """Tell whether training ends before its last epoch; by default it does not."""
        return False

    @classmethod
    def window(cls, settings: Mapping[str, Any]) -> int:  # noqa: ARG003 - the same for all by default
        """Return the gradient iterations in the moving average of a run's training loss."""
        return WINDOW

    @classmethod
    def describe(cls, dimension: str, settings: Mapping[str, Any]) -> str:
        """Write what a run of these settings has of a dimension, for the title of a panel."""
        value = settings[dimension]
        if dimension != "layers":
            return f"{dimension.replace('_', ' ')} {value}"
        plural = "" if value == 1 else "s"
        return f"{value} layer{plural} of {settings['hidden_size']} units"

    @classmethod
    def can_be_solved(cls, settings: Mapping[str, Any]) -> bool:  # noqa: ARG003 - never by default
        """Tell whether a run of an experiment of these settings may end before its last epoch."""
        return False

    @classmethod
    def measures(cls, settings: Mapping[str, Any]) -> list[Measure]:  # noqa: ARG003 - the same for all by default
        """Return the numbers that are told of the runs of an experiment of these settings.

        The cells are compared by the first one.
        """
        return [
            *(last_held_out(cls.held_out, name, cls.short_loss_name) for name in cls.metric_names),
            training_loss(cls.short_loss_name),
            ITERATIONS,
        ]

    @classmethod
    def guessing(cls, settings: Mapping[str, Any]) -> tuple[Mark, ...]:  # noqa: ARG003 - unknown by default
        """Return the loss of a network that saw no input, where it is known, as a mark."""
        return ()

    @classmethod
    def curves(cls, settings: Mapping[str, Any]) -> list[Curve]:  # noqa: ARG003 - the same for all by default
        """Return what is drawn of the runs of an experiment of these settings."""
        return [
            held_out_loss_curve(cls.held_out, cls.loss_name, cls.guessing),
            training_loss_curve(cls.loss_name, cls.guessing),
        ]
