"""What is told of finished runs in numbers: mean, standard error and number of seeds.

A table is text in rows and columns here, whoever shows it.
"""

import dataclasses
import math
import statistics
from collections.abc import Callable, Sequence

from brc_pytorch.experiments.results import Experiment, RunFiles
from brc_pytorch.experiments.train.files import EPOCHS, TEST, TRAINING

_MOST_STEPS = 5
"""Columns of test lengths beyond the longest one trained, at most."""


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


@dataclasses.dataclass(frozen=True)
class Measure:
    """A number of a finished run, and how it is written.

    Attributes:
        title: What it is, with its unit.
        value: Its value, not finite where a run has none.
        show: Writes a value.
        missing: Written where none of the runs has a value.
    """

    title: str
    value: Callable[[RunFiles], float]
    show: Callable[[float], str]
    missing: str = "-"

    def mean(self, runs: Sequence[RunFiles]) -> str:
        """Write the mean of some runs and, of two or more, its standard error.

        Where some runs have no value, it says how many have one.
        """
        values = [value for value in map(self.value, runs) if math.isfinite(value)]
        if not values:
            return self.missing if runs else "-"
        known = "" if len(values) == len(runs) else f" ({len(values)} of {len(runs)})"
        return _mean_and_error(values, self.show) + known


def _mean_and_error(values: Sequence[float], show: Callable[[float], str]) -> str:
    """Write a mean with as many decimals as its standard error has in two digits."""
    mean = statistics.fmean(values)
    if len(values) == 1:
        return show(mean)
    if math.isclose(min(values), max(values)):  # but for rounding
        return f"{show(mean)} ± 0"
    error = statistics.stdev(values) / math.sqrt(len(values))
    decimals = max(0, 1 - math.floor(math.log10(error)))
    return f"{mean:,.{decimals}f} ± {error:,.{decimals}f}"


def _percent(value: float) -> str:
    return f"{value:.1f}"


def _loss(value: float) -> str:
    return f"{value:.3g}"


def _count(value: float) -> str:
    return f"{value:,.0f}"


def duration(seconds: float) -> str:
    """Write a time in its two largest units."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def accuracy(shortest: int, longest: int) -> Measure:
    """Return the mean accuracy over test lengths."""

    def value(run: RunFiles) -> float:
        test = run.tables.get(TEST)
        if test is None:
            return math.nan
        return 100 * float(test.loc[test["length"].between(shortest, longest), "accuracy"].mean())

    lengths = f"{shortest}" if shortest == longest else f"{shortest}-{longest}"
    return Measure(f"% right at {lengths}", value, _percent)


def training_loss(experiment: Experiment, iteration: int | None = None) -> Measure:
    """Return the moving average of the training loss at an iteration, or at the end before it."""

    def value(run: RunFiles) -> float:
        losses = run.tables.get(TRAINING)
        if losses is None:
            return math.nan
        return float(losses["loss"][:iteration].tail(run.window).mean(skipna=False))

    after = "" if iteration is None else f" after {iteration:,} iterations, or at an earlier end"
    return Measure(f"training {experiment.short_loss}{after}", value, _loss)


def _last_held_out(experiment: Experiment, column: str) -> Measure:
    """Return a held-out metric of the last epoch."""
    share = column.endswith("accuracy")

    def value(run: RunFiles) -> float:
        epochs = run.tables.get(EPOCHS)
        if epochs is None:
            return math.nan
        return float(epochs[column].iloc[-1]) * (100 if share else 1)

    title = column.replace("_", " ").replace("loss", experiment.short_loss)
    return Measure(f"% {title}" if share else title, value, _percent if share else _loss)


def iterations_below(loss: float) -> Measure:
    """Return the iterations until the moving average of the training loss is below a value."""

    def value(run: RunFiles) -> float:
        losses = run.tables.get(TRAINING)
        if losses is None:
            return math.nan
        below = losses["loss"].rolling(run.window).mean() < loss
        return float(losses.loc[below, "iteration"].min())

    return Measure(f"iterations to below {loss:g}", value, _count, "never")


def _iterations(run: RunFiles) -> float:
    return math.nan if run.result is None else float(run.result["iterations"])


def measures(experiment: Experiment) -> list[Measure]:
    """Return what is told of the runs of an experiment."""
    settings = experiment.settings
    if "max_test_length" in settings:
        first, limit, last = (
            settings[key] for key in ("min_length", "max_length", "max_test_length")
        )
        step = max(10, 10 * math.ceil((last - limit) / (10 * _MOST_STEPS)))
        lengths = dict.fromkeys((limit, *range(limit + step, last, step), last))
        return [accuracy(first, limit), *(accuracy(length, length) for length in lengths)]
    told = [
        training_loss(experiment),
        *(_last_held_out(experiment, column) for column in experiment.held_out_metrics),
        Measure("iterations", _iterations, _count),
    ]
    if settings.get("stop_below"):
        told.append(iterations_below(settings["stop_below"]))
    return told


def _solved(finished: Sequence[RunFiles]) -> str:
    solved = [run for run in finished if run.result and run.result["solved"]]
    return f"{len(solved)} of {len(finished)}" if finished else "-"


def count_finished(runs: Sequence[RunFiles]) -> str:
    """Write how many of some runs are finished: their number, if all of them are."""
    finished = sum(run.result is not None for run in runs)
    return str(finished) if finished == len(runs) else f"{finished} of {len(runs)}"


def seconds(runs: Sequence[RunFiles]) -> float:
    """Return the time that finished runs were trained for."""
    return math.fsum(run.result["seconds"] for run in runs if run.result)


def summarise(experiment: Experiment) -> Table:
    """Make a table with a row for all seeds of a kind: means and standard errors.

    Numbers are those of finished runs, and of their last epochs.
    """
    told: dict[str, Callable[[Sequence[RunFiles]], str]] = {
        measure.title: measure.mean for measure in measures(experiment)
    }
    if experiment.settings.get("stop_below"):
        told["solved"] = _solved
    told["time a run"] = lambda runs: duration(seconds(runs) / len(runs)) if runs else "-"
    kinds = [*experiment.task.dimensions, "cell"]
    rows = []
    for values, runs in experiment.groups(kinds).items():
        finished = [run for run in runs if run.result is not None]
        numbers = [tell(finished) for tell in told.values()]
        rows.append([*map(str, values), count_finished(runs), *numbers])
    return Table([*kinds, "seeds", *told], rows, len(kinds))
