import dataclasses
import json
import sys

import pandas as pd
import pytest
import torch

from brc_pytorch.experiments.tasks import BinaryAdditionTask, CopyFirstInputTask
from brc_pytorch.experiments.tasks import settings as task_settings
from brc_pytorch.experiments.train.run import Run
from brc_pytorch.experiments.train.sweep import sweep
from tests.one_thread import one_thread  # noqa: F401 - for all tests here

OWN_CELLS = '''
import torch
from torch import nn


class Plain(nn.Module):
    """One tensor as its state, random numbers of its own, and nothing that tells its state."""

    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.cell = nn.RNNCell(input_size, hidden_size)

    def forward(self, input_t, h):
        return nn.functional.dropout(self.cell(input_t, h), 0.2, self.training)


class Pair(nn.Module):
    """A pair as its state, which only a step shows."""

    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.cell = nn.LSTMCell(input_size, hidden_size)

    def forward(self, input_t, state):
        h, c = state
        return self.cell(input_t, (h, c))


class Broken(nn.Module):
    def __init__(self, input_size, hidden_size):
        super().__init__()
        raise RuntimeError("this cell cannot be built")


not_a_class = 3
'''


@pytest.fixture
def own_cells(tmp_path, monkeypatch):
    """A module `own_cells` of the user's own, importable."""
    (tmp_path / "own_cells.py").write_text(OWN_CELLS)
    monkeypatch.syspath_prepend(tmp_path)
    yield "own_cells"
    sys.modules.pop("own_cells", None)


@pytest.fixture
def outcome():
    """A function that reads all that a run leaves but the moment, the command and the time."""

    def read(directory):
        files = {}
        for path in directory.iterdir():
            if path.suffix == ".csv":
                files[path.name] = path.read_text()
            elif path.suffix == ".pt":
                weights = torch.load(path, weights_only=True)
                files[path.name] = {key: value.tolist() for key, value in weights.items()}
            elif path.name == "result.json":
                result = json.loads(path.read_text())
                files[path.name] = {**result, "seconds": None, "time": None, "command": None}
        assert "result.json" in files
        return files

    return read


@pytest.fixture(scope="session")
def copying(tmp_path_factory):
    """The output folder of Copy-First-Input: two lengths, two cells, one seed."""
    directory = tmp_path_factory.mktemp("copying")
    task = CopyFirstInputTask(
        length=4, layers=1, hidden_size=4, train_size=1000, test_size=10, batch_size=10, epochs=1
    )
    tasks = [task, dataclasses.replace(task, length=7)]
    sweep([Run(task, cell, 0) for task in tasks for cell in ("nBRC", "GRU")], directory)
    return directory


@pytest.fixture(scope="session")
def adding(tmp_path_factory):
    """The output folder of Binary Addition: 1 and 2 layers, two cells, three seeds."""
    directory = tmp_path_factory.mktemp("adding")
    task = BinaryAdditionTask(
        hidden_size=4,
        min_length=3,
        max_length=4,
        epochs_per_length=1,
        train_size=20,
        validation_size=10,
        batch_size=10,
        test_size=40,
        max_test_length=6,
    )
    tasks = [task, dataclasses.replace(task, layers=2)]
    sweep(
        [Run(task, cell, seed) for task in tasks for cell in ("GRU", "BRC") for seed in (0, 1, 2)],
        directory,
    )
    return directory


@pytest.fixture
def write_run(tmp_path):
    """A function that writes a run of Copy-First-Input with given losses, as training does.

    It is not finished without a test loss. Each loss is that of a gradient iteration, of 10 an
    epoch.
    """

    def write(name, losses, test_loss=None, folder="copy-first-input", start=None, **settings):
        own = {"cell": "GRU", "seed": 0, "length": 30, "layers": 1}
        defaults = task_settings(CopyFirstInputTask(hidden_size=4))
        shared = {"task": "copy-first-input", **defaults}
        own["learning_rate"] = shared["learning_rate"]
        shared = {key: value for key, value in shared.items() if key not in own}
        directory = tmp_path / folder
        directory.mkdir(exist_ok=True)
        (directory / "experiment.json").write_text(json.dumps(shared))
        run = directory / name
        run.mkdir()
        starts = [
            {
                "time": "2026-01-02T03:04:05+00:00",
                "versions": {"torch": "2.13.0"},
                "machine": {"processor": "a fast one"},
                **(start or {}),
            }
        ]
        config = {"settings": {**shared, **own, **settings}, "starts": starts}
        (run / "config.json").write_text(json.dumps(config))
        if not losses:
            return run
        iterations = range(1, len(losses) + 1)
        training = pd.DataFrame({"iteration": iterations, "loss": losses})
        training.to_csv(run / "training.csv", index=False)
        ends = list(range(10, len(losses) + 1, 10))
        held_out = [0.9] * len(ends) if test_loss is None else [0.9] * (len(ends) - 1) + [test_loss]
        epochs = pd.DataFrame({"iteration": ends, "train_loss": 0.5, "test_loss": held_out})
        epochs.to_csv(run / "epochs.csv", index=False)
        if test_loss is not None:
            result = {
                "solved": test_loss < 0.1,
                "iterations": len(losses),
                "best_test_loss": test_loss,
                "best_epoch": len(ends),
                "parameters": 1234,
                "seconds": 75.4,
            }
            (run / "result.json").write_text(json.dumps(result))
        return run

    return write
