"""What is told of finished runs in numbers: medians over the seeds, and how cells differ.

A table is text in rows and columns here, whoever shows it.
"""

import dataclasses
import functools
import math
from typing import TYPE_CHECKING

from brc_pytorch.experiments.show.results import Experiment, RunFiles
from brc_pytorch.experiments.show.statistics import (
    count_finished,
    count_solved,
    differences,
    duration,
    learning_rates,
    median,
    parameters,
    seconds,
    time_an_iteration,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@dataclasses.dataclass(frozen=True)
class Table:
    """A table as text.

    Attributes:
        columns: Titles of the columns.
        rows: A text for each column.
        keys: How many columns, from the first one on, say what a row is about.
    """

    columns: list[str]
    rows: list[list[str]]
    keys: int


def summarise(experiment: Experiment) -> Table:
    """Make a table with a row for all seeds of a kind: medians and their intervals.

    Numbers are those of finished runs, and of their last epochs.
    """
    told: dict[str, Callable[[Sequence[RunFiles]], str]] = {
        measure.title: functools.partial(median, measure)
        for measure in experiment.task.measures(experiment.settings)
    }
    if experiment.task.can_be_solved(experiment.settings):
        told["solved"] = count_solved
    told["parameters"] = parameters
    told["learning rate"] = learning_rates
    told["time an iteration"] = time_an_iteration
    told["time a run"] = lambda runs: duration(seconds(runs) / len(runs)) if runs else "-"
    kinds = [*experiment.task.dimensions, "cell"]
    rows = []
    for values, runs in experiment.groups(kinds).items():
        finished = [run for run in runs if run.result is not None]
        numbers = [tell(finished) for tell in told.values()]
        rows.append([*map(str, values), count_finished(runs), *numbers])
    return Table([*kinds, "seeds", *told], rows, len(kinds))


def compare_cells(experiment: Experiment) -> Table:
    """Make a table with a row for each pair of cells, by the measure that cells are compared by.

    Pairs that have but one seed in common are left out.
    """
    measure = experiment.task.measures(experiment.settings)[0]
    kinds = [*experiment.task.dimensions]
    rows = [
        [
            *map(str, values),
            " - ".join(found.cells),
            str(found.seeds),
            _between(found.low, found.high),
            f"{found.p:.3f}",
            f"{found.corrected:.3f}",
        ]
        for values, runs in experiment.groups(kinds).items()
        for found in differences(measure, [run for run in runs if run.result is not None])
    ]
    columns = [*kinds, "cells", "seeds", f"median difference, {measure.title}", "p", "p by Holm"]
    return Table(columns, rows, len(kinds) + 1)


def _between(low: float, high: float) -> str:
    """Write a difference that lies between two bounds, which may be infinite."""
    if low == high:
        return f"{low:+.3g}"
    if math.isfinite(low) and math.isfinite(high):
        return f"{low:+.3g} to {high:+.3g}"
    if math.isfinite(low):
        return f"> {low:+.3g}"
    return f"< {high:+.3g}" if math.isfinite(high) else "unknown"
