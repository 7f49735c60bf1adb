"""The progress bars of runs under way."""

import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from brc_pytorch.experiments.cli.output import (
    console,
    errors,
    in_a_line,
    is_told_by_a_line,
    print_error,
)

if TYPE_CHECKING:
    from brc_pytorch.experiments.train.run import Progress as RunProgress
    from brc_pytorch.experiments.train.sweep import Outcome


class Board:
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

    def __enter__(self) -> "Board":  # noqa: PYI034 - Self is not in Python 3.10
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
        if outcome.error is not None and is_told_by_a_line(outcome.error):
            print_error(f"{name} failed: {in_a_line(outcome.error)}")
        elif outcome.error is not None:
            trace = "".join(traceback.format_exception(outcome.error))
            errors.print(f"{trace}{name} failed", style="red", markup=False, highlight=False)
        else:
            told = "was finished before" if outcome.skipped else "is finished"
            console.print(f"{name} {told}", highlight=False)
