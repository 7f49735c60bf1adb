"""The options of the commands that train; those of a task are made from its settings."""

import inspect
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import Field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_type_hints

import typer

from brc_pytorch.experiments.cli.output import planned
from brc_pytorch.experiments.cli.running import train_all
from brc_pytorch.experiments.tasks import CELLS, Task, known_cell, plural

if TYPE_CHECKING:
    from brc_pytorch.experiments.train.run import Run

Value = TypeVar("Value")

_WORDS: dict[type, str] = {int: "INT", str: "NAME"}

_COMPARISON, _SETTINGS, RUNNING = "What is compared", "Settings", "How it is run"


def _list_of(what: str, help: str) -> Any:  # noqa: ANN401 - Typer's options have no public type
    return typer.Option(help=help, metavar=f"{what},...", rich_help_panel=_COMPARISON)


Cells = Annotated[
    str,
    _list_of("NAME", f"Cells to compare: {', '.join(CELLS)}, or module:Class for one of your own."),
]
Seeds = Annotated[
    str,
    _list_of(
        "INT", "Random seeds; each gives every cell a run, with its own data and initial weights."
    ),
]
LearningRates = Annotated[
    str | None,
    typer.Option(
        help="Choose each cell's learning rate from these, by a run of each on validation data.",
        metavar="FLOAT,...",
        show_default=False,
        rich_help_panel=_SETTINGS,
    ),
]
Output = Annotated[
    Path,
    typer.Option(
        help="Output folder. Runs in it that were stopped are continued, finished ones are kept.",
        rich_help_panel=RUNNING,
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        help="Number of runs trained at the same time; they share the cores.",
        min=1,
        show_default="1, or with CUDA one a device",
        rich_help_panel=RUNNING,
    ),
]
Device = Annotated[
    str,
    typer.Option(
        help="cpu, cuda (all devices), cuda:1 (that one) or auto.",
        metavar="NAME",
        rich_help_panel=RUNNING,
    ),
]
Dask = Annotated[
    str | None,
    typer.Option(
        help="Train on the workers of a Dask cluster instead; the address of its scheduler, "
        "tcp://HOST:8786. The workers must see the same output folder.",
        metavar="ADDRESS",
        rich_help_panel=RUNNING,
    ),
]
TensorBoard = Annotated[
    bool,
    typer.Option(
        "--tensorboard",
        help="Also write a TensorBoard log of every run, beside its other files.",
        rich_help_panel=RUNNING,
    ),
]


def _setting_option(setting: Field[Any], kind: type) -> Any:  # noqa: ANN401 - Typer's options have no public type
    """Return the type of a setting, annotated as an option."""
    choices = setting.metadata["choices"]
    option = typer.Option(
        help=setting.metadata["help"],
        min=setting.metadata["least"] if kind in (int, float) else None,
        metavar="|".join(choices) or None,
        rich_help_panel=_SETTINGS if setting.compare else RUNNING,
    )
    return Annotated[kind, option]


def task_command(task: type[Task]) -> Callable[..., None]:
    """Make the command of a task.

    Each of the task's settings is an option, those that are dimensions of the experiment a list.
    """
    types = get_type_hints(task)
    settings = {each.name: each for each in fields(task)}
    dimensions = {plural(name): settings.pop(name) for name in task.dimensions}

    def command(
        cells: str,
        seeds: str,
        learning_rates: str | None,
        output: Path,
        jobs: int | None,
        device: str,
        dask: str | None,
        tensorboard: bool,
        **given: Any,  # noqa: ANN401 - as the settings are
    ) -> None:
        def plan() -> list[Task]:
            lists = [
                list_of(name, given.pop(name), types[each.name])
                for name, each in dimensions.items()
            ]
            return [
                task(**dict(zip(task.dimensions, values, strict=True)), **given)
                for values in itertools.product(*lists)
            ]

        runs = _runs(planned(plan), cells, seeds)
        grids = {}
        if learning_rates is not None:
            grids[output] = planned(lambda: list_of("learning-rates", learning_rates, float))
        train_all(
            {output: runs}, grids, jobs=jobs, device=device, dask=dask, tensorboard=tensorboard
        )

    def joined(values: Iterable[object]) -> str:
        return ",".join(map(str, values))

    options: dict[str, tuple[Any, Any]] = {
        "cells": (Cells, joined(task.cells)),
        **{
            name: (
                Annotated[str, _list_of(_WORDS[types[each.name]], each.metadata["help"])],
                joined(each.metadata["compared"]),
            )
            for name, each in dimensions.items()
        },
        "seeds": (Seeds, joined(task.seeds)),
        **{
            name: (_setting_option(each, types[name]), each.default)
            for name, each in settings.items()
        },
        "learning_rates": (LearningRates, None),
        "output": (Output, Path("results", task.name)),
        "jobs": (Jobs, None),
        "device": (Device, "auto"),
        "dask": (Dask, None),
        "tensorboard": (TensorBoard, False),
    }
    # What Typer reads of a function.
    command.__doc__ = (
        f"{inspect.getdoc(task)}\n\nTo continue runs that were stopped, repeat the command."
    )
    command.__annotations__ = {name: annotation for name, (annotation, _) in options.items()}
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # mypy has no word for it
        [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
            )
            for name, (annotation, default) in options.items()
        ]
    )
    return command


def list_of(name: str, text: str, kind: Callable[[str], Value]) -> list[Value]:
    """Read a comma-separated list, without repeats.

    Raises:
        ValueError: If it is empty, or holds what is not of the kind.
    """
    items = [item.strip() for item in text.split(",") if item.strip()]
    if not items:
        raise ValueError(f"{name}: expected a comma-separated list, got {text!r}")
    try:
        return list(dict.fromkeys(kind(item) for item in items))
    except ValueError as error:
        numbers = {int: "whole numbers", float: "numbers"}.get(kind)  # type: ignore[call-overload]  # any callable
        if numbers is None:
            raise
        raise ValueError(f"{name}: expected {numbers} with commas, got {text!r}") from error


def _runs(tasks: Sequence[Task], cells: str, seeds: str) -> "list[Run]":
    """Make a run of every cell on every task with every seed."""
    from brc_pytorch.experiments.train.run import Run  # noqa: PLC0415 - its module's package takes seconds

    names = planned(lambda: list_of("cells", cells, known_cell))
    numbers = planned(lambda: list_of("seeds", seeds, int))
    # Seed by seed, so that a first comparison of all cells is there early.
    return [Run(task, cell, seed) for seed, task, cell in itertools.product(numbers, tasks, names)]
