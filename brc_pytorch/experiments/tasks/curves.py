"""The curves that are drawn of runs, as plain data: what is on the axes, and what is marked.

A curve is a column of one of the tables of a run.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from brc_pytorch.experiments.files import EPOCHS, TEST, TRAINING
from brc_pytorch.experiments.tasks.measures import Record

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd


@dataclass(frozen=True)
class Mark:
    """A line at a value of one of the axes, with what it means."""

    axis: Literal["x", "y"]
    value: float
    text: str


@dataclass(frozen=True)
class Curve:
    """A kind of plot: a curve of each run; the runs of a cell as their mean and standard error.

    Attributes:
        name: Name of its files, without suffix.
        caption: What it shows. "{window}" stands for the runs' moving average.
        table: The table that it is from, and is drawn where there is one.
        x: The column on the horizontal axis: gradient iterations, or lengths.
        x_label: What that is called.
        y_label: What is on the vertical axis.
        values: Gives the values of a run from its table.
        scale: The vertical axis: linear from 0, logarithmic, or a share of 1.
        marks: What is marked.
    """

    name: str
    caption: str
    table: str
    x: Literal["iteration", "length"]
    x_label: str
    y_label: str
    values: "Callable[[Record, pd.DataFrame], pd.Series[float]]"
    scale: Literal["linear", "log", "share"]
    marks: tuple[Mark, ...] = field(default=())

    def of(self, run: Record) -> "pd.Series[float] | None":
        """Return the curve of a run, over the horizontal axis; None if it has none (yet)."""
        table = run.tables.get(self.table)
        return None if table is None else self.values(run, table.set_index(self.x))


def loss_curve(
    loss_name: str, guessing: tuple[float, str] | None = None, remark: str = ""
) -> Curve:
    """Return the moving average of the training loss.

    Args:
        loss_name: What the loss is called. Cross-entropies are drawn on a logarithmic axis: they
            go on falling when every answer is right.
        guessing: A loss to be marked, and what it means.
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
        "log" if "cross-entropy" in loss_name else "linear",
        () if guessing is None else (Mark("y", *guessing),),
    )


def test_curve(
    metric: str, caption: str, *, x_label: str, y_label: str, mark: tuple[float, str]
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
        (Mark("x", *mark),),
    )


def held_out_share(held_out: str, metric: str) -> Curve:
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
    )
