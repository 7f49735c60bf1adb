"""Pictures of what goes on in the network of a run, before and after its training."""

from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import torch
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from torch import Tensor

from brc_pytorch.experiments.show.networks import LayerLook, Look, Loop
from brc_pytorch.experiments.show.plots import save
from brc_pytorch.experiments.show.style import STYLE
from brc_pytorch.experiments.tasks import TASKS

FOLDER = "look"
"""Of the pictures, in the directory of the run."""

_BEFORE, _AFTER = "before training", "after training"
_UP, _DOWN, _UNSTABLE, _USUAL = "#0072B2", "#D55E00", "#555555", "#CCCCCC"
# By layer; dashes for prints in grey.
_LAYERS = (
    ("#0072B2", "solid"),
    ("#D55E00", (0, (5, 1.5))),
    ("#009E73", (0, (2, 1))),
    ("#CC79A7", (0, (5, 1, 1, 1))),
)


class _Quantity(NamedTuple):
    """What a panel over time shows."""

    title: str
    colours: str
    scale: Normalize


_STATE = _Quantity("state h", "RdBu_r", Normalize(-1, 1))
_GATES = (
    _Quantity("feedback strength a", "PuOr_r", TwoSlopeNorm(1, 0, 2)),
    _Quantity("update gate c", "viridis", Normalize(0, 1)),
)

CAPTIONS = {
    "states": "States and gates of every unit over one held-out sequence. In each layer the units "
    "are sorted by their last state after training; red and blue are states that differ in sign.",
    "bistable": "Share of the units that have two stable states under their input of the moment, "
    "by layer. Gates that see the whole layer, as the nBRC's, are frozen at their values of the "
    "step.",
    "hysteresis": "Units driven slowly up and down again by their input. Where the lines differ a "
    "unit has two stable states and keeps the one it is in. Grey: where nine tenths of the unit's "
    "real drives lie. Dotted: unstable states. Gates that see the whole layer, as the nBRC's, are "
    "frozen at those of the last step.",
}
"""What is told of each picture, by the name of its files."""


def draw(look: Look) -> dict[str, Figure]:
    """Draw all that can be drawn of a network: of torch's cells the states alone."""
    pictures = {"states": _states(look)}
    if any(layer.share is not None for layer in look.after):
        pictures["bistable"] = _shares(look)
        pictures["hysteresis"] = _loops(look)
    return pictures


def write_look(look: Look) -> list[Path]:
    """Draw a network into a folder of its run.

    Returns:
        The files, PNG and SVG.
    """
    folder = look.run.directory / FOLDER
    folder.mkdir(exist_ok=True)
    with mpl.rc_context(STYLE):
        return [path for name, figure in draw(look).items() for path in save(figure, folder / name)]


def _heading(look: Look) -> str:
    settings = look.run.settings
    task = TASKS[settings["task"]]
    told = [task.describe(key, settings) for key in task.dimensions]
    return ", ".join([f"{task.title}: {settings['cell']}", *told, f"seed {settings['seed']}"])


def _sides(look: Look) -> tuple[tuple[str, list[LayerLook]], ...]:
    return (_BEFORE, look.before), (_AFTER, look.after)


def _states(look: Look) -> Figure:
    """Draw what every unit does over time: a row for each layer, before and after."""
    quantities = [_STATE, *(_GATES if any(layer.gates for layer in look.after) else ())]
    layers = len(look.after)
    figure = Figure(
        figsize=(1.2 + 3.6 * len(quantities), 0.9 + 1.75 * 2 * layers), layout="constrained"
    )
    grid = figure.subplots(2 * layers, len(quantities), sharex=True, squeeze=False)
    images: dict[int, Any] = {}
    for place in range(layers):
        order = look.after[place].states[-1].argsort()
        for side, (when, shown) in enumerate(_sides(look)):
            row = grid[2 * place + side]
            row[0].set_ylabel(f"layer {place + 1}\n{when}")
            values = (shown[place].states, *shown[place].gates)
            for column, (axis, quantity) in enumerate(zip(row, quantities, strict=True)):
                axis.grid(visible=False)
                axis.set_yticks([])
                if column >= len(values):
                    axis.set_axis_off()
                    continue
                images[column] = _image(axis, values[column][:, order], quantity)
    for column, quantity in enumerate(quantities):
        grid[0][column].set_title(quantity.title, loc="left")
        grid[-1][column].set_xlabel("step")
        grid[-1][column].xaxis.set_major_locator(MaxNLocator(6, integer=True))
        figure.colorbar(images[column], ax=grid[:, column], location="bottom", aspect=30)
    figure.suptitle(_heading(look), x=0.01, ha="left", weight="bold")
    return figure


def _image(axis: Axes, values: Tensor, quantity: _Quantity) -> Any:  # noqa: ANN401 - of Matplotlib
    steps, units = values.shape
    return axis.imshow(
        values.T.numpy(),
        aspect="auto",
        interpolation="nearest",
        origin="lower",
        extent=(0.5, steps + 0.5, 0, units),
        cmap=quantity.colours,
        norm=quantity.scale,
    )


def _shares(look: Look) -> Figure:
    """Draw the share of bistable units over time: before and after beside each other."""
    figure = Figure(figsize=(9.6, 3.6), layout="constrained")
    axes = figure.subplots(1, 2, sharex=True, sharey=True)
    for axis, (when, shown) in zip(axes, _sides(look), strict=True):
        for place, layer in enumerate(shown):
            if layer.share is None:
                continue
            colour, dashes = _LAYERS[place % len(_LAYERS)]
            steps = torch.arange(1, len(layer.share) + 1)
            axis.plot(
                steps, layer.share, color=colour, linestyle=dashes, label=f"layer {place + 1}"
            )
        axis.set_title(when, loc="left")
        axis.set_xlabel("step")
        axis.set_ylim(bottom=0)
        axis.yaxis.set_major_formatter(PercentFormatter(1))
    axes[0].set_ylabel("units with two stable states")
    handles, labels = axes[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, handlelength=3)
    figure.suptitle(_heading(look), x=0.01, ha="left", weight="bold")
    return figure


def _loops(look: Look) -> Figure:
    """Draw the hysteresis of units: a column for each, before above, after below."""
    columns = [
        (place, unit) for place, layer in enumerate(look.after) for unit in range(len(layer.loops))
    ]
    figure = Figure(figsize=(0.8 + 2.7 * len(columns), 6), layout="constrained")
    grid = figure.subplots(2, len(columns), sharey=True, squeeze=False)
    for row, (when, shown) in zip(grid, _sides(look), strict=True):
        for axis, (place, unit) in zip(row, columns, strict=True):
            loop = shown[place].loops[unit]
            _loop(axis, loop)
            axis.set_title(f"layer {place + 1}, unit {loop.unit}", loc="left")
        row[0].set_ylabel(f"{when}\nstate h at rest")
    for axis in grid[1]:
        axis.set_xlabel("drive U x")
    handles, labels = grid[1][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    figure.suptitle(_heading(look), x=0.01, ha="left", weight="bold")
    return figure


def _loop(axis: Axes, loop: Loop) -> None:
    drive, found = loop.drive, loop.found
    axis.axvspan(*loop.usual, color=_USUAL, alpha=0.5, linewidth=0, label="usual drives")
    unstable = torch.where(found.points.is_stable, torch.nan, found.points.state)[:, 0]
    for index, branch in enumerate(unstable.unbind(1)):
        label = "unstable" if index == 0 else None
        axis.plot(drive, branch, color=_UNSTABLE, linestyle=":", linewidth=1.4, label=label)
    axis.plot(drive, found.there[:, 0], color=_UP, label="drive rises")
    axis.plot(drive, found.back[:, 0], color=_DOWN, linestyle=(0, (5, 2)), label="drive falls")
    axis.set_ylim(-1.05, 1.05)
    axis.margins(x=0)


def drawn_pictures(directory: Path) -> dict[str, Path]:
    """Return the pictures, as SVG, that have been drawn of a run, by their captions."""
    paths = {text: directory / FOLDER / f"{name}.svg" for name, text in CAPTIONS.items()}
    return {text: path for text, path in paths.items() if path.is_file()}
