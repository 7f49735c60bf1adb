"""Medians over runs, tests between cells, and other numbers of several runs.

Results of recurrent networks are bounded and often in two humps, learned or not learned: a median
with a bootstrap interval and a permutation test suppose nothing else.
"""

import functools
import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from brc_pytorch.experiments.show.results import RunFiles
from brc_pytorch.experiments.tasks.measures import Measure

if TYPE_CHECKING:
    from numpy.typing import NDArray

CONFIDENCE = 0.95
RESAMPLES = 9_999
"""Of the bootstrap; and above them a test is no longer exact, from 14 seeds on."""


@dataclass(frozen=True)
class Interval:
    """A median over runs.

    Attributes:
        values: Of the runs that have one.
        median: Theirs.
        low: Lower end of the interval of the median; None of one run.
        high: Its upper end.
    """

    values: list[float]
    median: float
    low: float | None
    high: float | None


def interval(values: Sequence[float], *, capped: bool = False) -> Interval:
    """Return the median of some values, and its percentile bootstrap interval of 95 %.

    Of five values or fewer the interval reaches from the lowest to the highest one.

    Args:
        values: At least one, all finite.
        capped: Whether the largest values are only known to be large. Then the median of an even
            number of values is the lower one of the two in the middle, since their mean is unknown.
    """
    median = statistics.median_low(values) if capped else statistics.median(values)
    if len(values) == 1:
        return Interval([*values], median, None, None)
    from scipy.stats import bootstrap  # noqa: PLC0415 - takes a second

    found = bootstrap(
        (np.asarray(values),),
        functools.partial(np.quantile, q=0.5, method="lower") if capped else np.median,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),  # the same data give the same text
    ).confidence_interval
    return Interval([*values], median, float(found.low), float(found.high))


def median(measure: Measure, runs: Sequence[RunFiles]) -> str:
    """Write the median of a measure of some runs, and its interval or that there is but one run.

    Where some runs have no value, it says how many have one.
    """
    values = [value for value in map(measure.value, runs) if math.isfinite(value)]
    if not values:
        return measure.missing if runs else "-"
    found = interval(values, capped=measure.capped)
    text = measure.show(found.median)
    if found.low is None or found.high is None:
        text += " (n = 1)" if len(runs) == 1 else ""
    elif {measure.show(found.low), measure.show(found.high)} != {text}:
        text += f" [{measure.show(found.low)}, {measure.show(found.high)}]"
    return text if len(values) == len(runs) else f"{text} ({len(values)} of {len(runs)})"


@dataclass(frozen=True)
class Difference:
    """Two cells beside each other, seed by seed.

    Attributes:
        cells: Their names.
        seeds: Seeds that both have a value for.
        low: Lower bound of the median difference, the first cell's value less the second's.
        high: Its upper bound, which is the same where all values are known.
        p: Of the exact two-sided permutation test.
        corrected: The same by Holm's correction, for all pairs of cells that are compared.
    """

    cells: tuple[str, str]
    seeds: int
    low: float
    high: float
    p: float
    corrected: float


def differences(measure: Measure, runs: Sequence[RunFiles]) -> list[Difference]:
    """Test all pairs of cells for a difference in a measure.

    Runs of the same seed share their data, so they are paired. If two cells do not differ, the sign
    of each difference is a coin toss: of all 2^n signs of n seeds, p is the share that give a mean
    at least as far from 0. So it is never below 2 / 2^n. On a logarithmic measure it is the
    logarithms that differ.

    Args:
        measure: The measure.
        runs: Runs that differ in cell and seed alone.

    Returns:
        The pairs that have two seeds or more in common, in the order of the runs.
    """
    values: dict[str, dict[int, float]] = {}
    for run in runs:
        value = measure.value(run)
        if math.isfinite(value):
            values.setdefault(run.settings["cell"], {})[run.settings["seed"]] = value
    pairs: list[tuple[tuple[str, str], tuple[NDArray[np.float64], NDArray[np.float64]]]] = []
    for first, second in itertools.combinations(values, 2):
        seeds = [seed for seed in values[first] if seed in values[second]]
        if len(seeds) > 1:
            one, other = (
                np.array([values[cell][seed] for seed in seeds]) for cell in (first, second)
            )
            pairs.append(((first, second), (one, other)))
    if not pairs:
        return []
    from statsmodels.stats.multitest import multipletests  # noqa: PLC0415 - takes a second

    tested = [_permutation_test(*both, measure.scale == "log") for _, both in pairs]
    corrected = multipletests(tested, method="holm")[1]
    return [
        Difference(cells, len(values[0]), *_median_difference(measure, *values), p, float(holm))
        for (cells, values), p, holm in zip(pairs, tested, corrected, strict=True)
    ]


def _median_difference(
    measure: Measure, first: "NDArray[np.float64]", second: "NDArray[np.float64]"
) -> tuple[float, float]:
    """Return bounds of the median of first - second: a value above the cap is anywhere above it."""
    at_least = [np.minimum(values, measure.cap) for values in (first, second)]
    at_most = [np.where(values > measure.cap, math.inf, values) for values in (first, second)]
    lows, highs = at_least[0] - at_most[1], at_most[0] - at_least[1]
    return float(np.median(lows)), float(np.median(highs))


def _permutation_test(
    first: "NDArray[np.float64]", second: "NDArray[np.float64]", logarithmic: bool
) -> float:
    from scipy.stats import permutation_test  # noqa: PLC0415 - takes a second

    if logarithmic and min(first.min(), second.min()) > 0:
        first, second = np.log(first), np.log(second)
    found = permutation_test(
        (first, second),
        lambda a, b, axis: np.mean(a - b, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        rng=np.random.default_rng(0),
    )
    return float(found.pvalue)


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


def parameters(runs: Sequence[RunFiles]) -> str:
    """Write the number of trained parameters of some finished runs."""
    counts = sorted({run.result["parameters"] for run in runs if run.result})
    return ", ".join(f"{count:,}" for count in counts) or "-"


def time_an_iteration(runs: Sequence[RunFiles]) -> str:
    """Write the median time of a gradient iteration, with its share of the held-out evaluation."""
    times = [run.result["seconds"] / run.result["iterations"] for run in runs if run.result]
    return f"{1000 * statistics.median(times):.3g} ms" if times else "-"


def learning_rates(runs: Sequence[RunFiles]) -> str:
    """Write the learning rates of some runs."""
    rates = sorted({run.settings["learning_rate"] for run in runs})
    return ", ".join(f"{rate:g}" for rate in rates) or "-"
