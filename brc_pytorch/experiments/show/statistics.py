"""Means over runs, and other numbers of several runs, as text."""

import math
import statistics
from collections.abc import Callable, Sequence

from brc_pytorch.experiments.show.results import RunFiles
from brc_pytorch.experiments.tasks.measures import Measure


def mean(measure: Measure, runs: Sequence[RunFiles]) -> str:
    """Write the mean of a measure of some runs and, of two or more, its standard error.

    Where some runs have no value, it says how many have one.
    """
    values = [value for value in map(measure.value, runs) if math.isfinite(value)]
    if not values:
        return measure.missing if runs else "-"
    known = "" if len(values) == len(runs) else f" ({len(values)} of {len(runs)})"
    return _mean_and_error(values, measure.show) + known


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


def duration(seconds: float) -> str:
    """Write a time in its two largest units."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def count_solved(finished: Sequence[RunFiles]) -> str:
    """Write how many of some finished runs ended because they were solved."""
    solved = [run for run in finished if run.result and run.result["solved"]]
    return f"{len(solved)} of {len(finished)}" if finished else "-"


def count_finished(runs: Sequence[RunFiles]) -> str:
    """Write how many of some runs are finished: their number, if all of them are."""
    finished = sum(run.result is not None for run in runs)
    return str(finished) if finished == len(runs) else f"{finished} of {len(runs)}"


def seconds(runs: Sequence[RunFiles]) -> float:
    """Return the time that finished runs were trained for."""
    return math.fsum(run.result["seconds"] for run in runs if run.result)
