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
from matplotlib.ticker import (
    FuncFormatter,
    LogFormatter,
    LogLocator,
    MaxNLocator,
    NullLocator,
)

from brc_pytorch.experiments.files import write_file
from brc_pytorch.experiments.show.results import Experiment, RunFiles
from brc_pytorch.experiments.show.seeds import Seeds
from brc_pytorch.experiments.show.style import GREY, STYLE, cell_styles
from brc_pytorch.experiments.tasks.curves import Curve, Mark
from brc_pytorch.experiments.tasks.recall import SHORT_LENGTH, SHORT_WINDOW
from brc_pytorch.experiments.tasks.task import WINDOW

_MOST_POINTS = 500
"""More points of a smoothed line than this cannot be seen, and make an SVG slow."""
_HEIGHT_OF_CURVES = 3.3
_FEW_LENGTHS = 32
"""Over a range of this factor or less every power of two has a tick, else every other one."""
_MOST_COLUMNS = 3
"""Panels beside each other in one file."""
_TITLE_LETTERS_PER_INCH = 8
_LETTERS_PER_INCH = 11
_LETTERS_BESIDE_A_PANEL = 10
_LETTERS_OF_A_LINE = 10
"""What the line beside a name and the gaps take in a legend, in letters."""


Plot = Curve | Seeds


def plots(experiment: Experiment) -> list[Plot]:
    """Return what the experiment has something for: the seeds of each cell, and curves."""
    seeds = Seeds(experiment.task.measures(experiment.settings)[0])
    curves = experiment.task.curves(experiment.settings)
    return [
        *([seeds] if any(map(seeds.has, experiment.runs)) else []),
        *(c for c in curves if any(c.table in run.tables for run in experiment.runs)),
    ]


def caption(plot: Plot, experiment: Experiment) -> str:
    """Tell what a plot shows, and how several seeds are drawn."""
    if isinstance(plot, Seeds):
        return plot.caption
    several = len(experiment.values("seed")) > 1
    spread = (
        " Thick lines: medians over the seeds, of which one that has ended keeps its last value. "
        "Thin lines: the seeds."
    )
    axes = ""
    if plot.scale == "share" and len(_panels(experiment)) > 1:
        axes = " Mind the vertical axes, which differ."
    about = plot.caption.format(window=_windows(experiment))
    return f"{about}{spread if several else ''}{axes}"


def _windows(experiment: Experiment) -> str:
    """Tell the moving averages of an experiment's runs."""
    common = f"{WINDOW} iterations"
    if any(run.window == SHORT_WINDOW for run in experiment.runs):
        return f"{common} ({SHORT_WINDOW} for length {SHORT_LENGTH} or less)"
    return common


def _finish(axis: Axes, curve: Curve, marks: Sequence[Mark], lowest: float) -> None:
    """Set the scales of a panel, and mark in it what its numbers are measured by.

    Args:
        axis: The panel, with its curves.
        curve: What they are.
        marks: What is marked.
        lowest: The lowest value that is drawn.
    """
    if curve.scale == "log":
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        # Within one decade the ticks between its ends are all there is to read.
        axis.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 1)))
    elif curve.scale == "share":
        bottom = _bottom(lowest)
        room = 0.03 * (1 - bottom)
        axis.set_ylim(bottom - (room if bottom == 0 else 0), 1 + room)
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
    else:
        axis.set_ylim(bottom=0)
    if curve.x == "iteration":
        axis.set_xlim(left=0)
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    elif curve.x_scale == "log":
        axis.set_xscale("log", base=2)
        shortest, longest = axis.get_xlim()
        base = 4 if longest > _FEW_LENGTHS * shortest else 2
        axis.xaxis.set_major_locator(LogLocator(base=base, numticks=9))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_formatter(FuncFormatter(_power_of_two))
    else:
        axis.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10]))
    for mark in marks:
        if mark.axis == "x" or axis.get_ylim()[0] <= mark.value:
            _mark(axis, mark)


def _bottom(lowest: float) -> float:
    """Return where an axis of shares begins: 0, or higher where all values are near 1."""
    steps = (0.99, 0.98, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5)
    return next((step for step in steps if lowest >= step), 0.0)


def _power_of_two(value: float, _: object) -> str:
    """Write a length, in units of 1,024 from there on."""
    for unit, letter in ((2**20, "Mi"), (2**10, "Ki")):
        if value >= unit:
            return f"{value / unit:g} {letter}"
    return f"{value:g}"


def _mark(axis: Axes, mark: Mark) -> None:
    """Draw a thin line at a value over all curves, and write its meaning outside the panel."""
    line: dict[str, Any] = {"color": GREY, "linewidth": 0.9, "zorder": 5}
    style: dict[str, Any] = {"textcoords": "offset points", "color": GREY, "fontsize": 9}
    if mark.axis == "y":
        axis.axhline(mark.value, **line)
        text, end = textwrap.fill(mark.text, _LETTERS_BESIDE_A_PANEL), axis.get_yaxis_transform()
        axis.annotate(text, (1, mark.value), xycoords=end, xytext=(4, 0), va="center", **style)
        return
    axis.axvline(mark.value, **line)
    top = axis.get_xaxis_transform()
    axis.annotate(mark.text, (mark.value, 1), xycoords=top, xytext=(0, 3), ha="center", **style)
    axis.set_title(axis.get_title(loc="left"), loc="left", pad=18)  # the text is below it


def _thin(curve: "pd.Series[float]") -> "pd.Series[float]":
    """Leave out points that are not seen, but never the last one."""
    step = max(1, math.ceil(len(curve) / _MOST_POINTS))
    return curve.iloc[::-1].iloc[::step].iloc[::-1]


def _draw_cell(
    axis: Axes, curves: Sequence[tuple["pd.Series[float]", bool]], style: dict[str, Any]
) -> float:
    """Draw some runs and their median.

    Args:
        axis: The panel.
        curves: The values of each run, and whether it has ended; if so, it keeps its last value
            where others go on.
        style: How the median is drawn.

    Returns:
        The lowest value drawn.
    """
    for curve, _ in curves if len(curves) > 1 else ():
        seed = _thin(curve.dropna())
        axis.plot(seed.index, seed, color=style["color"], linewidth=0.7, alpha=0.55)
    # What diverges is worse than anything else.
    places = sorted({place for curve, _ in curves for place in curve.index})
    columns = []
    for curve, ended in curves:
        column = curve.fillna(math.inf).reindex(places)
        columns.append(column.ffill() if ended else column)
    together = pd.concat(columns, axis=1)
    median = together.dropna().median(axis=1)
    median = _thin(median[median < math.inf])
    # One point alone is no line.
    axis.plot(median.index, median, marker="o" if len(median) == 1 else None, **style)
    return float(min(curve.min() for curve, _ in curves))


def _draw_panel(
    axis: Axes, plot: Curve, cells: Sequence[str], title: str, runs: Sequence[RunFiles]
) -> float:
    """Draw the curves of a panel; return the lowest value drawn, infinity if there is none."""
    lowest = math.inf
    for cell, style in cell_styles(cells).items():
        curves = [
            (plot.of(run), run.result is not None) for run in runs if run.settings["cell"] == cell
        ]
        known = [(curve, ended) for curve, ended in curves if curve is not None]
        if known:
            lowest = min(lowest, _draw_cell(axis, known, style))
    if lowest == math.inf:
        axis.text(0.5, 0.5, "no data yet", transform=axis.transAxes, ha="center", color=GREY)
    axis.set_title(title, loc="left")
    axis.set_xlabel(plot.x_label)
    return lowest


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
    plot: Plot, experiment: Experiment, panels: dict[str, list[RunFiles]], columns: int
) -> Figure:
    """Draw some panels, so many beside each other."""
    rows = math.ceil(len(panels) / columns)
    cells = experiment.values("cell")
    height = plot.height(len(cells)) if isinstance(plot, Seeds) else _HEIGHT_OF_CURVES
    figure = Figure(figsize=(0.8 + 4.4 * columns, 0.6 + height * rows), layout="constrained")
    sharex = experiment.task.same_axis and isinstance(plot, Curve)
    sharey = isinstance(plot, Seeds) or plot.scale != "share"
    grid = figure.subplots(rows, columns, sharex=sharex, sharey=sharey, squeeze=False)
    axes = grid.flatten()
    for axis in axes:
        axis.tick_params(labelbottom=True)  # also where no panel stands below
    for axis in axes[len(panels) :]:
        axis.remove()
    drawn = [*zip(axes, panels.items(), strict=False)]
    if isinstance(plot, Seeds):
        for axis, (title, runs) in drawn:
            axis.set_title(title, loc="left")
            plot.draw(axis, cells, runs)
        return figure
    lowest = [_draw_panel(axis, plot, cells, title, runs) for axis, (title, runs) in drawn]
    # Once all is drawn: a limit that is set is that of all panels with the same axis.
    for (axis, (_, runs)), value in zip(drawn, lowest, strict=True):
        _finish(axis, plot, plot.marks(runs[0].settings), value)
    for axis in axes[::columns]:
        axis.set_ylabel(plot.y_label)
    _add_legend(figure, cells)
    return figure


def _columns(count: int, most: int) -> int:
    """Return the columns of a grid whose rows are few, and as full as each other."""
    rows = math.ceil(count / max(1, most))
    return math.ceil(count / rows)


def _add_legend(figure: Figure, cells: Sequence[str]) -> None:
    """Say below all panels which line is which cell's."""
    styles = cell_styles(cells)
    letters = max(map(len, styles)) + _LETTERS_OF_A_LINE
    legend = figure.legend(
        [Line2D([], [], **style) for style in styles.values()],
        [str(place) for place in range(len(styles))],
        loc="outside lower center",
        ncols=_columns(len(styles), int(figure.get_figwidth() * _LETTERS_PER_INCH / letters)),
        handlelength=3,
    )
    # Set here, because a legend leaves out labels that begin with an underscore.
    for text, cell in zip(legend.get_texts(), styles, strict=True):
        text.set_text(cell)


def draw(plot: Plot, experiment: Experiment) -> Figure:
    """Draw all panels of a plot into one figure."""
    panels = _panels(experiment)
    figure = _figure(plot, experiment, panels, _columns(len(panels), _MOST_COLUMNS))
    title = textwrap.fill(heading(experiment), int(figure.get_figwidth() * _TITLE_LETTERS_PER_INCH))
    figure.suptitle(title, x=0.01, ha="left", weight="bold")
    return figure


def draw_panels(plot: Plot, experiment: Experiment) -> dict[str, str]:
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
