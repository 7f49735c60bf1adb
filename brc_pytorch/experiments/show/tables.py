"""What is told of finished runs in numbers: mean, standard error and number of seeds.

A table is text in rows and columns here, whoever shows it.
"""

import dataclasses
import functools
from typing import TYPE_CHECKING

from brc_pytorch.experiments.show.results import Experiment, RunFiles
from brc_pytorch.experiments.show.statistics import (
    count_finished,
    count_solved,
    duration,
    mean,
    seconds,
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
    """Make a table with a row for all seeds of a kind: means and standard errors.

    Numbers are those of finished runs, and of their last epochs.
    """
    told: dict[str, Callable[[Sequence[RunFiles]], str]] = {
        measure.title: functools.partial(mean, measure)
        for measure in experiment.task.measures(experiment.settings)
    }
    if experiment.task.can_be_solved(experiment.settings):
        told["solved"] = count_solved
    told["time a run"] = lambda runs: duration(seconds(runs) / len(runs)) if runs else "-"
    kinds = [*experiment.task.dimensions, "cell"]
    rows = []
    for values, runs in experiment.groups(kinds).items():
        finished = [run for run in runs if run.result is not None]
        numbers = [tell(finished) for tell in told.values()]
        rows.append([*map(str, values), count_finished(runs), *numbers])
    return Table([*kinds, "seeds", *told], rows, len(kinds))
