import json
from pathlib import Path

import pandas as pd
import pytest

from brc_pytorch.datasets import STATE_PROBLEMS
from brc_pytorch.experiments.files import TEST
from brc_pytorch.experiments.show.comparison import compare, read_others
from brc_pytorch.experiments.show.results import Experiment, RunFiles, read_experiment
from brc_pytorch.experiments.show.tables import summarise
from brc_pytorch.experiments.tasks import CELLS, TASKS

PUBLISHED = Path(__file__).parents[3] / "docs" / "results"
TABLE = {
    "task": "copy-first-input",
    "settings": {"hidden_size": 4},
    "measure": "training_loss",
    "at": 120,
    "rows": [
        {"length": 30, "cell": "GRU", "value": "about 0.7"},
        {"length": 30, "cell": "LSTM", "value": 0.8},
    ],
}


@pytest.fixture
def others(tmp_path):
    """A function that reads a file with one table, in which some fields are others."""

    def read(**fields):
        path = tmp_path / "others.json"
        content = {"source": "theirs", "origin": "guessed", "tables": [{**TABLE, **fields}]}
        path.write_text(json.dumps(content))
        return read_others(path)

    return read


def test_results_stand_beside_those_of_somebody_else(write_run, others):
    for seed in (0, 1, 2):
        losses = [1.0] * 20 + [0.1 * (seed + 1)] * 100 + [9.0] * 30
        write_run(f"GRU-seed{seed}", losses, 0.5, seed=seed)
    run = write_run("GRU-length5", [1.0] * 10, 0.5, length=5)
    (comparison,) = compare(read_experiment(run.parent), others())
    assert comparison.title == "training MSE after 120 iterations, or at an earlier end"
    assert comparison.differences == []
    assert comparison.table.columns == ["length", "cell", "seeds", "here", "theirs"]
    assert comparison.table.rows == [
        ["30", "GRU", "3", "0.2 [0.1, 0.3]", "about 0.7"],
        ["30", "LSTM", "0", "-", "0.8"],
    ]


def test_accuracies_and_iterations_are_compared_as_in_the_summary(adding, write_run, others):
    experiment = read_experiment(adding)
    rows = [{"layers": 2, "cell": "BRC", "value": "98.7"}]
    accuracy = others(
        task="binary-addition", measure="accuracy", at=6, settings={"hidden_size": 4}, rows=rows
    )
    (comparison,) = compare(experiment, accuracy)
    summary = summarise(experiment)
    (row,) = [row for row in summary.rows if row[:2] == ["2", "BRC"]]
    here = row[summary.columns.index("% right at 6")]
    assert comparison.table.rows == [["2", "BRC", "3", here, "98.7"]]

    run = write_run("GRU-seed0", [0.2] * 50 + [0.05] * 200, 0.05)
    (comparison,) = compare(read_experiment(run.parent), others(measure="iterations_below", at=0.1))
    first = 50 + next(n for n in range(101) if 0.2 * (100 - n) + 0.05 * n < 100 * 0.1)
    assert comparison.table.rows[0] == ["30", "GRU", "1", f"{first} (n = 1)", "about 0.7"]


def tracker(cell, seed, fails, problem="Z2", **settings):
    """A run of state tracking on up to 64 steps that fails at one of the lengths tested."""
    lengths = [64, 72, 80, 88]
    table = pd.DataFrame(
        {"length": lengths, "accuracy": [0.8 + 0.1 * (n < fails) for n in lengths]}
    )
    settings = {"cell": cell, "seed": seed, "problem": problem, "length": 64, **settings}
    return RunFiles(Path(f"{cell}-{seed}"), settings, [], {"iterations": 1}, {TEST: table})


def test_other_models_stand_below_all_our_cells(others):
    shared = {"task": "state-tracking", "length": 64, "max_test_length": 88}
    runs = [tracker("GRU", 0, 72), tracker("GRU", 1, 10**6), tracker("nBRC", 0, 64)]
    runs.append(tracker("GRU", 0, 80, problem="A5"))
    rows = [
        {"problem": "Z2", "model": "Mamba", "value": "4,352"},
        {"problem": "A5", "model": "Mamba", "value": "not learned"},
        {"problem": "Z2", "model": "AUSSM", "value": 144},
    ]
    fields = {"task": "state-tracking", "measure": "failing_length", "at": 0.85, "rows": rows}
    theirs = others(**fields, settings={"length": 64})
    (comparison,) = compare(Experiment(Path(), shared, runs, [], []), theirs)
    title = "failing length (below 85% right)"
    assert comparison.title == title
    assert comparison.table.columns == ["problem", "cell or model", "seeds", title, "from"]
    assert comparison.table.keys == 2
    assert comparison.table.rows == [
        ["Z2", "GRU", "2", "72 [72, > 88]", "here"],  # half way to "more" is no number
        ["Z2", "nBRC", "1", "not learned (n = 1)", "here"],
        ["Z2", "Mamba", "-", "4,352", "theirs"],
        ["Z2", "AUSSM", "-", "144", "theirs"],
        ["A5", "GRU", "1", "80 (n = 1)", "here"],
        ["A5", "Mamba", "-", "not learned", "theirs"],
    ]
    theirs = others(**fields, settings={"length": 32})
    (comparison,) = compare(Experiment(Path(), shared, runs, [], []), theirs)
    assert comparison.differences == ["length is 64 here, 32 there"]
    assert comparison.table.rows == []


def test_runs_with_another_learning_rate_are_not_compared(write_run, others):
    write_run("GRU-seed0", [0.5] * 120, 0.5, learning_rate=0.01)
    run = write_run("LSTM-seed0", [0.25] * 120, 0.25, cell="LSTM")
    experiment = read_experiment(run.parent)
    (comparison,) = compare(experiment, others(settings={"learning_rate": 0.001}))
    assert comparison.differences == []
    assert [row[2] for row in comparison.table.rows] == ["0", "1"]
    (comparison,) = compare(experiment, others(settings={"learning_rate": 0.1}))
    assert comparison.differences == ["learning_rate is 0.001, 0.01 here, 0.1 there"]


def test_other_settings_and_other_tasks_are_not_compared(write_run, others):
    run = write_run("GRU-seed0", [0.5] * 120, 0.5)
    experiment = read_experiment(run.parent)
    (comparison,) = compare(experiment, others(settings={"hidden_size": 100, "stop_below": 0.1}))
    assert comparison.differences == ["hidden_size is 4 here, 100 there"]
    assert comparison.table.rows == []
    assert compare(experiment, others(task="binary-addition")) == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"measure": "speed"},
            r"tables\[0\].measure to be one of accuracy, training_loss.*'speed'",
        ),
        ({"rows": [{"cell": "GRU"}]}, r"tables\[0\].rows\[0\].value, a value, got none"),
        ({"rows": []}, r"rows in tables\[0\], got none"),
        ({"extra": 1}, "rows in .*, got extra"),
        ({"at": None}, "a number for .*at, got None"),
        ({"rows": [3]}, "a mapping for .*, got 3"),
    ],
)
def test_a_file_of_something_else_is_refused(others, fields, message):
    with pytest.raises(ValueError, match=rf"json: expected .*{message}"):
        others(**fields)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nothing\.json: expected a JSON object, got No such"):
        read_others(tmp_path / "nothing.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ValueError, match=r"broken\.json: expected a JSON object"):
        read_others(tmp_path / "broken.json")


def test_the_published_models_are_those_of_problems_that_there_are():
    (table,) = read_others(PUBLISHED / "state-space-models.json").tables
    task = TASKS[table.task](**table.settings)
    assert task == TASKS[table.task]()  # trained as ours are, unless told otherwise
    problems = [row["problem"] for row in table.rows]
    assert len(problems) == 3 * 3
    assert set(problems) <= set(STATE_PROBLEMS)


def test_the_published_file_names_runs_that_the_commands_make():
    others = read_others(PUBLISHED / "brc-pytorch-0.1.3.json")
    for table in others.tables:
        task = TASKS[table.task]()
        assert TASKS[table.task](**table.settings)  # they are settings of the task
        others_than_ours = {
            name for name, value in table.settings.items() if getattr(task, name) != value
        }
        assert others_than_ours == ({"train_size"} if table.task == "copy-first-input" else set())
        for row in table.rows:
            assert row["cell"] in CELLS
            assert set(row) == {*task.dimensions, "cell", "value"}
