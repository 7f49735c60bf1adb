"""The curves that are drawn of runs, as plain data: what is on the axes, and what is marked.

A curve is a column of one of the tables of a run.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from brc_pytorch.experiments.files import EPOCHS, TEST, TRAINING
from brc_pytorch.experiments.tasks.measures import Record

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Mark:
    """A line at a value of one of the axes, with what it means."""

    axis: Literal["x", "y"]
    value: float
    text: str


Marks = Callable[[Mapping[str, Any]], tuple[Mark, ...]]
"""Gives what is marked in a panel from the settings that its runs have in common."""


def _nothing(_: Mapping[str, Any]) -> tuple[Mark, ...]:
    return ()


@dataclass(frozen=True)
class Curve:
    """A kind of plot: a curve of each run, and the median of the runs of a cell.

    Attributes:
        name: Name of its files, without suffix.
        caption: What it shows. "{window}" stands for the runs' moving average.
        table: The table that it is from, and is drawn where there is one.
        x: The column on the horizontal axis: gradient iterations, or lengths.
        x_label: What that is called.
        y_label: What is on the vertical axis.
        values: Gives the values of a run from its table.
        scale: The vertical axis: linear from 0, logarithmic, or a share of 1, which begins where
            the lowest curve of a panel needs it.
        x_scale: The horizontal axis.
        marks: What is marked in a panel.
    """

    name: str
    caption: str
    table: str
    x: Literal["iteration", "length"]
    x_label: str
    y_label: str
    values: "Callable[[Record, pd.DataFrame], pd.Series[float]]"
    scale: Literal["linear", "log", "share"]
    x_scale: Literal["linear", "log"] = "linear"
    marks: Marks = _nothing

    def of(self, run: Record) -> "pd.Series[float] | None":
        """Return the curve of a run, over the horizontal axis; None if it has none (yet)."""
        table = run.tables.get(self.table)
        return None if table is None else self.values(run, table.set_index(self.x))


def _scale_of_loss(loss_name: str) -> Literal["linear", "log"]:
    """Return "log" for cross-entropies: they go on falling when every answer is right."""
    return "log" if "cross-entropy" in loss_name else "linear"


def training_loss_curve(loss_name: str, marks: Marks = _nothing, remark: str = "") -> Curve:
    """Return the moving average of the training loss.

    Args:
        loss_name: What the loss is called.
        marks: What is marked, such as the loss of guessing.
        remark: What else is to be said of it.
    """
    return Curve(
        "training_loss",
        f"Training loss ({loss_name}, moving average of {{window}}).{remark}",
        TRAINING,
        "iteration",
        "gradient iteration",
        f"training {loss_name}",
        # The first points average over what there is.
        lambda run, table: table["loss"].rolling(run.window, min_periods=1).mean(),
        _scale_of_loss(loss_name),
        marks=marks,
    )


def held_out_loss_curve(held_out: str, loss_name: str, marks: Marks = _nothing) -> Curve:
    """Return the loss on the held-out data after every epoch."""
    column = f"{held_out}_loss"
    return Curve(
        column,
        f"{held_out.capitalize()} loss ({loss_name}) after every epoch.",
        EPOCHS,
        "iteration",
        "gradient iteration",
        f"{held_out} {loss_name}",
        lambda _, table: table[column],
        _scale_of_loss(loss_name),
        marks=marks,
    )


def length_curve(
    metric: str,
    caption: str,
    *,
    x_label: str,
    y_label: str,
    marks: Marks,
    x_scale: Literal["linear", "log"] = "linear",
) -> Curve:
    """Return a share that the last model was tested for, over the length."""
    return Curve(
        metric,
        caption,
        TEST,
        "length",
        x_label,
        y_label,
        lambda _, table: table[metric],
        "share",
        x_scale,
        marks,
    )


def held_out_share(held_out: str, metric: str, marks: Marks = _nothing) -> Curve:
    """Return a share of the held-out data after every epoch."""
    column, name = f"{held_out}_{metric}", f"{held_out} {metric}"
    return Curve(
        column,
        f"{name.capitalize()} after every epoch.",
        EPOCHS,
        "iteration",
        "gradient iteration",
        name,
        lambda _, table: table[column],
        "share",
        marks=marks,
    )
