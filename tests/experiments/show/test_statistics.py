import dataclasses
import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import binom

from brc_pytorch.experiments.show import statistics
from brc_pytorch.experiments.tasks.measures import Measure

PLAIN = Measure("", lambda run: run.value, lambda value: f"{value:.3g}")
LOGARITHMIC = Measure("", lambda run: run.value, str, scale="log")


def runs(values, cell="GRU"):
    return [
        SimpleNamespace(value=value, settings={"cell": cell, "seed": seed})
        for seed, value in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([0.25], "0.25 (n = 1)"),
        ([1.0, 3.0], "2 [1, 3]"),
        ([0.5, 0.5], "0.5"),
        ([0.1234, 0.9, 0.5], "0.5 [0.123, 0.9]"),
        ([100, 100, 63, 22, 100], "100 [22, 100]"),
        ([0.5, math.nan], "0.5 (1 of 2)"),
        ([0.5, 0.7, math.inf], "0.6 [0.5, 0.7] (2 of 3)"),
        ([math.nan], "-"),
        ([], "-"),
    ],
)
def test_a_median_is_told_with_its_interval_and_the_runs_that_have_it(values, text):
    assert statistics.median(PLAIN, runs(values)) == text


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([1.0, 3.0], "1 [1, 3]"),
        ([1.0, 3.0, 9.0], "3 [1, 9]"),
        ([9.0, 9.0, 1.0, 3.0], "3 [1, 9]"),
    ],
)
def test_a_median_of_capped_values_is_one_of_them(values, text):
    assert statistics.median(dataclasses.replace(PLAIN, cap=8.0), runs(values)) == text


def test_an_interval_is_that_of_the_bootstrapped_median():
    values = [float(value) for value in range(9)]
    found = statistics.interval(values)
    # A resample's median is at most k if five or more of its nine values are.
    below = [binom.sf(4, 9, (k + 1) / 9) for k in range(9)]
    assert found.median == 4
    assert found.low == next(k for k in range(9) if below[k] > 0.025)
    assert found.high == next(k for k in range(9) if below[k] > 0.975)
    assert statistics.interval(values) == found  # it repeats


def signs_test(differences):
    """The share of all signs that give a mean at least as far from 0."""
    observed = abs(sum(differences))
    signs = list(itertools.product((-1, 1), repeat=len(differences)))
    extreme = [abs(np.dot(each, differences)) >= observed - 1e-9 for each in signs]
    return sum(extreme) / len(signs)


def test_p_is_exact_and_paired_by_seed():
    first, second = [5.0, 7.0, 4.0, 9.0, 6.5], [4.0, 7.5, 2.0, 8.0, 6.0]
    both = [*runs(first, "A"), *reversed(runs(second, "B"))]
    (found,) = statistics.differences(PLAIN, both)
    assert found.cells == ("A", "B")
    assert found.seeds == 5
    assert found.low == found.high == 1
    assert found.p == pytest.approx(signs_test([1, -0.5, 2, 1, 0.5]))
    assert found.corrected == found.p


def test_five_seeds_cannot_give_less_than_two_of_32():
    (found,) = statistics.differences(PLAIN, [*runs([1.0] * 5, "A"), *runs([2.0] * 5, "B")])
    assert found.p == 2 / 32


def test_logarithms_differ_where_the_scale_is_logarithmic():
    first, second = [1.0, 1.0, 1000.0], [2.0, 2.0, 500.0]
    (plain,) = statistics.differences(PLAIN, [*runs(first, "A"), *runs(second, "B")])
    assert plain.p == pytest.approx(signs_test([-1, -1, 500]))
    (logs,) = statistics.differences(LOGARITHMIC, [*runs(first, "A"), *runs(second, "B")])
    assert logs.p == pytest.approx(signs_test([-1, -1, 1])) == 1


@pytest.mark.parametrize(
    ("first", "second", "low", "high"),
    [
        ([1.0, 3.0, 9.0], [2.0, 2.0, 9.0], -1, 1),  # the last pair may differ either way
        ([9.0, 9.0, 3.0], [1.0, 2.0, 3.0], 6, math.inf),
        ([1.0, 2.0, 3.0], [9.0, 9.0, 3.0], -math.inf, -6),
        ([9.0, 9.0], [9.0, 9.0], -math.inf, math.inf),
        ([1.0, 2.0, 8.0], [1.0, 1.0, 8.0], 0, 0),
    ],
)
def test_a_difference_of_capped_values_lies_between_bounds(first, second, low, high):
    capped = dataclasses.replace(PLAIN, cap=8.0)
    (found,) = statistics.differences(capped, [*runs(first, "A"), *runs(second, "B")])
    assert (found.low, found.high) == (low, high)


def test_all_pairs_are_corrected_together_by_holm():
    rng = np.random.default_rng(1)
    values = {cell: rng.normal(place, 1, 6) for place, cell in enumerate("ABC")}
    found = statistics.differences(
        PLAIN, [run for cell, each in values.items() for run in runs(each, cell)]
    )
    assert [pair.cells for pair in found] == [("A", "B"), ("A", "C"), ("B", "C")]
    worst = 0.0
    for factor, pair in zip((3, 2, 1), sorted(found, key=lambda pair: pair.p), strict=True):
        worst = max(worst, min(1, factor * pair.p))
        assert pair.corrected == pytest.approx(worst)


def test_seeds_that_one_cell_lacks_are_left_out():
    first, second = runs([1.0, 2.0, math.nan, 4.0], "A"), runs([2.0, 4.0, 6.0], "B")
    (found,) = statistics.differences(PLAIN, [*first, *second])
    assert found.seeds == 2
    assert statistics.differences(PLAIN, [*first, *second[:1]]) == []
    assert statistics.differences(PLAIN, first) == []
