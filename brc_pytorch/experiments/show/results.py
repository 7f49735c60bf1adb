"""Output folders, read from their files alone: the runs, how far each one is, and on what it ran.

An experiment that is still under way is read as far as it has come.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_type_hints

import pandas as pd

from brc_pytorch.experiments.files import (
    CHECKPOINT,
    CONFIG,
    EPOCHS,
    EXPERIMENT,
    LEARNING_RATES,
    RESULT,
    TEST,
    TRAINING,
    DamagedFileError,
    check_keys,
    read_config,
    read_json,
    read_result,
    read_shared_settings,
    read_table,
)
from brc_pytorch.experiments.tasks import CELLS, TASKS, Task, nearest, own_settings
from brc_pytorch.experiments.tasks.settings import check_type


@dataclasses.dataclass(frozen=True)
class RunFiles:
    """What a run's directory holds.

    Attributes:
        directory: The directory.
        settings: The settings of the run.
        starts: Time, versions and machine of each start, the first one first.
        result: Its result, or None if it is not finished.
        tables: Its tables by the names of their files, as far as they are there (yet).
    """

    directory: Path
    settings: dict[str, Any]
    starts: list[dict[str, Any]]
    result: dict[str, Any] | None
    tables: dict[str, pd.DataFrame]

    @property
    def window(self) -> int:
        """Gradient iterations in the moving average of its training loss."""
        return TASKS[self.settings["task"]].window(self.settings)

    @property
    def state(self) -> str:
        """How far the run is, in words."""
        if self.result is not None:
            return "finished"
        epochs = self.tables.get(EPOCHS)
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
        damaged: What is wrong with files of the folder; their runs are not among `runs`.
        grid: The learning rates that each cell's was chosen from, none if it was not.
    """

    directory: Path
    settings: dict[str, Any]
    runs: list[RunFiles]
    bare: list[Path]
    damaged: list[DamagedFileError]
    grid: list[float] = dataclasses.field(default_factory=list)

    @property
    def task(self) -> type[Task]:
        """The task."""
        return TASKS[self.settings["task"]]

    def values(self, key: str) -> list[Any]:
        """Return the values that a setting takes; names in the order in which they are known."""
        values = list(dict.fromkeys(run.settings[key] for run in self.runs))
        if key == "cell":
            return values
        choices = () if key == "seed" else self.task.__dataclass_fields__[key].metadata["choices"]
        return sorted(values, key=choices.index) if choices else sorted(values)

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


def read_experiment(directory: Path) -> Experiment:
    """Read the settings, results and tables of an output folder.

    A run with a damaged file is left out, and named in the experiment's `damaged`. Of a damaged
    `experiment.json` the runs tell what it should hold.

    Raises:
        ValueError: If the folder holds no experiment, or nothing tells which one.
    """
    try:
        entries = sorted(directory.iterdir())
    except OSError as error:
        raise ValueError(
            f"directory: expected the output folder of an experiment, got {directory}: "
            f"{error.strerror}"
        ) from error
    if directory / EXPERIMENT not in entries:
        raise ValueError(
            f"directory: expected the output folder of an experiment, got {directory}, "
            f"which has no {EXPERIMENT}"
        )
    damaged: list[DamagedFileError] = []
    shared: dict[str, Any] | None = None
    try:
        shared = _read_shared(directory)
    except DamagedFileError as error:
        damaged.append(error)
    runs, bare = [], []
    for entry in entries:
        try:
            if not _is_run(entry):
                continue
            if not any((entry / name).exists() for name in _WRITTEN):
                bare.append(entry)
                continue
            run = read_run(entry)
            if shared is None:
                own = own_settings(TASKS[run.settings["task"]])
                shared = {key: value for key, value in run.settings.items() if key not in own}
            _check_shared(entry, run.settings, shared)
            runs.append(run)
        except DamagedFileError as error:
            damaged.append(error)
    if shared is None:
        raise damaged[0]
    dimensions = TASKS[shared["task"]].dimensions
    runs.sort(key=lambda run: _order(run, dimensions))
    return Experiment(directory, shared, runs, bare, damaged, _read_grid(directory, damaged))


_WRITTEN = (CONFIG, RESULT, CHECKPOINT, TRAINING, EPOCHS, TEST)
"""What tells that a run has written anything."""


def _is_run(entry: Path) -> bool:
    """Tell whether a file of an output folder is the directory of a run.

    Raises:
        DamagedFileError: If it has the name of one, and is none.
    """
    if entry.is_dir():
        return "-seed" in entry.name or (entry / CONFIG).exists()
    if "-seed" in entry.name and not entry.suffix:
        raise DamagedFileError(entry, "the folder of a run", "a file")
    return False


def _read_grid(directory: Path, damaged: list[DamagedFileError]) -> list[float]:
    """Read the learning rates that each cell's was chosen from, none if there was no choice."""
    path = directory / LEARNING_RATES
    if not path.exists():
        return []
    try:
        content = read_json(path)
        check_keys(path, content, {"grid": list})
        for place, rate in enumerate(content["grid"]):
            check_keys(path, {f"grid[{place}]": rate}, {f"grid[{place}]": float})
    except DamagedFileError as error:
        damaged.append(error)
        return []
    return [*content["grid"]]


def _read_shared(directory: Path) -> dict[str, Any]:
    """Read the settings that the runs of an output folder share."""
    shared = read_shared_settings(directory)
    path = directory / EXPERIMENT
    task = _known_task(path, shared["task"])
    _check_settings(path, shared, task, [key for key in settings_of(task) if key in shared])
    own = own_settings(task)
    _check_settings(path, shared, task, [key for key in settings_of(task) if key not in own])
    return shared


def read_run(directory: Path) -> RunFiles:
    """Read the files of a run.

    Raises:
        DamagedFileError: If one of them is not what such a run writes.
    """
    config = read_config(directory)
    path, settings = directory / CONFIG, config["settings"]
    task = _known_task(path, settings["task"])
    names = settings_of(task)
    _check_settings(path, settings, task, names)
    try:
        task(**{name: settings[name] for name in names})
    except ValueError as error:
        raise DamagedFileError(path, f"settings of {task.name}", f"wrong ones: {error}") from error
    finished = (directory / RESULT).exists()
    held_out = {f"{task.held_out}_{name}": float for name in task.metric_names}
    kinds: dict[str, dict[str, type]] = {
        TRAINING: {"iteration": int, "loss": float},
        EPOCHS: {"iteration": int, **held_out},
        TEST: {"length": int, **dict.fromkeys(task.metric_names, float)},
    }
    return RunFiles(
        directory,
        settings,
        config["starts"],
        read_result(directory, task.held_out) if finished else None,
        {
            name: read_table(directory / name, columns)
            for name, columns in kinds.items()
            if (directory / name).exists()
        },
    )


def _known_task(path: Path, name: str) -> type[Task]:
    if name not in TASKS:
        raise DamagedFileError(path, "a known task", f"{name!r}; {nearest(name, TASKS)}")
    return TASKS[name]


def settings_of(task: type[Task]) -> list[str]:
    """Return the names of all settings that the results of a task depend on."""
    return [each.name for each in dataclasses.fields(task) if each.compare]


def _check_settings(
    path: Path, settings: Mapping[str, Any], task: type[Task], names: Iterable[str]
) -> None:
    """Refuse settings that are missing, or of another type than the task's."""
    types = get_type_hints(task)
    for name in names:
        if name not in settings:
            raise DamagedFileError(path, f"{name}, a setting of {task.name}", "none")
        try:
            check_type(name, settings[name], types[name])
        except ValueError as error:
            raise DamagedFileError(
                path, f"settings of {task.name}", f"wrong ones: {error}"
            ) from error


def _check_shared(directory: Path, settings: Mapping[str, Any], shared: Mapping[str, Any]) -> None:
    """Refuse a run of another experiment."""
    for key, value in shared.items():
        if settings.get(key) != value:
            raise DamagedFileError(
                directory / CONFIG,
                f"{key} {value!r}, as the other runs have",
                repr(settings.get(key)),
            )


def _order(run: RunFiles, dimensions: Iterable[str]) -> tuple[Any, ...]:
    """Return what runs are sorted by."""
    cell, known = run.settings["cell"], list(CELLS)
    place = known.index(cell) if cell in known else len(known)
    return place, cell, *(run.settings[key] for key in (*dimensions, "seed"))


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
