"""Results of somebody else beside ours.

They are read from a JSON file, such as `docs/results/brc-pytorch-0.1.3.json`:

    {
      "source": "brc-pytorch 0.1.3",
      "origin": "read off its figures",
      "tables": [
        {
          "task": "binary-addition",
          "settings": {"hidden_size": 100},
          "measure": "accuracy",
          "at": 60,
          "rows": [{"layers": 1, "cell": "nBRC", "value": "99.5"}]
        }
      ]
    }

`settings` are what runs must have in common with theirs to be compared. `measure` is one of
`accuracy` (in percent, `at` a test length), `training_loss` (its moving average `at` an iteration,
or at the end of a run before it), `iterations_below` (the same average below the loss `at`) and
`failing_length` (the first test length at which less than the share `at` is right). A row names
runs by some of their settings, and gives the other's `value` as it is to be printed. Rows with a
`model` in place of a `cell` are of models that `brc` does not train: they stand below our cells.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from brc_pytorch.experiments.files import DamagedFileError, check_keys, read_json
from brc_pytorch.experiments.show.results import Experiment, RunFiles
from brc_pytorch.experiments.show.statistics import count_finished, median
from brc_pytorch.experiments.show.tables import Table
from brc_pytorch.experiments.tasks import own_settings
from brc_pytorch.experiments.tasks.measures import (
    Measure,
    accuracy,
    failing_length,
    iterations_below,
    training_loss,
)

_MEASURES: dict[str, Callable[[Experiment, float], Measure]] = {
    "accuracy": lambda _, length: accuracy(int(length), int(length)),
    "training_loss": lambda experiment, iteration: training_loss(
        experiment.task.short_loss_name, int(iteration)
    ),
    "iterations_below": lambda _, loss: iterations_below(loss),
    "failing_length": lambda experiment, share: failing_length(
        share, experiment.settings["length"], experiment.settings["max_test_length"]
    ),
}


@dataclasses.dataclass(frozen=True)
class OtherTable:
    """Results of somebody else: a measure of some runs; the module tells what each field is."""

    task: str
    settings: dict[str, Any]
    measure: str
    at: float
    rows: list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Others:
    """All results of somebody else.

    Attributes:
        source: Whose they are.
        origin: Where the numbers were found.
        tables: The results.
    """

    source: str
    origin: str
    tables: list[OtherTable]


def read_others(path: Path) -> Others:
    """Read somebody else's results.

    Raises:
        DamagedFileError: If the file cannot be read, or holds something else.
    """
    content = read_json(path)
    check_keys(path, content, {"source": str, "origin": str, "tables": list})
    tables = [
        _read_other(path, table, f"tables[{place}]")
        for place, table in enumerate(content["tables"])
    ]
    return Others(content["source"], content["origin"], tables)


def _read_other(path: Path, table: Any, where: str) -> OtherTable:  # noqa: ANN401 - what a file holds
    check_keys(path, {where: table}, {where: dict})
    kinds = {"task": str, "settings": dict, "measure": str, "at": float, "rows": list}
    check_keys(path, table, kinds, where)
    unknown = [key for key in table if key not in kinds]
    if unknown:
        raise DamagedFileError(path, f"{', '.join(kinds)} in {where}", ", ".join(unknown))
    if table["measure"] not in _MEASURES:
        known = f"{where}.measure to be one of {', '.join(_MEASURES)}"
        raise DamagedFileError(path, known, repr(table["measure"]))
    if not table["rows"]:
        raise DamagedFileError(path, f"rows in {where}", "none")
    for number, row in enumerate(table["rows"]):
        name = f"{where}.rows[{number}]"
        check_keys(path, {name: row}, {name: dict})
        check_keys(path, row, dict.fromkeys(("value", *table["rows"][0]), object), name)
    return OtherTable(**table)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A table of our results beside somebody else's.

    Attributes:
        title: What is compared, with its unit.
        table: The table; no rows if the runs have other settings than theirs.
        differences: The settings that differ, each with both values.
    """

    title: str
    table: Table
    differences: list[str]


def compare(experiment: Experiment, others: Others) -> list[Comparison]:
    """Put the results of an experiment beside somebody else's of the same task."""
    return [
        _compare(experiment, other, others.source)
        for other in others.tables
        if other.task == experiment.task.name
    ]


def _compare(experiment: Experiment, other: OtherTable, source: str) -> Comparison:
    measure = _MEASURES[other.measure](experiment, other.at)
    own = own_settings(experiment.task)
    comparable = [
        run
        for run in experiment.runs
        if all(run.settings[key] == value for key, value in other.settings.items() if key in own)
    ]
    differences = [
        f"{key} is {here} here, {value} there"
        for key, value in other.settings.items()
        for here in [_here(experiment, key)]
        if str(value) not in here.split(", ")
    ]
    make = _other_models if "model" in other.rows[0] else _same_cells
    table = make(other, comparable, measure, source)
    if differences:
        table = dataclasses.replace(table, rows=[])
    return Comparison(measure.title, table, differences)


def _same_cells(
    other: OtherTable, runs: Sequence[RunFiles], measure: Measure, source: str
) -> Table:
    """Put each value of theirs beside that of our runs of the same cell and settings."""
    keys = [key for key in other.rows[0] if key != "value"]
    rows = [
        [*(str(row[key]) for key in keys), *_ours(_having(runs, row, keys), measure), row["value"]]
        for row in other.rows
    ]
    return Table([*keys, "seeds", "here", source], [[*map(str, row)] for row in rows], len(keys))


def _other_models(
    other: OtherTable, runs: Sequence[RunFiles], measure: Measure, source: str
) -> Table:
    """Put the values of other models below those of all our cells of the same settings."""
    keys = [key for key in other.rows[0] if key not in ("model", "value")]
    rows: list[list[str]] = []
    kinds = dict.fromkeys(tuple(row[key] for key in keys) for row in other.rows)
    for kind in kinds:
        settings, names = dict(zip(keys, kind, strict=True)), [*map(str, kind)]
        of_kind = _having(runs, settings, keys)
        for cell in dict.fromkeys(run.settings["cell"] for run in of_kind):
            of_cell = _having(of_kind, {"cell": cell}, ["cell"])
            rows.append([*names, cell, *_ours(of_cell, measure), "here"])
        rows += [
            [*names, row["model"], "-", str(row["value"]), source]
            for row in other.rows
            if all(row[key] == value for key, value in settings.items())
        ]
    return Table([*keys, "cell or model", "seeds", measure.title, "from"], rows, len(keys) + 1)


def _having(
    runs: Sequence[RunFiles], settings: Mapping[str, Any], keys: Sequence[str]
) -> list[RunFiles]:
    """Return the runs that have some of these settings."""
    return [run for run in runs if all(run.settings.get(key) == settings[key] for key in keys)]


def _ours(runs: Sequence[RunFiles], measure: Measure) -> tuple[str, str]:
    """Write how many of our runs are finished, and their median."""
    finished = [run for run in runs if run.result is not None]
    return count_finished(runs), median(measure, finished)


def _here(experiment: Experiment, key: str) -> str:
    """Write the values that the runs of an experiment have of a setting."""
    values = {run.settings.get(key) for run in experiment.runs} or {experiment.settings.get(key)}
    return ", ".join(map(str, sorted(values, key=str)))
