"""What a run is, and how far it has come."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from brc_pytorch.experiments.files import FileError
from brc_pytorch.experiments.tasks import Task, settings


@dataclasses.dataclass(frozen=True)
class Run:
    """What is trained; two runs that are equal give the same result.

    Attributes:
        task: The task with its settings.
        cell: Name of the cell, one of `tasks.CELLS` or `module:Class`.
        seed: Seed of the data, the first weights and the order of the batches.
    """

    task: Task
    cell: str
    seed: int

    @property
    def name(self) -> str:
        """Name of the run's directory, of the cell, the task's dimensions and the seed."""
        dimensions = [f"{key}{getattr(self.task, key)}" for key in self.task.dimensions]
        return "-".join([self.cell.replace(":", "."), *dimensions, f"seed{self.seed}"])

    @property
    def settings(self) -> dict[str, Any]:
        """Everything the result depends on, as plain data."""
        return {
            "task": self.task.name,
            "cell": self.cell,
            "seed": self.seed,
            **settings(self.task),
        }


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run has come.

    Attributes:
        directory: Where the run's files go.
        iteration: Gradient iterations done.
        iterations: Gradient iterations of the whole run, if it is not ended early.
        doing: What the run is at, where its name does not tell: a length, or a test.
        loss: Training loss of the last iteration.
        held_out: Held-out loss of the last epoch.
        held_out_name: What that loss is called: test or validation.
    """

    directory: Path
    iteration: int
    iterations: int
    doing: str
    loss: float | None = None
    held_out: float | None = None
    held_out_name: str = ""


Report = Callable[[Progress], None]


class OtherSettingsError(FileError):
    """A file holds the settings of something else than is trained."""


def check_same(wanted: Mapping[str, Any], found: Mapping[str, Any], path: Path) -> None:
    """Refuse a file whose settings are other ones than wanted.

    Raises:
        OtherSettingsError: If any setting differs; the message names each with both values.
    """
    differences = [
        f"{key} is {found.get(key)!r} there, {wanted.get(key)!r} here"
        for key in {**found, **wanted}
        if found.get(key) != wanted.get(key)
    ]
    if differences:
        raise OtherSettingsError(
            f"output: expected an empty folder or this experiment, but {path} holds another "
            f"one: {'; '.join(differences)}"
        )
