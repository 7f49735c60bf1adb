"""Plots of an output folder, drawn from its files alone.

An experiment that is still under way is plotted as far as it has come.
"""

import functools
import io
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogFormatter, MaxNLocator, PercentFormatter

from brc_pytorch.experiments.files import TRAINING, write_file
from brc_pytorch.experiments.show.results import Experiment, RunFiles
from brc_pytorch.experiments.tasks.curves import Curve, Mark
from brc_pytorch.experiments.tasks.recall import SHORT_LENGTH, SHORT_WINDOW
from brc_pytorch.experiments.tasks.task import WINDOW

# Okabe and Ito's colours, which colour-blind readers can tell apart, with dashes for prints in
# grey; a cell keeps its own in every plot, and cells of the user's own take what is left.
_CELL_STYLES: dict[str, tuple[str, Any]] = {
    "LSTM": ("#0072B2", (0, (5, 1.5))),
    "GRU": ("#E69F00", (0, (2, 1))),
    "BRC": ("#D55E00", (0, (9, 1.5, 2, 1.5))),
    "nBRC": ("#009E73", "solid"),
    "RNN": ("#56B4E9", (0, (1, 1))),
    "PeepholeLSTM": ("#CC79A7", (0, (5, 1, 1, 1, 1, 1))),
}
_SPARE_COLOURS = ("#000000", "#7F7F7F", "#8C564B", "#9A8700")
_GREY = "#555555"
STYLE: dict[Any, Any] = {
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.labelsize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E5E5E5",
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "svg.hashsalt": "brc",  # the same data give the same file
    "text.parse_math": False,  # a cell's name is no formula
}
_MOST_POINTS = 500
"""More points of a smoothed line than this cannot be seen, and make an SVG slow."""
_MOST_COLUMNS = 3
"""Panels beside each other in one file."""
_TITLE_LETTERS_PER_INCH = 8
_LETTERS_PER_INCH = 11
_LETTERS_OF_A_LINE = 7
"""What the line beside a name takes in a legend, in letters."""


def plots(experiment: Experiment) -> list[Curve]:
    """Return the curves that the experiment has something for."""
    curves = experiment.task.curves(experiment.settings)
    return [curve for curve in curves if any(curve.table in run.tables for run in experiment.runs)]


def caption(curve: Curve, experiment: Experiment) -> str:
    """Tell what a plot shows, and how several seeds are drawn."""
    several = len(experiment.values("seed")) > 1
    spread = " Lines and bands: mean ± standard error over the seeds." if several else ""
    alone = ""
    if several and curve.table == TRAINING:
        alone = " Thin lines: single runs, where others have ended."
    return f"{curve.caption.format(window=_windows(experiment))}{spread}{alone}"


def _windows(experiment: Experiment) -> str:
    """Tell the moving averages of an experiment's runs."""
    common = f"{WINDOW} iterations"
    if any(run.window == SHORT_WINDOW for run in experiment.runs):
        return f"{common} ({SHORT_WINDOW} for length {SHORT_LENGTH} or less)"
    return common


def _finish(axis: Axes, curve: Curve) -> None:
    """Set the scales of a panel, and mark in it what its numbers are measured by."""
    for mark in curve.marks:
        _mark(axis, mark)
    if curve.scale == "log":
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        # Within one decade the ticks between its ends are all there is to read.
        axis.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 1)))
    elif curve.scale == "share":
        axis.set_ylim(-0.02, 1.02)
        axis.yaxis.set_major_formatter(PercentFormatter(1))
    else:
        axis.set_ylim(bottom=0)
    if curve.x == "iteration":
        axis.set_xlim(left=0)
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    else:
        axis.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10]))


def _mark(axis: Axes, mark: Mark) -> None:
    """Draw a thin line at a value, and its meaning beside it."""
    if mark.axis == "y":
        axis.axhline(mark.value, color=_GREY, linewidth=0.8)
        _annotate(axis, mark.text, (1, mark.value), axis.get_yaxis_transform(), "right")
        return
    axis.axvline(mark.value, color=_GREY, linewidth=0.8)
    _annotate(axis, mark.text, (mark.value, 1), axis.get_xaxis_transform(), "center")
    axis.set_title(axis.get_title(loc="left"), loc="left", pad=18)  # the text is below it


def _annotate(
    axis: Axes,
    text: str,
    place: tuple[float, float],
    transform: Any,  # noqa: ANN401 - matplotlib has several kinds
    side: str,
) -> None:
    """Write a small text above a place."""
    axis.annotate(
        text,
        place,
        xycoords=transform,
        xytext=(0, 3),
        textcoords="offset points",
        ha=side,
        color=_GREY,
        fontsize=9,
    )


def _styles(cells: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return how the line of each cell is drawn."""
    spare = iter(_SPARE_COLOURS)
    styles: dict[str, dict[str, Any]] = {}
    for place, cell in enumerate(reversed(cells)):
        colour, dashes = _CELL_STYLES.get(cell) or (next(spare, "#BBBBBB"), "solid")
        # Thin lines over thick ones: cells that learn all, or nothing, lie upon each other.
        styles[cell] = {"color": colour, "linestyle": dashes, "linewidth": 1.5 + 0.35 * place}
    return dict(reversed(styles.items()))


def _thin(curve: "pd.Series[float]") -> "pd.Series[float]":
    """Leave out points that are not seen, but never the last one."""
    step = max(1, math.ceil(len(curve) / _MOST_POINTS))
    return curve.iloc[::-1].iloc[::step].iloc[::-1]


def _draw_cell(axis: Axes, curves: Sequence["pd.Series[float]"], style: dict[str, Any]) -> None:
    """Draw the mean and standard error of some runs as far as all go, and then each alone."""
    colour = style["color"]
    curves = [curve.dropna() for curve in curves]  # a run that diverged ends there
    together = pd.concat(curves, axis=1, join="inner")
    mean = _thin(together.mean(axis=1))
    axis.plot(mean.index, mean, **style)
    if len(curves) == 1:
        return
    error = together.sem(axis=1)[mean.index]
    axis.fill_between(mean.index, mean - error, mean + error, color=colour, alpha=0.2, linewidth=0)
    for curve in curves:
        if len(curve) > len(together):
            alone = _thin(curve.iloc[len(together) :])
            axis.plot(alone.index, alone, color=colour, linewidth=0.8, alpha=0.8)


def _draw_panel(
    axis: Axes, plot: Curve, experiment: Experiment, title: str, runs: Sequence[RunFiles]
) -> None:
    empty = True
    for cell, style in _styles(experiment.values("cell")).items():
        curves = [plot.of(run) for run in runs if run.settings["cell"] == cell]
        known = [curve for curve in curves if curve is not None]
        if known:
            _draw_cell(axis, known, style)
            empty = False
    if empty:
        axis.text(0.5, 0.5, "no data yet", transform=axis.transAxes, ha="center", color=_GREY)
    axis.set_title(title, loc="left")
    axis.set_xlabel(plot.x_label)
    _finish(axis, plot)


def _panels(experiment: Experiment) -> dict[str, list[RunFiles]]:
    """Return the runs of each panel by its title: a panel for each length, and so on."""
    keys = [key for key in experiment.task.dimensions if len(experiment.values(key)) > 1]
    return {
        ", ".join(experiment.task.describe(key, runs[0].settings) for key in keys): runs
        for runs in experiment.groups(keys).values()
    }


def heading(experiment: Experiment) -> str:
    """Return the task's title, and what all panels have in common."""
    common = [
        experiment.task.describe(key, experiment.runs[0].settings)
        for key in experiment.task.dimensions
        if len(experiment.values(key)) == 1
    ]
    return ", ".join([experiment.task.title, *common])


def _figure(
    plot: Curve, experiment: Experiment, panels: dict[str, list[RunFiles]], columns: int
) -> Figure:
    """Draw some panels, so many beside each other, with one legend."""
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(0.8 + 4.4 * columns, 0.6 + 3.3 * rows), layout="constrained")
    sharex = experiment.task.same_axis
    grid = figure.subplots(rows, columns, sharex=sharex, sharey=True, squeeze=False)
    axes = grid.flatten()
    for axis, (title, runs) in zip(axes, panels.items(), strict=False):
        _draw_panel(axis, plot, experiment, title, runs)
        axis.tick_params(labelbottom=True)  # also where no panel stands below
    for axis in axes[len(panels) :]:
        axis.remove()
    for axis in axes[::columns]:
        axis.set_ylabel(plot.y_label)
    styles = _styles(experiment.values("cell"))
    letters = max(map(len, styles)) + _LETTERS_OF_A_LINE
    legend = figure.legend(
        [Line2D([], [], **style) for style in styles.values()],
        [str(place) for place in range(len(styles))],
        loc="outside lower center",
        ncols=min(len(styles), max(1, int(figure.get_figwidth() * _LETTERS_PER_INCH / letters))),
        handlelength=3,
    )
    # Set here, because a legend leaves out labels that begin with an underscore.
    for text, cell in zip(legend.get_texts(), styles, strict=True):
        text.set_text(cell)
    return figure


def draw(plot: Curve, experiment: Experiment) -> Figure:
    """Draw all panels of a plot into one figure."""
    panels = _panels(experiment)
    figure = _figure(plot, experiment, panels, min(len(panels), _MOST_COLUMNS))
    title = textwrap.fill(heading(experiment), int(figure.get_figwidth() * _TITLE_LETTERS_PER_INCH))
    figure.suptitle(title, x=0.01, ha="left", weight="bold")
    return figure


def draw_panels(plot: Curve, experiment: Experiment) -> dict[str, str]:
    """Draw each panel of a plot into an SVG of its own, on the same scales as in `draw`.

    Returns:
        The SVGs by the titles of the panels.
    """
    drawn = {}
    with mpl.rc_context(STYLE):
        together = draw(plot, experiment).axes
        for shared, (title, runs) in zip(together, _panels(experiment).items(), strict=True):
            figure = _figure(plot, experiment, {title: runs}, 1)
            figure.axes[0].set(xlim=shared.get_xlim(), ylim=shared.get_ylim())
            text = io.StringIO()
            figure.savefig(text, format="svg", metadata={"Date": None})
            drawn[title] = text.getvalue()
    return drawn


def save(figure: Figure, path: Path) -> list[Path]:
    """Save a figure as PNG and SVG."""
    paths: list[Path] = []
    for kind in ("png", "svg"):
        metadata = {"Date": None} if kind == "svg" else None
        save = functools.partial(figure.savefig, format=kind, dpi=200, metadata=metadata)
        paths.append(path.with_suffix(f".{kind}"))
        write_file(paths[-1], save)
    return paths


def plot(experiment: Experiment) -> list[Path]:
    """Draw all plots of an output folder into it.

    Returns:
        The files, PNG and SVG; none if no run has ended its first epoch.
    """
    with mpl.rc_context(STYLE):
        return [
            path
            for kind in plots(experiment)
            for path in save(draw(kind, experiment), experiment.directory / kind.name)
        ]
