"""The numbers that runs are measured by, each from the files of a run."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from brc_pytorch.experiments.files import EPOCHS, TEST, TRAINING

if TYPE_CHECKING:
    import pandas as pd


class Record(Protocol):
    """What is read of a run."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings of the run."""

    @property
    def result(self) -> Mapping[str, Any] | None:
        """Its result, or None if it is not finished."""

    @property
    def tables(self) -> "Mapping[str, pd.DataFrame]":
        """Its tables by the names of their files, as far as they are there (yet)."""

    @property
    def window(self) -> int:
        """Gradient iterations in the moving average of its training loss."""


@dataclass(frozen=True)
class Measure:
    """A number of a finished run, and how it is written.

    Attributes:
        title: What it is, with its unit.
        value: Its value, not finite where a run has none.
        show: Writes a value.
        missing: Written where none of the runs has a value.
        scale: The scale on which values are drawn and differ.
        cap: The largest value that is known; of a larger one it is known that it is larger.
    """

    title: str
    value: Callable[[Record], float]
    show: Callable[[float], str]
    missing: str = "-"
    scale: Literal["linear", "log"] = "linear"
    cap: float = math.inf

    @property
    def capped(self) -> bool:
        """Whether the largest values are only known to be large."""
        return math.isfinite(self.cap)


def percent(value: float) -> str:
    """Write a share of a hundred."""
    return f"{value:.1f}"


def small(value: float) -> str:
    """Write a loss."""
    return f"{value:.3g}"


def count(value: float) -> str:
    """Write a number of iterations."""
    return f"{value:,.0f}"


def accuracy(shortest: int, longest: int) -> Measure:
    """Return the mean accuracy over test lengths."""

    def value(run: Record) -> float:
        test = run.tables.get(TEST)
        if test is None:
            return math.nan
        return 100 * float(test.loc[test["length"].between(shortest, longest), "accuracy"].mean())

    lengths = f"{shortest}" if shortest == longest else f"{shortest}-{longest}"
    return Measure(f"% right at {lengths}", value, percent)


def failing_length(passed: float, first: int, last: int) -> Measure:
    """Return the first test length at which the accuracy is below a share.

    Of a run that has passed all lengths it is twice the longest one, where it might fail if the
    tests went on, and is told as "more than".

    Args:
        passed: The share.
        first: The shortest length tested; whoever fails there has not learned the task.
        last: The longest one.
    """

    def value(run: Record) -> float:
        test = run.tables.get(TEST)
        if test is None:
            return math.nan
        failed = test.loc[test["accuracy"] < passed, "length"]
        return 2.0 * last if failed.empty else float(failed.iloc[0])

    def show(length: float) -> str:
        if length <= first:
            return "not learned"
        return f"> {last:,}" if length > last else count(length)

    title = f"failing length (below {passed:.0%} right)"
    return Measure(title, value, show, scale="log", cap=last)


def training_loss(loss_name: str, iteration: int | None = None) -> Measure:
    """Return the moving average of the training loss at an iteration, or at the end before it."""

    def value(run: Record) -> float:
        losses = run.tables.get(TRAINING)
        if losses is None:
            return math.nan
        return float(losses["loss"][:iteration].tail(run.window).mean(skipna=False))

    after = "" if iteration is None else f" after {iteration:,} iterations, or at an earlier end"
    return Measure(f"training {loss_name}{after}", value, small, scale="log")


def last_held_out(held_out: str, metric: str, loss_name: str) -> Measure:
    """Return a held-out metric of the last epoch: the loss, or a share."""
    is_loss, column = metric == "loss", f"{held_out}_{metric}"

    def value(run: Record) -> float:
        epochs = run.tables.get(EPOCHS)
        if epochs is None:
            return math.nan
        return float(epochs[column].iloc[-1]) * (1 if is_loss else 100)

    if is_loss:
        return Measure(f"{held_out} {loss_name}", value, small, scale="log")
    return Measure(f"% {held_out} {metric}", value, percent)


def iterations_below(loss: float) -> Measure:
    """Return the iterations until the moving average of the training loss is below a value."""

    def value(run: Record) -> float:
        losses = run.tables.get(TRAINING)
        if losses is None:
            return math.nan
        below = losses["loss"].rolling(run.window).mean() < loss
        return float(losses.loc[below, "iteration"].min())

    return Measure(f"iterations to below {loss:g}", value, count, "never", scale="log")


def _iterations(run: Record) -> float:
    return math.nan if run.result is None else float(run.result["iterations"])


ITERATIONS = Measure("iterations", _iterations, count)
"""The gradient iterations of a run."""
