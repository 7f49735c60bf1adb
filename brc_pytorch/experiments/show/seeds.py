"""The plot of every seed: a point each, with the median of a cell and its interval."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from brc_pytorch.experiments.show.results import RunFiles
from brc_pytorch.experiments.show.statistics import interval
from brc_pytorch.experiments.show.style import cell_styles
from brc_pytorch.experiments.tasks.measures import Measure

_SPREAD = 0.3
"""How far from the middle of a row seeds are drawn, so that equal ones are told apart."""


@dataclass(frozen=True)
class Seeds:
    """A kind of plot: a row for each cell, and in it a point for each seed.

    Attributes:
        measure: What is on the horizontal axis.
    """

    measure: Measure
    name: ClassVar[str] = "seeds"

    @property
    def caption(self) -> str:
        """What it shows."""
        title = self.measure.title
        return (
            f"{title[:1].upper()}{title[1:]}: a point for each seed, a stroke at their median, and "
            "a line over its 95 % bootstrap interval."
        )

    def has(self, run: RunFiles) -> bool:
        """Tell whether a run has a point."""
        return run.result is not None and math.isfinite(self.measure.value(run))

    @staticmethod
    def height(cells: int) -> float:
        """Return the height of a panel of so many cells, in inches."""
        return 0.9 + 0.42 * cells

    def draw(self, axis: Axes, cells: Sequence[str], runs: Sequence[RunFiles]) -> None:
        """Draw a panel."""
        styles = cell_styles(cells)
        runs = [run for run in runs if self.has(run)]
        for row, cell in enumerate(cells):
            own = [run for run in runs if run.settings["cell"] == cell]
            if own:
                self._draw_cell(axis, row, [*map(self.measure.value, own)], styles[cell]["color"])
        axis.set_yticks(range(len(cells)), cells)
        axis.set_ylim(len(cells) - 0.5, -0.5)  # the first one on top
        axis.grid(visible=False, axis="y")
        values = [self.measure.value(run) for run in runs]
        beyond = max(values, default=0) > self.measure.cap
        axis.set_xlabel(
            self.measure.title + (f"\n▷ more than {self.measure.cap:,}" if beyond else "")
        )
        if self.measure.scale == "log" and min(values, default=1) > 0:
            axis.set_xscale("log")
            # Of more than two decades the numbers between their ends would overlap.
            between = (1, 2, 5) if max(values, default=1) < 100 * min(values, default=1) else (1,)
            axis.xaxis.set_major_locator(LogLocator(subs=between, numticks=9))
            axis.xaxis.set_minor_formatter(NullFormatter())
        else:
            axis.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axis.margins(x=0.06)

    def _draw_cell(self, axis: Axes, row: int, values: Sequence[float], colour: str) -> None:
        found = interval(values, capped=self.measure.capped)
        if found.low is not None and found.high is not None:
            axis.plot(
                [found.low, found.high],
                [row, row],
                color=colour,
                linewidth=5,
                alpha=0.3,
                solid_capstyle="butt",
            )
        places = [
            row + _SPREAD * (2 * (place + 0.5) / len(values) - 1) for place in range(len(values))
        ]
        points = [*zip(values, places, strict=True)]
        known = [point for point in points if point[0] <= self.measure.cap]
        beyond = [point for point in points if point[0] > self.measure.cap]
        for marker, group in (("o", known), (">", beyond)):
            if group:
                axis.plot(
                    *zip(*group, strict=True),
                    linestyle="none",
                    marker=marker,
                    markersize=5,
                    markerfacecolor="white",
                    markeredgecolor=colour,
                    markeredgewidth=1.4,
                    clip_on=False,
                    zorder=4,
                )
        axis.plot(
            [found.median] * 2,
            [row - _SPREAD - 0.08, row + _SPREAD + 0.08],
            color=colour,
            linewidth=2.4,
            zorder=3,
        )
