"""What tasks of recalling numbers have in common."""

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from torch import Tensor
from torch.nn import functional

from brc_pytorch.experiments.tasks.curves import Mark
from brc_pytorch.experiments.tasks.measures import Measure, iterations_below
from brc_pytorch.experiments.tasks.task import WINDOW, Task

SHORT_LENGTH, SHORT_WINDOW = 5, 20
"""Sequences of this length or less are learnt in fewer iterations."""


class Recall(Task, Protocol):
    """Tell N(0, 1) numbers at the end of sequences of one length, until the error is small."""

    loss_name: ClassVar[str] = "mean squared error"
    short_loss_name: ClassVar[str] = "MSE"

    @property
    def length(self) -> int:
        """Steps of a sequence."""

    @property
    def epochs(self) -> int:
        """Epochs at most."""

    @property
    def stop_below(self) -> float:
        """Training ends after an epoch with a test loss below this."""

    @property
    def total_epochs(self) -> int:
        """Epochs of a run that is not ended early."""
        return self.epochs

    def length_at(self, epoch: int) -> int:  # noqa: ARG002 - the same length throughout
        """Return the length of the sequences of an epoch."""
        return self.length

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the mean squared error."""
        return functional.mse_loss(prediction, target)

    def is_solved(self, held_out_loss: float) -> bool:
        """Tell whether the test loss is below `stop_below`."""
        return held_out_loss < self.stop_below

    @classmethod
    def window(cls, settings: Mapping[str, Any]) -> int:
        """Return the gradient iterations in the moving average of a run's training loss."""
        return SHORT_WINDOW if settings["length"] <= SHORT_LENGTH else WINDOW

    @classmethod
    def can_be_solved(cls, settings: Mapping[str, Any]) -> bool:
        """Tell whether any loss is below `stop_below`."""
        return bool(settings["stop_below"] > 0)

    @classmethod
    def guessing(cls, settings: Mapping[str, Any]) -> tuple[Mark, ...]:  # noqa: ARG003 - the same for all
        """Return the variance of the numbers."""
        return (Mark("y", 1, "always guessing 0"),)

    @classmethod
    def measures(cls, settings: Mapping[str, Any]) -> list[Measure]:
        """Return the losses, and the iterations until the limit if there is one."""
        told = super().measures(settings)
        if cls.can_be_solved(settings):
            told.append(iterations_below(settings["stop_below"]))
        return told
