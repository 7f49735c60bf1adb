"""What the command says: results, errors in a line each, and the code that it ends with."""

import textwrap
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

import torch
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from brc_pytorch.experiments.files import DamagedFileError, FileError

# Lightning, pandas and matplotlib take seconds to import; `brc --help` does without them.
if TYPE_CHECKING:
    from brc_pytorch.experiments.show.results import Experiment
    from brc_pytorch.experiments.train.run import Run

Value = TypeVar("Value")

BAD_INPUT, FAILED, INTERRUPTED = 2, 1, 130

console = Console()
errors = Console(stderr=True)

_LETTERS_OF_A_HEAD, _MOST_LETTERS = 9, 1000


def fail(message: object, code: int = BAD_INPUT) -> NoReturn:
    """Tell an error in a line, and end."""
    print_error(message)
    raise typer.Exit(code)


def end_with(damaged: Sequence[DamagedFileError]) -> None:
    """Name the damaged files that what is shown does without, a line each, and fail if any are."""
    for error in damaged:
        print_error(error)
    if damaged:
        raise typer.Exit(FAILED)


def print_error(error: object) -> None:
    """Tell an error in a line."""
    told = escape(" ".join(str(error).split()))  # what stands in brackets is no markup
    errors.print(f"[bold red]Error:[/] {told}", soft_wrap=True, highlight=False)


def read(directory: Path) -> "Experiment":
    """Read an output folder; what is none is the user's input, told in a line."""
    from brc_pytorch.experiments.show.results import read_experiment  # noqa: PLC0415 - takes seconds

    return planned(lambda: read_experiment(directory))


def planned(make: Callable[[], Value]) -> Value:
    """Return what `make` makes; what it refuses is the user's input, told in one line."""
    try:
        return make()
    except (ValueError, OSError) as error:
        fail(in_a_line(error))


def in_a_line(error: BaseException) -> str:
    """Write an error; of a file it names the file first."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def is_told_by_a_line(error: BaseException) -> bool:
    """Tell whether an error is about a file or the cluster, not in the code of a cell."""
    return isinstance(error, (FileError, CancelledError)) or (
        isinstance(error, OSError) and error.filename is not None
    )


def print_settings(runs: "Sequence[Run]", output: Path, rates: Sequence[float] = ()) -> None:
    """Print every number that the results of an experiment depend on.

    Args:
        runs: Its runs.
        output: Its folder.
        rates: The learning rates that each cell's is chosen from, where it is.
    """
    from brc_pytorch.experiments.train.sweep import shared_settings  # noqa: PLC0415

    shared = shared_settings(runs[0])
    grid = Table.grid(padding=(0, 2))
    grid.title, grid.title_justify = f"[bold]{shared.pop('task')}[/]", "left"
    for key, name in (("cell", "cells"), ("seed", "seeds")):
        grid.add_row(name, _all_of(key, runs))
    for key in runs[0].task.dimensions:
        grid.add_row(key, _all_of(key, runs))
    grid.add_row(
        "learning rate",
        f"chosen from {_joined(rates)}" if rates else _all_of("learning_rate", runs),
    )
    for name, value in shared.items():
        shown = value if isinstance(value, (bool, str)) else f"{value:,}"
        grid.add_row(name.replace("_", " "), str(shown))
    grid.add_row("optimizer", "Adam")
    grid.add_row("output", str(output))
    console.print(grid, highlight=False)
    console.print()


def print_table(experiment: "Experiment") -> None:
    """Print the means of an output folder's finished runs."""
    from brc_pytorch.experiments.show.tables import summarise  # noqa: PLC0415

    summary = summarise(experiment)
    grid = Table(title=f"[bold]{experiment.task.title}[/]", title_justify="left", box=SIMPLE_HEAD)
    for place, title in enumerate(summary.columns):
        head = textwrap.fill(title, _LETTERS_OF_A_HEAD, break_long_words=False)
        grid.add_column(head, justify="left" if place < summary.keys else "right", no_wrap=True)
    for row in summary.rows:
        grid.add_row(*map(escape, row))
    # A narrow terminal may wrap its lines, but no number is cut off.
    unbounded = console.options.update(width=_MOST_LETTERS)
    grid.width = Measurement.get(console, unbounded, grid).maximum
    console.print(grid, crop=False)


def print_choice(runs: "Sequence[Run]", output: Path) -> None:
    """Print the learning rates that were chosen for the cells of an experiment."""
    told = dict.fromkeys(
        f"{run.name.rpartition('-seed')[0]} {run.task.learning_rate:g}" for run in runs
    )
    console.print(f"learning rates in {output}: {', '.join(told)}", highlight=False, soft_wrap=True)


def _joined(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))


def _all_of(key: str, runs: "Sequence[Run]") -> str:
    return ", ".join(dict.fromkeys(str(run.settings[key]) for run in runs))


def print_plan(at_once: int | None, device: str, dask: str | None) -> None:
    """Print where the runs are trained."""
    if dask is not None:
        where = f"on the Dask cluster at {dask}, one run a worker, device {device}"
    else:
        from brc_pytorch.experiments.train.executors import devices  # noqa: PLC0415

        names = ", ".join(devices(device))
        where = f"on {names}, {torch.get_num_threads()} threads, {at_once} run(s) at a time"
    console.print(where, highlight=False, soft_wrap=True)
    console.print()


def print_paths(paths: Iterable[Path]) -> None:
    """Print a path a line, as a shell takes it."""
    for path in paths:
        console.print(str(path), soft_wrap=True, highlight=False)
