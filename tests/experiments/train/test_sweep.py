import dataclasses
import importlib
import subprocess
import sys

import pytest
import torch

from brc_pytorch.experiments.files import LOCK, read_json
from brc_pytorch.experiments.tasks import BinaryAdditionTask, CopyFirstInputTask
from brc_pytorch.experiments.train import executors
from brc_pytorch.experiments.train import sweep as sweep_module
from brc_pytorch.experiments.train.locks import hold
from brc_pytorch.experiments.train.run import Run
from brc_pytorch.experiments.train.sweep import check_plan, claim_folder, sweep, sweep_all
from brc_pytorch.experiments.train.training import train

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
    original = executors.train

    def train(run, directory, *arguments, **options):
        if not (directory / "result.json").exists():
            trained.append(run)
        return original(run, directory, *arguments, **options)

    monkeypatch.setattr(executors, "train", train)
    longer = Run(dataclasses.replace(TASK, length=6, layers=2), "LSTM", 0)
    outcomes = sweep([*RUNS, longer], tmp_path)
    assert trained == [*RUNS[2:], longer]
    assert [outcome.skipped for outcome in outcomes] == [True, True, False, False, False]


def test_processes_give_what_one_process_gives(tmp_path, monkeypatch, outcome, own_cells):
    """Also with a run that fails among them, which ends no other."""
    monkeypatch.setattr(sys, "argv", ["/some/where/brc", "sweep", "my file.toml"])
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
        for folder in ("alone", "together"):
            (start,) = read_json(tmp_path / folder / run.name / "config.json")["starts"]
            assert start["command"] == "brc sweep 'my file.toml'"
    assert {progress.directory.name for progress in seen} == {run.name for run in runs[:3]}


def test_an_output_folder_of_another_experiment_is_refused(tmp_path):
    claim_folder(RUNS, tmp_path)
    other = Run(dataclasses.replace(TASK, epochs=9, stop_below=0.2), "GRU", 0)
    message = f"{tmp_path} holds another one: epochs is 2 there, 9 here; stop_below is 0.1 there"
    with pytest.raises(ValueError, match=message):
        sweep([other], tmp_path)
    with pytest.raises(ValueError, match="task is 'copy-first-input' there, 'binary-addition'"):
        sweep([Run(BinaryAdditionTask(), "GRU", 0)], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["experiment.json"]


def test_several_experiments_have_folders_of_their_own_also_for_equal_runs(tmp_path):
    longer = [Run(dataclasses.replace(TASK, epochs=3), "GRU", 0)]
    experiments = {tmp_path / "a": RUNS[:2], tmp_path / "b": longer, tmp_path / "c": RUNS[:1]}
    outcomes = sweep_all(experiments)
    assert [(outcome.directory.parent.name, outcome.run) for outcome in outcomes] == [
        ("a", RUNS[0]),
        ("a", RUNS[1]),
        ("b", longer[0]),
        ("c", RUNS[0]),
    ]
    assert not any(outcome.skipped or outcome.error for outcome in outcomes)
    assert len(list(tmp_path.glob("*/*/result.json"))) == 4


def test_nothing_is_begun_unless_all_can_be(tmp_path):
    claim_folder(RUNS, tmp_path / "taken")
    other = [Run(dataclasses.replace(TASK, epochs=9), "GRU", 0)]
    with pytest.raises(ValueError, match="taken holds another one: epochs is 2 there, 9 here"):
        sweep_all({tmp_path / "free": RUNS, tmp_path / "taken": other})
    assert not (tmp_path / "free").exists()


def test_a_run_that_another_process_trains_is_left_to_it(tmp_path, monkeypatch):
    """First it is held, then given up by its holder, then trained; the others do not wait."""
    monkeypatch.setattr(sweep_module, "_SECONDS_BETWEEN_TRIES", 0)
    directory = tmp_path / RUNS[0].name
    directory.mkdir()
    held = hold(directory / LOCK, "held")
    held.__enter__()
    told, finished = [], []

    def finish(outcome):
        finished.append(outcome.run)
        if len(finished) == len(RUNS) - 1:
            held.__exit__(None, None, None)

    outcomes = sweep(RUNS, tmp_path, waiting=told.append, finished=finish)
    (error,) = told
    assert str(error).startswith(f"{RUNS[0].name} is being trained by process ")
    assert finished == [*RUNS[1:], RUNS[0]]
    assert not any(outcome.skipped or outcome.error for outcome in outcomes)


def test_a_run_that_another_process_finishes_is_not_repeated(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep_module, "_SECONDS_BETWEEN_TRIES", 0)
    directory = tmp_path / RUNS[0].name
    train(RUNS[0], tmp_path / "elsewhere")
    directory.mkdir()
    held = hold(directory / LOCK, "held")
    held.__enter__()

    def finish_it(_):
        held.__exit__(None, None, None)
        (tmp_path / "elsewhere").replace(directory.with_name("moving"))
        (directory / LOCK).unlink()
        directory.rmdir()
        directory.with_name("moving").replace(directory)

    (outcome,) = sweep(RUNS[:1], tmp_path, waiting=finish_it)
    assert outcome.skipped
    assert len(read_json(directory / "config.json")["starts"]) == 1


@pytest.mark.slow
def test_two_processes_given_one_run_train_it_once(tmp_path, outcome):
    run = Run(dataclasses.replace(TASK, epochs=60), "nBRC", 0)
    code = f"""
import sys, torch
from pathlib import Path
from brc_pytorch.experiments.train.sweep import sweep
from brc_pytorch.experiments.tasks import CopyFirstInputTask
from brc_pytorch.experiments.train.run import Run
torch.set_num_threads(1)
print("ready", flush=True)
sys.stdin.readline()
(outcome,) = sweep([{run!r}], Path("out"), waiting=print)
print(outcome.skipped, outcome.error)
"""
    processes = [
        subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-c", code],
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=600)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    lines = sorted((text.splitlines() for text in said), key=lambda lines: lines[-1])
    assert lines[0] == ["False None"]
    *waited, last = lines[1]
    assert last == "True None"  # without a wait where the other had already finished
    # Which one, it cannot say in the moment before the other has written it.
    assert all(line.startswith(f"{run.name} is being trained by ") for line in waited)
    directory = tmp_path / "out" / run.name
    assert len(read_json(directory / "config.json")["starts"]) == 1
    train(run, tmp_path / "alone")
    assert outcome(directory) == outcome(tmp_path / "alone")
    assert {path.name for path in directory.iterdir()} == {
        path.name for path in (tmp_path / "alone").iterdir()
    }


def test_each_process_has_a_device_while_there_are_enough(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert executors.devices("auto") == executors.devices("cuda") == ["cuda:0", "cuda:1", "cuda:2"]
    assert executors.devices("cuda:1") == ["cuda:1"]
    assert executors.devices("cpu") == ["cpu"]
    assert check_plan() == 3
    assert check_plan(device="cuda:1") == check_plan(device="cpu") == 1
    assert check_plan(jobs=5) == 5


PLACES = """
import os, time
from brc_pytorch.experiments.train import executors

def device(folder):
    (folder / str(os.getpid())).touch()
    while len(list(folder.iterdir())) < 3:  # so that no process takes two calls
        time.sleep(0.05)
    return executors._worker["device"]
"""


@pytest.mark.slow
def test_processes_take_the_devices_in_turn(tmp_path, monkeypatch):
    (tmp_path / "places.py").write_text(PLACES)
    monkeypatch.syspath_prepend(tmp_path)
    device = importlib.import_module("places").device
    (tmp_path / "begun").mkdir()
    with executors.in_processes(3, ["first", "second"], None) as (executor, _):
        taken = list(executor.map(device, [tmp_path / "begun"] * 3, timeout=600))
    assert sorted(taken) == ["first", "first", "second"]


def test_an_output_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="output: expected a folder, got the file"):
        sweep(RUNS, tmp_path / "file")


def test_bad_arguments_are_named(tmp_path):
    with pytest.raises(ValueError, match="runs: expected at least one, got none"):
        sweep([], tmp_path)
    with pytest.raises(ValueError, match="jobs: expected 1 or more, got 0"):
        sweep(RUNS, tmp_path, jobs=0)
    with pytest.raises(ValueError, match=r"jobs: expected none with dask, .* got 2"):
        sweep(RUNS, tmp_path, jobs=2, dask="tcp://127.0.0.1:1")
    mixed = [RUNS[0], Run(dataclasses.replace(TASK, hidden_size=9), "GRU", 0)]
    with pytest.raises(ValueError, match="hidden_size is 4"):
        sweep(mixed, tmp_path)
