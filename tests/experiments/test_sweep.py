import dataclasses

import pytest

from brc_pytorch.experiments import sweep as sweep_module
from brc_pytorch.experiments.sweep import claim_folder, sweep
from brc_pytorch.experiments.tasks import BinaryAdditionTask, CopyFirstInputTask
from brc_pytorch.experiments.training import Run

TASK = CopyFirstInputTask(
    length=4, layers=1, hidden_size=4, train_size=20, test_size=10, batch_size=10, epochs=2
)
RUNS = [Run(TASK, cell, seed) for seed in (0, 1) for cell in ("GRU", "nBRC")]


def test_every_run_is_trained_in_a_directory_of_its_own(tmp_path):
    seen = []
    outcomes = sweep(RUNS, tmp_path, finished=seen.append)
    assert [outcome.run for outcome in outcomes] == RUNS
    assert seen == outcomes
    assert not any(outcome.skipped or outcome.error for outcome in outcomes)
    assert {path.parent.name for path in tmp_path.glob("*/result.json")} == {
        f"{cell}-length4-layers1-seed{seed}" for cell in ("GRU", "nBRC") for seed in (0, 1)
    }


def test_finished_runs_are_skipped_and_new_ones_added(tmp_path, monkeypatch):
    sweep(RUNS[:2], tmp_path)
    trained = []
    original = sweep_module.train

    def train(run, directory, *arguments, **options):
        if not (directory / "result.json").exists():
            trained.append(run)
        return original(run, directory, *arguments, **options)

    monkeypatch.setattr(sweep_module, "train", train)
    longer = Run(dataclasses.replace(TASK, length=6, layers=2), "LSTM", 0)
    outcomes = sweep([*RUNS, longer], tmp_path)
    assert trained == [*RUNS[2:], longer]
    assert [outcome.skipped for outcome in outcomes] == [True, True, False, False, False]


def test_processes_give_what_one_process_gives(tmp_path, outcome, own_cells):
    """Also with a run that fails among them, which ends no other."""
    runs = [*RUNS[:3], Run(TASK, f"{own_cells}:Broken", 0)]
    seen = []
    alone = sweep(runs, tmp_path / "alone")
    together = sweep(runs, tmp_path / "together", jobs=2, report=seen.append)
    for outcomes in (alone, together):
        assert [str(result.error) for result in outcomes] == [
            "None",
            "None",
            "None",
            "this cell cannot be built",
        ]
    for run in runs[:3]:
        assert outcome(tmp_path / "alone" / run.name) == outcome(tmp_path / "together" / run.name)
    assert {progress.name for progress in seen} == {run.name for run in runs[:3]}


def test_an_output_folder_of_another_experiment_is_refused(tmp_path):
    claim_folder(RUNS, tmp_path)
    other = Run(dataclasses.replace(TASK, epochs=9, stop_below=0.2), "GRU", 0)
    message = f"{tmp_path} holds another one: epochs is 2 there, 9 here; stop_below is 0.1 there"
    with pytest.raises(ValueError, match=message):
        sweep([other], tmp_path)
    with pytest.raises(ValueError, match="task is 'copy-first-input' there, 'binary-addition'"):
        sweep([Run(BinaryAdditionTask(), "GRU", 0)], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["experiment.json"]


def test_an_output_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="output: expected a folder, got the file"):
        sweep(RUNS, tmp_path / "file")


def test_bad_arguments_are_named(tmp_path):
    with pytest.raises(ValueError, match="runs: expected at least one, got none"):
        sweep([], tmp_path)
    with pytest.raises(ValueError, match="jobs: expected 1 or more, got 0"):
        sweep(RUNS, tmp_path, jobs=0)
    mixed = [RUNS[0], Run(dataclasses.replace(TASK, hidden_size=9), "GRU", 0)]
    with pytest.raises(ValueError, match="hidden_size is 4"):
        sweep(mixed, tmp_path)
