"""Plots and tables of an output folder, drawn from its files alone.

Every function reads what is there: an experiment that is still under way is plotted as far as it
has come.
"""

import dataclasses
import functools
import math
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter
from rich.table import Table

from brc_pytorch.experiments.sweep import EXPERIMENT
from brc_pytorch.experiments.tasks import TASKS, SequentialMNISTTask, Task
from brc_pytorch.experiments.training import (
    CONFIG,
    EPOCHS,
    RESULT,
    TEST,
    TRAINING,
    read_json,
    write_file,
)

# Okabe and Ito's colours, which colour-blind readers can tell apart; a cell keeps its own in
# every plot, and cells of the user's own take what is left.
_CELL_COLOURS = {
    "LSTM": "#0072B2",
    "GRU": "#E69F00",
    "BRC": "#D55E00",
    "nBRC": "#009E73",
    "RNN": "#56B4E9",
    "PeepholeLSTM": "#CC79A7",
}
_SPARE_COLOURS = ("#000000", "#7F7F7F", "#8C564B", "#9A8700")
_LINE_STYLES: tuple[Any, ...] = (
    "solid",
    "dashed",
    "dotted",
    "dashdot",
    (0, (6, 1.5, 1, 1.5, 1, 1.5)),
    (0, (10, 3)),
)
_GREY = "#555555"
_STYLE: dict[Any, Any] = {
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.labelsize": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E5E5E5",
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "svg.fonttype": "none",
    "svg.hashsalt": "brc",  # the same data give the same file
}
_WINDOW = 100
"""Gradient iterations in the moving average of the training loss."""
_SHORT_LENGTH, _SHORT_WINDOW = 5, 20
"""The same for Copy-First-Input of this length or less, which is learnt in fewer iterations."""
_MOST_POINTS = 1000
"""More points of a smoothed line than this cannot be seen, and make an SVG slow."""


@dataclasses.dataclass(frozen=True)
class RunFiles:
    """What a run's directory holds, without its tables.

    Attributes:
        directory: The directory.
        settings: The settings of the run.
        result: Its result, or None if it is not finished.
    """

    directory: Path
    settings: dict[str, Any]
    result: dict[str, Any] | None

    def table(self, name: str) -> pd.DataFrame:
        """Read one of the run's tables."""
        return pd.read_csv(self.directory / name)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """An output folder.

    Attributes:
        directory: The folder.
        settings: What its runs share.
        runs: Its runs, in the order of their settings.
    """

    directory: Path
    settings: dict[str, Any]
    runs: list[RunFiles]

    @property
    def task(self) -> type[Task]:
        """The task."""
        return TASKS[self.settings["task"]]

    def values(self, key: str) -> list[Any]:
        """Return the values that a setting takes; cells in the order of the palette."""
        values = list(dict.fromkeys(run.settings[key] for run in self.runs if key in run.settings))
        return values if key == "cell" else sorted(values)

    def select(self, **settings: Any) -> list[RunFiles]:  # noqa: ANN401 - a setting's own type
        """Return the runs with these settings."""
        return [
            run
            for run in self.runs
            if all(run.settings.get(key) == value for key, value in settings.items())
        ]


def read_experiment(directory: Path) -> Experiment:
    """Read the settings and results of an output folder.

    Raises:
        ValueError: If the folder holds no experiment.
    """
    if not (directory / EXPERIMENT).exists():
        raise ValueError(
            f"directory: expected the output folder of an experiment, got {directory}, "
            f"which has no {EXPERIMENT}"
        )
    runs = []
    for config in sorted(directory.glob(f"*/{CONFIG}")):
        result = config.parent / RESULT
        runs.append(
            RunFiles(
                config.parent,
                read_json(config)["settings"],
                read_json(result) if result.exists() else None,
            )
        )
    known = list(_CELL_COLOURS)

    def order(run: RunFiles) -> tuple[Any, ...]:
        cell = run.settings["cell"]
        place = known.index(cell) if cell in known else len(known)
        return place, cell, *(run.settings[key] for key in dimensions)

    settings = read_json(directory / EXPERIMENT)
    dimensions = TASKS[settings["task"]].dimensions
    return Experiment(directory, settings, sorted(runs, key=order))


def _colours(cells: Iterable[str]) -> dict[str, str]:
    spare = iter(_SPARE_COLOURS)
    return {cell: _CELL_COLOURS.get(cell) or next(spare, "#BBBBBB") for cell in cells}


def _panels(experiment: Experiment, pad: float = 6) -> tuple[Figure, list[tuple[int, Axes]]]:
    """Make a figure with a panel for each number of layers, its title `pad` points above it."""
    layers = experiment.values("layers")
    figure = Figure(figsize=(2.2 + 5.2 * len(layers), 4.6), layout="constrained")
    axes = figure.subplots(1, len(layers), sharey=True, squeeze=False)[0]
    units = experiment.settings["hidden_size"]
    for number, axis in zip(layers, axes, strict=True):
        plural = "s" if number > 1 else ""
        axis.set_title(f"{number} layer{plural} of {units} units", loc="left", pad=pad)
    figure.suptitle(experiment.task.title, x=0.01, ha="left", weight="bold")
    return figure, list(zip(layers, axes, strict=True))


def _save(figure: Figure, path: Path) -> list[Path]:
    """Save a figure as PNG and SVG."""
    paths: list[Path] = []
    for kind in ("png", "svg"):
        metadata = {"Date": None} if kind == "svg" else None
        save = functools.partial(figure.savefig, format=kind, dpi=200, metadata=metadata)
        paths.append(path.with_suffix(f".{kind}"))
        write_file(paths[-1], save)
    return paths


def _smooth(run: RunFiles) -> tuple[pd.Series, pd.Series]:
    """Return iterations and the moving average of their loss, at no more points than are seen."""
    losses = run.table(TRAINING)
    short = run.settings.get("length", math.inf) <= _SHORT_LENGTH
    window = _SHORT_WINDOW if short else _WINDOW
    # The first points average over what there is.
    smooth = losses["loss"].rolling(window, min_periods=1).mean()
    step = math.ceil(len(losses) / _MOST_POINTS)
    kept = smooth.index[::-1][::step][::-1]  # the last one always
    return losses["iteration"][kept], smooth[kept]


def draw_training_loss(experiment: Experiment) -> Figure:
    """Draw the training loss against the gradient iteration, smoothed by a moving average.

    One colour a cell, one line style a length (or what the task has in its place), one line a
    seed, one panel a number of layers.
    """
    task = experiment.task
    colours = _colours(experiment.values("cell"))
    # Thin lines over thick ones: cells that learn nothing lie upon each other.
    widths = {cell: 1.4 + 0.5 * place for place, cell in enumerate(reversed(colours))}
    # What the lines of a cell differ in: the length, for tasks that have one.
    kind = task.dimensions[0]
    values = experiment.values(kind) if kind != "layers" else []
    styles = {
        value: _LINE_STYLES[place % len(_LINE_STYLES)]
        for place, value in enumerate(reversed(values))
    }
    figure, panels = _panels(experiment)
    for layers, axis in panels:
        if task.loss_of_guessing is not None:
            level, text = task.loss_of_guessing
            axis.axhline(level, color=_GREY, linewidth=0.8)
            axis.annotate(
                text,
                (1, level),
                xycoords=axis.get_yaxis_transform(),
                xytext=(0, 3),
                textcoords="offset points",
                ha="right",
                color=_GREY,
                fontsize=9,
            )
        for run in experiment.select(layers=layers):
            if not (run.directory / TRAINING).exists():
                continue  # its first epoch is under way
            axis.plot(
                *_smooth(run),
                color=colours[run.settings["cell"]],
                linestyle=styles.get(run.settings[kind], "solid"),
                linewidth=widths[run.settings["cell"]],
                alpha=0.9,
            )
        axis.set_xlim(left=0)
        axis.set_ylim(bottom=0)
        axis.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axis.set_xlabel("gradient iteration")
    window = f"{_WINDOW} iterations"
    if kind == "length" and values[0] <= _SHORT_LENGTH:
        window += f", {_SHORT_WINDOW} for length {values[0]}"
    panels[0][1].set_ylabel(f"training {task.loss_name}")
    figure.supxlabel(f"moving average of {window}", color=_GREY, fontsize=9)
    handles = [Line2D([], [], color=colour, label=cell) for cell, colour in colours.items()]
    handles += [
        Line2D([], [], color=_GREY, linestyle=styles[value], label=f"{kind} {value}")
        for value in values
    ]
    figure.legend(handles=handles, loc="outside right upper", handlelength=2.6)
    return figure


def draw_accuracy(experiment: Experiment) -> Figure:
    """Draw the test accuracy against the length: mean and standard error over the seeds."""
    colours = _colours(experiment.values("cell"))
    limit = experiment.settings["max_length"]
    figure, panels = _panels(experiment, pad=20)
    for layers, axis in panels:
        axis.axvline(limit, color=_GREY, linewidth=1)
        axis.annotate(
            f"trained up to {limit}",
            (limit, 1),
            xycoords=axis.get_xaxis_transform(),
            xytext=(0, 4),
            textcoords="offset points",
            ha="center",
            color=_GREY,
            fontsize=9,
        )
        for cell, colour in colours.items():
            tables = [
                run.table(TEST)
                for run in experiment.select(cell=cell, layers=layers)
                if (run.directory / TEST).exists()
            ]
            if not tables:
                continue  # all of its runs are still being trained
            accuracy = pd.concat(tables).groupby("length")["accuracy"]
            mean, error = accuracy.mean(), accuracy.sem()
            axis.plot(mean.index, mean, color=colour)
            axis.fill_between(
                mean.index, mean - error, mean + error, color=colour, alpha=0.2, linewidth=0
            )
        axis.set_ylim(-0.02, 1.02)
        axis.yaxis.set_major_formatter(PercentFormatter(1))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set_xlabel("length (bits of both numbers)")
    band = "\n(mean ± standard error of the runs)" if len(experiment.values("seed")) > 1 else ""
    panels[0][1].set_ylabel(f"test sequences with all bits right{band}")
    handles = [Line2D([], [], color=colour, label=cell) for cell, colour in colours.items()]
    figure.legend(handles=handles, loc="outside right upper")
    return figure


def plot(directory: Path) -> list[Path]:
    """Draw all plots of an output folder into it.

    Returns:
        The files, PNG and SVG; none if no run has ended its first epoch.

    Raises:
        ValueError: If the folder holds no experiment.
    """
    experiment = read_experiment(directory)
    paths = []
    with mpl.rc_context(_STYLE):
        for name, source, draw in (
            ("training_loss", TRAINING, draw_training_loss),
            ("accuracy", TEST, draw_accuracy),
        ):
            if any((run.directory / source).exists() for run in experiment.runs):
                paths += _save(draw(experiment), directory / name)
    return paths


def _mean_and_error(values: Iterable[float], show: Callable[[float], str]) -> str:
    """Write a mean and, of two values or more, its standard error."""
    known = [value for value in values if not math.isnan(value)]  # a run may have diverged
    if not known:
        return "-"
    mean = show(statistics.fmean(known))
    if len(known) == 1:
        return mean
    return f"{mean} ± {show(statistics.stdev(known) / math.sqrt(len(known)))}"


def _seconds(value: float) -> str:
    minutes, seconds = divmod(round(value), 60)
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _loss(value: float) -> str:
    return f"{value:.3g}"


def _count(value: float) -> str:
    return f"{value:,.0f}"


@dataclasses.dataclass(frozen=True)
class _Column:
    """A column of the table: a number of a finished run, and how it is written."""

    title: str
    value: Callable[[RunFiles], float]
    show: Callable[[float], str]


def _result(key: str) -> Callable[[RunFiles], float]:
    def value(run: RunFiles) -> float:
        known = None if run.result is None else run.result[key]
        return math.nan if known is None else float(known)

    return value


def _accuracy(shortest: int, longest: int) -> Callable[[RunFiles], float]:
    def mean(run: RunFiles) -> float:
        test = run.table(TEST)
        return float(test.loc[test["length"].between(shortest, longest), "accuracy"].mean())

    return mean


def _last_accuracy(run: RunFiles) -> float:
    return float(run.table(EPOCHS)["test_accuracy"].iloc[-1])


def _columns(experiment: Experiment) -> list[_Column]:
    """Return what is told of the runs of a task."""
    settings = experiment.settings
    if "max_test_length" in settings:
        first, limit, last = (
            settings[key] for key in ("min_length", "max_length", "max_test_length")
        )
        return [
            _Column(f"right at {first}-{limit}, %", _accuracy(first, limit), _percent),
            _Column(f"at {limit + 1}-{last}, %", _accuracy(limit + 1, last), _percent),
            _Column(f"at {last}, %", _accuracy(last, last), _percent),
        ]
    columns = [
        _Column("best test loss", _result("best_test_loss"), _loss),
        _Column("epochs", _result("epochs"), _count),
        _Column("iterations", _result("iterations"), _count),
    ]
    if experiment.task is SequentialMNISTTask:
        columns.insert(0, _Column("right, %", _last_accuracy, _percent))
    return columns


def table(directory: Path) -> Table:
    """Make a table of an output folder: a row for all seeds of a kind, mean and standard error.

    Numbers are those of finished runs.

    Raises:
        ValueError: If the folder holds no experiment.
    """
    experiment = read_experiment(directory)
    columns = _columns(experiment)
    kinds = ["cell", *experiment.task.dimensions]
    grid = Table(title=experiment.settings["task"], title_justify="left", header_style="bold")
    for kind in kinds:
        grid.add_column(kind, justify="left" if kind == "cell" else "right")
    grid.add_column("runs", justify="right")
    for column in columns:
        grid.add_column(column.title, justify="right")
    grid.add_column("time", justify="right")
    rows: dict[tuple[Any, ...], list[RunFiles]] = {}
    for run in experiment.runs:
        rows.setdefault(tuple(run.settings[kind] for kind in kinds), []).append(run)
    for values, runs in rows.items():
        finished = [run for run in runs if run.result is not None]
        grid.add_row(
            *map(str, values),
            str(len(runs)) if len(finished) == len(runs) else f"{len(finished)} of {len(runs)}",
            *(_mean_and_error(map(column.value, finished), column.show) for column in columns),
            _seconds(sum(map(_result("seconds"), finished))),
        )
    return grid
