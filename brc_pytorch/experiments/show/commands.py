"""The commands that trained the runs of an output folder."""

import shlex
from collections.abc import Sequence
from typing import Any

from brc_pytorch.experiments.show.results import Experiment, RunFiles
from brc_pytorch.experiments.tasks import plural


def recorded_commands(experiment: Experiment) -> list[str]:
    """Return the commands that its runs were started and continued by, as far as they tell."""
    return list(
        dict.fromkeys(
            start["command"]
            for run in experiment.runs
            for start in run.starts
            if start.get("command")
        )
    )


def rebuilt_commands(experiment: Experiment, runs: Sequence[RunFiles]) -> list[str]:
    """Return commands that train exactly these runs of an experiment, from their settings."""
    keys = ("cell", *experiment.task.dimensions, "seed")
    return [
        command
        for rate in experiment.values("learning_rate")
        for command in _of_one_rate(
            experiment, keys, rate, [run for run in runs if run.settings["learning_rate"] == rate]
        )
    ]


def _of_one_rate(
    experiment: Experiment, keys: Sequence[str], rate: float, runs: Sequence[RunFiles]
) -> list[str]:
    # Each box is a product of cells, lengths and so on, as one command takes it.
    boxes = [tuple((run.settings[key],) for key in keys) for run in runs]
    for axis in reversed(range(len(keys))):
        merged: dict[Any, tuple[Any, ...]] = {}
        for box in boxes:
            others = box[:axis] + box[axis + 1 :]
            merged[others] = tuple(dict.fromkeys((*merged.get(others, ()), *box[axis])))
        boxes = [(*others[:axis], values, *others[axis:]) for others, values in merged.items()]
    shared = [_option(key, value) for key, value in experiment.settings.items() if key != "task"]
    return [
        " ".join(
            [
                f"brc {experiment.task.name}",
                *(_option(plural(key), values) for key, values in zip(keys, box, strict=True)),
                *shared,
                _option("learning_rate", rate),
                _option("output", experiment.directory.resolve().name),
            ]
        )
        for box in boxes
    ]


def _option(key: str, value: object) -> str:
    name = key.replace("_", "-")
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return f"--{name} {shlex.quote(text)}"
