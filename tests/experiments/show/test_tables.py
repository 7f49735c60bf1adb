import math

import pandas as pd
import pytest

from brc_pytorch.experiments.show import statistics, tables
from brc_pytorch.experiments.show.results import read_experiment
from brc_pytorch.experiments.show.tables import compare_cells, summarise
from brc_pytorch.experiments.tasks import CopyFirstInputTask


def rows(directory):
    """The table's rows by their keys, each as a mapping from its columns."""
    table = summarise(read_experiment(directory))
    return {
        tuple(row[: table.keys]): dict(zip(table.columns, row, strict=True)) for row in table.rows
    }


def test_binary_addition_is_told_by_accuracies_over_the_seeds(adding):
    found = rows(adding)
    assert list(found) == [("1", "GRU"), ("1", "BRC"), ("2", "GRU"), ("2", "BRC")]
    for (layers, cell), row in found.items():
        tests = [
            pd.read_csv(adding / f"{cell}-layers{layers}-seed{seed}/test.csv", index_col="length")
            for seed in (0, 1, 2)
        ]
        assert row["seeds"] == "3"
        for title, lengths in {
            "% right at 3-4": slice(3, 4),
            "% right at 4": slice(4, 4),
            "% right at 6": slice(6, 6),
        }.items():
            shares = sorted(100 * test.loc[lengths, "accuracy"].mean() for test in tests)
            low, middle, high = (f"{share:.1f}" for share in shares)  # of three: all of them
            whole = middle if shares[0] == shares[2] else f"{middle} [{low}, {high}]"
            assert row[title] == whole


def test_copy_first_input_is_told_by_its_last_losses(copying):
    for (length, _, cell), row in rows(copying).items():
        directory = copying / f"{cell}-length{length}-layers1-seed0"
        window = 20 if length == "4" else 100
        losses = pd.read_csv(directory / "training.csv")["loss"]
        result = pd.read_json(directory / "result.json", typ="series")
        assert row["training MSE"] == f"{losses[-window:].mean():.3g} (n = 1)"
        assert row["test MSE"] == f"{result['last_test_loss']:.3g} (n = 1)"
        assert row["iterations"] == "100 (n = 1)"
        assert row["parameters"] == f"{result['parameters']:,}"
        assert row["learning rate"] == "0.001"
        time, unit = row["time an iteration"].split()
        assert unit == "ms"
        # Of a tie between two roundings either will do.
        assert float(time) == pytest.approx(10 * result["seconds"], rel=0.006)


def test_the_held_out_error_stands_before_that_of_training(copying):
    columns = summarise(read_experiment(copying)).columns
    assert columns.index("test MSE") < columns.index("training MSE")


def test_the_iterations_to_a_loss_are_those_of_the_moving_average(write_run):
    falling = [1 / i for i in range(1, 301)]
    run = write_run("a", falling, 0.05)
    sums = [sum(falling[i - 100 : i]) for i in range(100, 301)]
    reached = 100 + next(place for place, total in enumerate(sums) if total < 100 * 0.1)
    assert rows(run.parent)["30", "1", "GRU"]["iterations to below 0.1"] == f"{reached} (n = 1)"


def test_runs_that_never_came_so_far_are_told(write_run):
    for seed, level in enumerate((0.05, 0.07, 0.9)):
        write_run(f"GRU-seed{seed}", [level] * 120, level, seed=seed)
    run = write_run("nBRC-seed0", [0.5] * 120, 0.5, cell="nBRC")
    found = rows(run.parent)
    assert found["30", "1", "GRU"]["iterations to below 0.1"] == "100 (2 of 3)"
    assert found["30", "1", "GRU"]["solved"] == "2 of 3"
    assert found["30", "1", "nBRC"]["iterations to below 0.1"] == "never"


def test_unfinished_runs_are_counted_and_not_averaged(write_run):
    write_run("a", [0.25] * 10, 0.5)
    write_run("b", [9.0] * 20, seed=1)
    run = write_run("c", [], cell="nBRC")
    found = rows(run.parent)
    assert found["30", "1", "GRU"]["seeds"] == "1 of 2"
    assert found["30", "1", "GRU"]["training MSE"] == "0.25 (n = 1)"
    assert found["30", "1", "GRU"]["time a run"] == "1 min 15 s"
    assert found["30", "1", "nBRC"] | {"length": "", "layers": "", "cell": ""} == {
        **dict.fromkeys(found["30", "1", "nBRC"], "-"),
        "length": "",
        "layers": "",
        "cell": "",
        "seeds": "0 of 1",
    }


def test_held_out_metrics_of_any_task_are_told(write_run, monkeypatch):
    monkeypatch.setattr(CopyFirstInputTask, "metric_names", ("loss", "accuracy"))
    run = write_run("a", [1.0] * 20, 0.5)
    epochs = pd.read_csv(run / "epochs.csv").assign(test_accuracy=[0.5, 0.875])
    epochs.to_csv(run / "epochs.csv", index=False)
    row = rows(run.parent)["30", "1", "GRU"]
    assert row["test MSE"] == "0.5 (n = 1)"
    assert row["% test accuracy"] == "87.5 (n = 1)"


def test_cells_are_compared_pair_by_pair_in_each_panel(write_run):
    for seed in range(4):
        for cell, loss in (("GRU", 0.5), ("BRC", 0.25 + 0.001 * seed), ("nBRC", 0.25)):
            for length in (30, 60):
                run = write_run(
                    f"{cell}-{length}-seed{seed}",
                    [1.0] * 20,
                    loss,
                    cell=cell,
                    length=length,
                    seed=seed,
                )
    write_run("LSTM-30-seed0", [1.0] * 20, 0.9, cell="LSTM")  # one seed alone cannot be tested
    table = compare_cells(read_experiment(run.parent))
    assert table.columns[:4] == ["length", "layers", "cells", "seeds"]
    assert table.columns[4:] == ["median difference, test MSE", "p", "p by Holm"]
    pairs = [("GRU - BRC", "+0.248"), ("GRU - nBRC", "+0.25"), ("BRC - nBRC", "+0.0015")]
    for place, length in enumerate(("30", "60")):
        found = table.rows[3 * place : 3 * place + 3]
        assert [(row[2], row[4]) for row in found] == pairs
        # Two of four seeds' 16 signs are as far from 0; three pairs are tested. BRC and nBRC are
        # equal in one seed, so that its sign counts for nothing.
        assert [row[5:] for row in found] == [
            ["0.125", "0.375"],
            ["0.125", "0.375"],
            ["0.250", "0.375"],
        ]
        assert {row[0] for row in found} == {length}


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (-2.0, -2.0, "-2"),
        (-2.0, 3.0, "-2 to +3"),
        (2.0, math.inf, "> +2"),
        (-math.inf, -2.0, "< -2"),
        (-math.inf, math.inf, "unknown"),
    ],
)
def test_what_is_known_of_a_difference_is_told(write_run, monkeypatch, low, high, text):
    run = write_run("GRU-seed0", [1.0] * 10, 1.0)
    found = statistics.Difference(("GRU", "BRC"), 3, low, high, 0.25, 0.25)
    monkeypatch.setattr(tables, "differences", lambda *_: [found])
    (row,) = compare_cells(read_experiment(run.parent)).rows
    assert row[4] == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min 00 s"), (202, "3 min 22 s"), (7384, "2 h 03 min")],
)
def test_durations_are_in_their_two_largest_units(seconds, text):
    assert statistics.duration(seconds) == text
