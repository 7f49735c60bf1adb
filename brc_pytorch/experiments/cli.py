"""The command `brc`: train and compare cells on the benchmarks, and show the results."""

import contextlib
import inspect
import itertools
import os
import select
import signal
import sys
import textwrap
import threading
import traceback
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, CancelledError
from dataclasses import Field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar, get_type_hints

import torch
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table

from brc_pytorch.experiments.tasks import CELLS, TASKS, Task, known_cell, plural

# Lightning, pandas and matplotlib take seconds to import; `brc --help` does without them.
if TYPE_CHECKING:
    from brc_pytorch.experiments.results import Experiment
    from brc_pytorch.experiments.sweep import Outcome
    from brc_pytorch.experiments.train.files import DamagedFileError
    from brc_pytorch.experiments.training import Progress as RunProgress
    from brc_pytorch.experiments.training import Run

Value = TypeVar("Value")

BAD_INPUT, FAILED, INTERRUPTED = 2, 1, 130

app = typer.Typer(
    name="brc",
    help="Compare bistable recurrent cells with other ones on the benchmarks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console()
errors = Console(stderr=True)

_COMPARED = "LSTM,GRU,BRC,nBRC"
_LETTERS_OF_A_HEAD, _MOST_LETTERS = 9, 1000

_COMPARISON, _SETTINGS, _RUNNING = "What is compared", "Settings", "How it is run"


def _list_of(what: str, help: str) -> Any:  # noqa: ANN401 - Typer's options have no public type
    return typer.Option(help=help, metavar=f"{what},...", rich_help_panel=_COMPARISON)


Cells = Annotated[str, _list_of("NAME", f"Cells: {', '.join(CELLS)}, or module:Class of your own.")]
Seeds = Annotated[str, _list_of("INT", "A run of each, with its own data and first weights.")]
Output = Annotated[
    Path,
    typer.Option(
        help="Folder of the results. Stopped runs in it are continued, finished ones kept.",
        rich_help_panel=_RUNNING,
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        help="Runs trained at a time, each with its share of the cores.",
        min=1,
        show_default="1, or with CUDA one a device",
        rich_help_panel=_RUNNING,
    ),
]
Device = Annotated[
    str,
    typer.Option(
        help="cpu, cuda (every device), cuda:1 (that one) or auto.",
        metavar="NAME",
        rich_help_panel=_RUNNING,
    ),
]
Dask = Annotated[
    str | None,
    typer.Option(
        help="Train on the workers of the Dask cluster with this scheduler instead, "
        "tcp://HOST:8786. They write to the same output folder.",
        metavar="ADDRESS",
        rich_help_panel=_RUNNING,
    ),
]
TensorBoard = Annotated[
    bool,
    typer.Option(
        "--tensorboard",
        help="Also keep a log of every run for TensorBoard, beside its other files.",
        rich_help_panel=_RUNNING,
    ),
]
Directory = Annotated[Path, typer.Argument(help="Output folder of an experiment.")]


def _setting_option(setting: Field[Any], kind: type) -> Any:  # noqa: ANN401 - Typer's options have no public type
    """Return the type of a setting, annotated as an option."""
    choices = setting.metadata["choices"]
    option = typer.Option(
        help=setting.metadata["help"],
        min=setting.metadata["least"] if kind in (int, float) else None,
        metavar="|".join(choices) or None,
        rich_help_panel=_SETTINGS if setting.compare else _RUNNING,
    )
    return Annotated[kind, option]


def _command(task: type[Task]) -> Callable[..., None]:
    """Make the command of a task.

    Each of the task's settings is an option, those that are dimensions of the experiment a list.
    """
    types = get_type_hints(task)
    settings = {each.name: each for each in fields(task)}
    dimensions = {plural(name): settings.pop(name) for name in task.dimensions}

    def command(
        cells: str,
        seeds: str,
        output: Path,
        jobs: int | None,
        device: str,
        dask: str | None,
        tensorboard: bool,
        **given: Any,  # noqa: ANN401 - as the settings are
    ) -> None:
        def plan() -> list[Task]:
            lists = [_list(name, given.pop(name), int) for name in dimensions]
            return [
                task(**dict(zip(task.dimensions, values, strict=True)), **given)
                for values in itertools.product(*lists)
            ]

        runs = _runs(_planned(plan), cells, seeds)
        _train({output: runs}, jobs=jobs, device=device, dask=dask, tensorboard=tensorboard)

    def joined(values: Iterable[object]) -> str:
        return ",".join(map(str, values))

    options: dict[str, tuple[Any, Any]] = {
        "cells": (Cells, _COMPARED),
        **{
            name: (
                Annotated[str, _list_of("INT", each.metadata["help"])],
                joined(each.metadata["compared"]),
            )
            for name, each in dimensions.items()
        },
        "seeds": (Seeds, joined(task.seeds)),
        **{
            name: (_setting_option(each, types[name]), each.default)
            for name, each in settings.items()
        },
        "output": (Output, Path("results", task.name)),
        "jobs": (Jobs, None),
        "device": (Device, "auto"),
        "dask": (Dask, None),
        "tensorboard": (TensorBoard, False),
    }
    # What Typer reads of a function.
    command.__doc__ = (
        f"{inspect.getdoc(task)}\n\nThe same command continues runs that were stopped."
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


for _task in TASKS.values():
    app.command(_task.name)(_command(_task))


@app.command("sweep")
def sweep_command(
    file: Annotated[Path, typer.Argument(help="A TOML or YAML file of experiments.")],
    output: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the experiments' folders. Stopped runs in them are continued, "
            "finished ones kept.",
            show_default="results/ and the file's name",
            rich_help_panel=_RUNNING,
        ),
    ] = None,
    jobs: Jobs = None,
    device: Device = "auto",
    dask: Dask = None,
    tensorboard: TensorBoard = False,
) -> None:
    """Train all runs of the experiments that a file describes, each experiment into its own folder.

    The same command continues runs that were stopped.
    """
    from brc_pytorch.experiments.sweep_file import read_sweep  # noqa: PLC0415 - see TYPE_CHECKING above

    folder = Path("results", file.stem) if output is None else output
    experiments = {folder / name: runs for name, runs in _planned(lambda: read_sweep(file)).items()}
    _train(experiments, jobs=jobs, device=device, dask=dask, tensorboard=tensorboard)


@app.command()
def plot(directory: Directory) -> None:
    """Draw the plots of an output folder from its files."""
    from brc_pytorch.experiments import plots  # noqa: PLC0415 - see TYPE_CHECKING above

    experiment = _read(directory)
    paths = plots.plot(experiment)
    _print_paths(paths)
    _end_with(experiment.damaged)
    if not paths:
        _fail(
            f"{directory} has no run yet that has ended its first epoch; there is nothing to plot"
        )


@app.command()
def table(directory: Directory) -> None:
    """Print the table of an output folder from its files."""
    experiment = _read(directory)
    _print_table(experiment)
    _end_with(experiment.damaged)


@app.command()
def report(
    directories: Annotated[
        list[Path], typer.Argument(metavar="DIRECTORY...", help="Output folders of experiments.")
    ],
    output: Annotated[Path, typer.Option(help="The HTML file.")] = Path("report.html"),
    compare: Annotated[
        Path | None,
        typer.Option(help="JSON file of somebody else's results to put beside these."),
    ] = None,
) -> None:
    """Write one HTML page about output folders, which needs nothing but itself.

    It has the tables and plots, settings, runs, versions, machines and commands.
    """
    from brc_pytorch.experiments.report import write_report  # noqa: PLC0415 - see TYPE_CHECKING above

    damaged = _planned(lambda: write_report(directories, output, compare))
    _print_paths([output])
    _end_with(damaged)


def main() -> None:
    """Run the command `brc`."""
    # A cell of one's own is looked up where the command is called, as `python -m` does.
    sys.path.insert(0, str(Path.cwd()))
    app()


def _fail(message: object, code: int = BAD_INPUT) -> NoReturn:
    _print_error(message)
    raise typer.Exit(code)


def _end_with(damaged: "Sequence[DamagedFileError]") -> None:
    """Name the damaged files that what is shown does without, a line each, and fail if any are."""
    for error in damaged:
        _print_error(error)
    if damaged:
        raise typer.Exit(FAILED)


def _print_error(error: object) -> None:
    told = escape(" ".join(str(error).split()))  # what stands in brackets is no markup
    errors.print(f"[bold red]Error:[/] {told}", soft_wrap=True, highlight=False)


def _read(directory: Path) -> "Experiment":
    from brc_pytorch.experiments.results import read_experiment  # noqa: PLC0415 - see TYPE_CHECKING above

    return _planned(lambda: read_experiment(directory))


def _planned(make: Callable[[], Value]) -> Value:
    """Return what `make` makes; what it refuses is the user's input, told in one line."""
    try:
        return make()
    except (ValueError, OSError) as error:
        _fail(_in_a_line(error))


def _in_a_line(error: BaseException) -> str:
    """Write an error; of a file it names the file first."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _list(name: str, text: str, kind: Callable[[str], Value]) -> list[Value]:
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
        if kind is not int:
            raise
        raise ValueError(f"{name}: expected whole numbers with commas, got {text!r}") from error


def _runs(tasks: Sequence[Task], cells: str, seeds: str) -> "list[Run]":
    """Make a run of every cell on every task with every seed."""
    from brc_pytorch.experiments.training import Run  # noqa: PLC0415 - see TYPE_CHECKING above

    names = _planned(lambda: _list("cells", cells, known_cell))
    numbers = _planned(lambda: _list("seeds", seeds, int))
    # Seed by seed, so that a first comparison of all cells is there early.
    return [Run(task, cell, seed) for seed, task, cell in itertools.product(numbers, tasks, names)]


def _train(
    experiments: "Mapping[Path, Sequence[Run]]",
    *,
    jobs: int | None,
    device: str,
    dask: str | None,
    tensorboard: bool,
) -> None:
    """Train all runs, then show the table and the plots of each experiment."""
    from brc_pytorch.experiments.sweep import check_folder, check_plan, sweep_all  # noqa: PLC0415
    from brc_pytorch.experiments.train.files import DamagedFileError  # noqa: PLC0415

    def check() -> int | None:
        for output, runs in experiments.items():
            check_folder(runs, output)
            runs[0].task.prepare()  # the data of one are those of all
        return check_plan(jobs=jobs, device=device, dask=dask, tensorboard=tensorboard)

    at_once = _planned(check)
    for output, runs in experiments.items():
        _print_settings(runs, output)
    _print_plan(at_once, device, dask)
    total = sum(map(len, experiments.values()))
    try:
        with _ending_with_reader(), _Board(total, several=len(experiments) > 1) as board:
            outcomes = _planned(
                lambda: sweep_all(
                    experiments,
                    jobs=jobs,
                    device=device,
                    dask=dask,
                    tensorboard=tensorboard,
                    report=board.show,
                    waiting=board.wait,
                    finished=board.end,
                )
            )
    except KeyboardInterrupt:
        errors.print("\nStopped. The same command continues where it was.")
        raise typer.Exit(INTERRUPTED) from None
    except BrokenExecutor as error:
        _fail(f"{error}; the same command continues the runs", FAILED)
    failed = [outcome.error for outcome in outcomes if outcome.error is not None]
    named = {error.path for error in failed if isinstance(error, DamagedFileError)}
    problems = _show(experiments, named)
    for problem in problems:
        _print_error(problem)
    if failed:
        _fail(
            f"{len(failed)} of {total} runs failed, see above; the same command continues them",
            FAILED,
        )
    if problems:
        raise typer.Exit(FAILED)


def _show(folders: Iterable[Path], named: Container[Path]) -> list[str]:
    """Print the tables and draw the plots of some output folders.

    Args:
        folders: The folders.
        named: Damaged files that the user knows of.

    Returns:
        What is wrong with other files.
    """
    from brc_pytorch.experiments import plots  # noqa: PLC0415 - see TYPE_CHECKING above

    problems = []
    for folder in folders:
        console.print()
        experiment = _read(folder)
        _print_table(experiment)
        problems += [
            str(error) for error in experiment.damaged if error.path.absolute() not in named
        ]
        try:
            _print_paths(plots.plot(experiment))
        except OSError as error:
            problems.append(_in_a_line(error))
    return problems


def _print_settings(runs: "Sequence[Run]", output: Path) -> None:
    """Print every number that the results of an experiment depend on."""
    from brc_pytorch.experiments.sweep import shared_settings  # noqa: PLC0415

    shared = shared_settings(runs[0])
    grid = Table.grid(padding=(0, 2))
    grid.title, grid.title_justify = f"[bold]{shared.pop('task')}[/]", "left"
    for key, name in (("cell", "cells"), ("seed", "seeds")):
        grid.add_row(name, _all_of(key, runs))
    for key in runs[0].task.dimensions:
        grid.add_row(key, _all_of(key, runs))
    for name, value in shared.items():
        shown = value if isinstance(value, (bool, str)) else f"{value:,}"
        grid.add_row(name.replace("_", " "), str(shown))
    grid.add_row("optimizer", "Adam")
    grid.add_row("output", str(output))
    console.print(grid, highlight=False)
    console.print()


def _print_table(experiment: "Experiment") -> None:
    """Print the means of an output folder's finished runs."""
    from brc_pytorch.experiments.tables import summarise  # noqa: PLC0415

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


def _all_of(key: str, runs: "Sequence[Run]") -> str:
    return ", ".join(dict.fromkeys(str(run.settings[key]) for run in runs))


def _print_plan(at_once: int | None, device: str, dask: str | None) -> None:
    """Print where the runs are trained."""
    if dask is not None:
        where = f"on the Dask cluster at {dask}, one run a worker, device {device}"
    else:
        from brc_pytorch.experiments.executors import devices  # noqa: PLC0415

        names = ", ".join(devices(device))
        where = f"on {names}, {torch.get_num_threads()} threads, {at_once} run(s) at a time"
    console.print(where, highlight=False, soft_wrap=True)
    console.print()


def _print_paths(paths: Iterable[Path]) -> None:
    for path in paths:
        console.print(str(path), soft_wrap=True, highlight=False)


def _is_told_by_a_line(error: BaseException) -> bool:
    """Tell whether an error is about a file or the cluster, not in the code of a cell."""
    from brc_pytorch.experiments.train.files import FileError  # noqa: PLC0415 - see TYPE_CHECKING above

    return isinstance(error, (FileError, CancelledError)) or (
        isinstance(error, OSError) and error.filename is not None
    )


@contextlib.contextmanager
def _ending_with_reader() -> Iterator[None]:
    """Stop, as on Ctrl-C, when whoever reads this command's output has gone, as `head` does.

    A write would show it, too, but there may be none for hours.
    """
    if not hasattr(signal, "SIGPIPE") or not _is_read():
        yield
        return
    left, end = os.pipe()

    def watch() -> None:
        poller = select.poll()
        poller.register(sys.stdout.fileno(), 0)  # tells of a reader that has gone, and no more
        poller.register(left, select.POLLIN)
        if all(descriptor != left for descriptor, _ in poller.poll()):
            os.kill(os.getpid(), signal.SIGPIPE)

    def stop(*_: object) -> None:
        if not _is_read():  # sockets send the same signal
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGPIPE, stop)
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        os.close(end)
        watcher.join()
        os.close(left)
        signal.signal(signal.SIGPIPE, before)


def _is_read() -> bool:
    """Tell whether somebody reads what this command says; where that is unknown, nobody."""
    try:
        poller = select.poll()
        poller.register(sys.stdout.fileno(), 0)
    except (OSError, ValueError, AttributeError):  # no file, as in a test
        return False
    return not poller.poll(0)


class _Board:
    """The progress bars: one for each run under way, and one for all runs."""

    def __init__(self, runs: int, *, several: bool) -> None:
        self._several = several
        self._bars = Progress(
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=4)),
            MofNCompleteColumn(),
            TextColumn("{task.fields[losses]}", table_column=Column(no_wrap=True)),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            console=console,
            expand=True,
            transient=True,
        )
        self._all = self._bars.add_task("all runs", total=runs, losses="", visible=runs > 1)
        self._tasks: dict[Path, TaskID] = {}
        self._lock = threading.Lock()

    def _name(self, directory: Path) -> str:
        """Return the name of a run, with its experiment's where there are several."""
        return f"{directory.parent.name}/{directory.name}" if self._several else directory.name

    def __enter__(self) -> "_Board":  # noqa: PYI034 - Self is not in Python 3.10
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def show(self, progress: "RunProgress") -> None:
        """Move the bar of a run."""
        losses = "" if progress.loss is None else f"loss {progress.loss:.3f}"
        if progress.held_out is not None:
            losses += f" {progress.held_out_name} {progress.held_out:.3f}"
        description = f"{self._name(progress.directory)} {progress.doing}".strip()
        with self._lock:
            if progress.directory not in self._tasks:
                # A continued run starts where it was, so that its speed is not overrated.
                self._tasks[progress.directory] = self._bars.add_task(
                    description, completed=progress.iteration, losses=losses
                )
            self._bars.update(
                self._tasks[progress.directory],
                description=description,
                completed=progress.iteration,
                total=progress.iterations,
                losses=losses,
            )

    def wait(self, told: str) -> None:
        """Tell what is waited for."""
        console.print(told, highlight=False, soft_wrap=True, markup=False)

    def end(self, outcome: "Outcome") -> None:
        """Replace the bar of a run by a line that tells how it ended."""
        name = self._name(outcome.directory)
        with self._lock:
            if outcome.directory in self._tasks:
                self._bars.remove_task(self._tasks.pop(outcome.directory))
            self._bars.advance(self._all)
        if outcome.error is not None and _is_told_by_a_line(outcome.error):
            _print_error(f"{name} failed: {_in_a_line(outcome.error)}")
        elif outcome.error is not None:
            trace = "".join(traceback.format_exception(outcome.error))
            errors.print(f"{trace}{name} failed", style="red", markup=False, highlight=False)
        else:
            told = "was finished before" if outcome.skipped else "is finished"
            console.print(f"{name} {told}", highlight=False)
