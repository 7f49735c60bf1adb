"""Output folders, read from their files alone: the runs, how far each one is, and on what it ran.

An experiment that is still under way is read as far as it has come.
"""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from brc_pytorch.experiments.tasks import CELLS, TASKS, Task, nearest
from brc_pytorch.experiments.train.files import (
    CONFIG,
    EPOCHS,
    EXPERIMENT,
    RESULT,
    DamagedFileError,
    read_json,
)

WINDOW = 100
"""Gradient iterations in the moving average of the training loss."""
SHORT_LENGTH, SHORT_WINDOW = 5, 20
"""The same for sequences of this length or less, which are learnt in fewer iterations."""


@dataclasses.dataclass(frozen=True)
class RunFiles:
    """What a run's directory holds, without its tables.

    Attributes:
        directory: The directory.
        settings: The settings of the run.
        starts: Time, versions and machine of each start, the first one first.
        result: Its result, or None if it is not finished.
    """

    directory: Path
    settings: dict[str, Any]
    starts: list[dict[str, Any]]
    result: dict[str, Any] | None

    def table(self, name: str) -> pd.DataFrame | None:
        """Read one of the run's tables, or return None if it is not there (yet)."""
        path = self.directory / name
        return pd.read_csv(path) if path.exists() else None

    def columns(self, name: str) -> list[str]:
        """Return the columns of one of the run's tables; none if it is not there (yet)."""
        path = self.directory / name
        return list(pd.read_csv(path, nrows=0).columns) if path.exists() else []

    @property
    def window(self) -> int:
        """Gradient iterations in the moving average of its training loss."""
        short = self.settings.get("length", SHORT_LENGTH + 1) <= SHORT_LENGTH
        return SHORT_WINDOW if short else WINDOW

    @property
    def state(self) -> str:
        """How far the run is, in words."""
        if self.result is not None:
            return "finished"
        epochs = self.table(EPOCHS)
        if epochs is None:
            return "unfinished: has ended no epoch"
        plural = "s" if len(epochs) > 1 else ""
        iterations = epochs["iteration"].iloc[-1]
        return f"unfinished: {len(epochs)} epoch{plural}, {iterations:,} iterations"


@dataclasses.dataclass(frozen=True)
class Experiment:
    """An output folder.

    Attributes:
        directory: The folder.
        settings: What its runs share.
        runs: Its runs, in the order of their cells and settings.
        bare: Directories of runs that were stopped before they wrote anything.
    """

    directory: Path
    settings: dict[str, Any]
    runs: list[RunFiles]
    bare: list[Path]

    @property
    def task(self) -> type[Task]:
        """The task."""
        return TASKS[self.settings["task"]]

    @property
    def short_loss(self) -> str:
        """The name of the loss, for the head of a column."""
        return "MSE" if self.task.loss_name == "mean squared error" else self.task.loss_name

    @property
    def held_out_metrics(self) -> list[str]:
        """The columns that the task adds to the table of epochs."""
        columns = {key: None for run in self.runs for key in run.columns(EPOCHS)}
        known = {"epoch", "iteration", "length", "train_loss"}
        return [key for key in columns if key not in known]

    def values(self, key: str) -> list[Any]:
        """Return the values that a setting takes; cells in the order of `CELLS`."""
        values = list(dict.fromkeys(run.settings[key] for run in self.runs))
        return values if key == "cell" else sorted(values)

    def groups(self, keys: Iterable[str]) -> dict[tuple[Any, ...], list[RunFiles]]:
        """Return the runs by the values of some settings, sorted by them; cells as in `values`."""
        keys = tuple(keys)
        places = {key: self.values(key) for key in keys}
        groups: dict[tuple[Any, ...], list[RunFiles]] = {}
        for run in self.runs:
            groups.setdefault(tuple(run.settings[key] for key in keys), []).append(run)
        return dict(
            sorted(
                groups.items(),
                key=lambda group: [
                    places[key].index(value) for key, value in zip(keys, group[0], strict=True)
                ],
            )
        )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except DamagedFileError as error:
        raise ValueError(f"directory: {error}") from error


def read_experiment(directory: Path) -> Experiment:
    """Read the settings and results of an output folder.

    Raises:
        ValueError: If the folder holds no experiment, or one of its files is damaged.
    """
    if not (directory / EXPERIMENT).exists():
        raise ValueError(
            f"directory: expected the output folder of an experiment, got {directory}, "
            f"which has no {EXPERIMENT}"
        )
    runs = []
    for path in sorted(directory.glob(f"*/{CONFIG}")):
        config, result = _read_json(path), path.parent / RESULT
        runs.append(
            RunFiles(
                path.parent,
                config["settings"],
                config["starts"],
                _read_json(result) if result.exists() else None,
            )
        )
    settings, known = _read_json(directory / EXPERIMENT), list(CELLS)
    if settings["task"] not in TASKS:
        task = settings["task"]
        raise ValueError(
            f"directory: expected a known task in {directory}, got {task!r}; {nearest(task, TASKS)}"
        )

    def order(run: RunFiles) -> tuple[Any, ...]:
        cell = run.settings["cell"]
        place = known.index(cell) if cell in known else len(known)
        keys = (*TASKS[settings["task"]].dimensions, "seed")
        return place, cell, *(run.settings[key] for key in keys)

    bare = [
        path
        for path in sorted(directory.glob("*-seed*"))
        if path.is_dir() and not (path / CONFIG).exists()
    ]
    return Experiment(directory, settings, sorted(runs, key=order), bare)


@dataclasses.dataclass(frozen=True)
class Setup:
    """The versions and the machine that some runs had in common.

    Attributes:
        label: 1, 2 and so on.
        facts: Each version and each thing known of the machine.
        runs: Names of the runs that were started, or continued, on it.
    """

    label: str
    facts: dict[str, str]
    runs: list[str]


def setups(runs: Iterable[RunFiles]) -> list[Setup]:
    """Return all sets of versions and machine that runs were started with."""
    found: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for run in runs:
        for start in run.starts:
            facts = {**start.get("machine", {}), **start.get("versions", {})}
            names = found.setdefault(tuple((key, str(facts[key])) for key in facts), [])
            if run.directory.name not in names:
                names.append(run.directory.name)
    return [
        Setup(str(number), dict(facts), names)
        for number, (facts, names) in enumerate(found.items(), start=1)
    ]
