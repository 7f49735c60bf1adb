"""Learning rates of cells, chosen on validation data, before the runs that are reported.

For each cell, on each length and so on, a run is trained with every rate of a grid. Its seed is
one of its own, so that no other run has its data, the held-out ones included. Of the rates that
solve the task the one with the fewest iterations is chosen, or else the one with the lowest
held-out loss after the last epoch.

These runs are experiments like any other, a folder each: `tuning/0.001` and so on in the output
folder. The choice is a function of what is in them, and `learning-rates.json` tells it.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from brc_pytorch.experiments.files import LEARNING_RATES, read_result, write_json
from brc_pytorch.experiments.tasks import VALIDATION_SEED, Task
from brc_pytorch.experiments.train.run import Run

TUNING = "tuning"


def check_grid(runs: Sequence[Run], rates: Sequence[float]) -> None:
    """Refuse a grid of no use, and runs that have the data that it is chosen on.

    Raises:
        ValueError: If a rate is not above 0, or a run has the seed of validation.
    """
    for rate in rates:
        if not (rate > 0 and math.isfinite(rate)):
            raise ValueError(f"learning_rates: expected numbers above 0, got {rate}")
    if any(run.seed == VALIDATION_SEED for run in runs):
        raise ValueError(
            f"seeds: expected others than {VALIDATION_SEED}, whose data learning rates are "
            "chosen on"
        )


def tuning_runs(
    experiments: Mapping[Path, Sequence[Run]], grids: Mapping[Path, Sequence[float]]
) -> dict[Path, list[Run]]:
    """Return the runs that learning rates are chosen by, by their output folders.

    Args:
        experiments: The runs of each experiment, by its output folder.
        grids: The rates to choose from, by output folder, of those that have them.
    """
    return {
        _folder(folder, rate): [
            Run(dataclasses.replace(task, learning_rate=rate), cell, VALIDATION_SEED)
            for task, cell in _kinds(experiments[folder])
        ]
        for folder, rates in grids.items()
        for rate in rates
    }


def with_chosen_rates(
    experiments: Mapping[Path, Sequence[Run]], grids: Mapping[Path, Sequence[float]]
) -> dict[Path, list[Run]]:
    """Return the runs with the learning rates that finished `tuning_runs` have shown to be best.

    Each choice is written into its output folder.

    Raises:
        DamagedFileError: If a result is not there, or damaged.
    """
    return {
        folder: _choose(folder, runs, grids[folder]) if folder in grids else [*runs]
        for folder, runs in experiments.items()
    }


def _kinds(runs: Sequence[Run]) -> list[tuple[Task, str]]:
    """Return what differs between runs but for their seeds."""
    return [*dict.fromkeys((run.task, run.cell) for run in runs)]


def _folder(folder: Path, rate: float) -> Path:
    return folder / TUNING / f"{rate:g}"


def _choose(folder: Path, runs: Sequence[Run], rates: Sequence[float]) -> list[Run]:
    chosen: dict[tuple[Task, str], float] = {}
    told = []
    for task, cell in _kinds(runs):
        results = {}
        for rate in rates:
            run = Run(dataclasses.replace(task, learning_rate=rate), cell, VALIDATION_SEED)
            results[rate] = read_result(_folder(folder, rate) / run.name, task.held_out)
        losses = {rate: _last_loss(result, task) for rate, result in results.items()}
        best = min(rates, key=lambda rate: _rank(results[rate], losses[rate]))
        chosen[task, cell] = best
        told.append(
            {
                "cell": cell,
                **{key: getattr(task, key) for key in task.dimensions},
                "learning_rate": best,
                "held_out_losses": {f"{rate:g}": loss for rate, loss in losses.items()},
            }
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / LEARNING_RATES, {"grid": [*rates], "chosen": told})
    return [
        dataclasses.replace(
            run,
            task=dataclasses.replace(run.task, learning_rate=chosen[run.task, run.cell]),
        )
        for run in runs
    ]


def _last_loss(result: Mapping[str, Any], task: Task) -> float | None:
    """Return the held-out loss after the last epoch, None where it is no number."""
    loss: float | None = result.get(f"last_{task.held_out}_loss")
    return loss


def _rank(result: Mapping[str, Any], loss: float | None) -> tuple[bool, float]:
    """Return what the best rate has the least of."""
    if result["solved"]:
        return False, result["iterations"]
    return True, math.inf if loss is None else loss
