"""The networks of runs, before training and after, and what goes on in them."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_packed_sequence

from brc_pytorch.analysis import Hysteresis, hysteresis
from brc_pytorch.analysis.network import count_in_pass
from brc_pytorch.experiments.files import BEST, LAST, DamagedFileError
from brc_pytorch.experiments.show.results import RunFiles, read_run, settings_of
from brc_pytorch.experiments.tasks import TASKS, Task
from brc_pytorch.experiments.tasks.cells import recurrent_part
from brc_pytorch.experiments.tasks.networks import first_network
from brc_pytorch.experiments.weights import read_weights
from brc_pytorch.layers import NeuromodulatedBistableRecurrentCell
from brc_pytorch.layers.bistable_cell import BistableCell
from brc_pytorch.layers.stack import CellPass

_FILES = {"best": BEST, "last": LAST}
_SEQUENCES = 16
"""Held-out sequences of which the bistable units are counted."""
_PLACES = 301
"""Places of a drive from end to end."""
_CHOSEN = 2
"""Units of a layer whose loops are drawn unless told otherwise."""


def load_network(directory: Path, weights: str = "best") -> nn.Module:
    """Open the network of a run.

    Args:
        directory: The run's directory.
        weights: "best", those with the lowest held-out loss on sequences of the last length;
            "last", those after the last epoch; or "first", those before training.

    Returns:
        The network, from inputs (B, T, I) to predictions, for use and not for training (`eval`).

    Raises:
        DamagedFileError: If a file of the run is missing, or damaged.
        ValueError: If there are no such weights, or the cell cannot be imported.
    """
    return _load(read_run(directory), weights).eval()


def _load(run: RunFiles, weights: str) -> nn.Module:
    if weights not in (*_FILES, "first"):
        raise ValueError(f"weights: expected best, last or first, got {weights!r}")
    task, cell = task_of(run), run.settings["cell"]
    if weights == "first":
        return first_network(task, cell, run.settings["seed"])
    network, path = task.network(cell), run.directory / _FILES[weights]
    try:
        network.load_state_dict(read_weights(path))
    except RuntimeError as error:
        expected = f"the weights of a network of {cell}"
        raise DamagedFileError(path, expected, "those of another one") from error
    return network


def task_of(run: RunFiles) -> Task:
    """Return the task of a run, with its settings."""
    task = TASKS[run.settings["task"]]
    return task(**{name: run.settings[name] for name in settings_of(task)})


class Loop(NamedTuple):
    """The hysteresis of a unit.

    Attributes:
        unit: Its place in its layer.
        drive: What the input gives to its candidate, U x, (K).
        found: Its states there and back, and all fixed points: (K, 1).
        usual: Between which two drives nine tenths of its real ones are.
    """

    unit: int
    drive: Tensor
    found: Hysteresis
    usual: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class LayerLook:
    """What goes on in a layer.

    Attributes:
        states: The states of one sequence, (T, H).
        gates: Its gates a and c, (T, H) each; none where the cell has none such.
        share: The share of units with two stable states at each step, (T), over some sequences;
            None where the cells are not bistable ones.
        loops: The hysteresis of chosen units.
    """

    states: Tensor
    gates: tuple[Tensor, ...]
    share: Tensor | None
    loops: list[Loop]


@dataclasses.dataclass(frozen=True)
class Look:
    """What goes on in the network of a run.

    Attributes:
        run: The run.
        before: Each layer, with the weights before training.
        after: Each layer, with the best weights.
    """

    run: RunFiles
    before: list[LayerLook]
    after: list[LayerLook]


@torch.no_grad()
def look_into(directory: Path, sequence: int = 0, units: list[int] | None = None) -> Look:
    """Run the network of a run over held-out sequences, and look into it.

    Args:
        directory: The run's directory.
        sequence: Which of the held-out sequences is looked at over time.
        units: Whose hysteresis is told, in every layer. By default the ones whose last states
            differ most between the sequences after training.

    Raises:
        DamagedFileError: If a file of the run is missing, or damaged.
        ValueError: If there is no such sequence or unit.
    """
    run = read_run(directory)
    task = task_of(run)
    _, data = task.data(run.settings["seed"], task.length_at(task.total_epochs - 1))
    if not 0 <= sequence < len(data):
        raise ValueError(f"sequence: expected 0 to {len(data) - 1}, got {sequence}")
    others = [place for place in range(min(_SEQUENCES, len(data))) if place != sequence]
    inputs, _ = data[torch.tensor([sequence, *others])]
    if not isinstance(inputs, Tensor):  # of different lengths: one of them, as long as it is
        padded, lengths = pad_packed_sequence(inputs, batch_first=True)
        inputs = padded[:1, : int(lengths[0])]
    hidden = int(run.settings["hidden_size"])
    if units is not None and not all(0 <= unit < hidden for unit in units):
        raise ValueError(f"units: expected 0 to {hidden - 1}, got {', '.join(map(str, units))}")
    networks = [recurrent_part(_load(run, weights).eval()) for weights in ("best", "first")]
    trained, first = (network.cell_passes(inputs) for network in networks)
    chosen = [units or _different(of.output[-1]) for of in trained]
    return Look(run, _layers(first, chosen), _layers(trained, chosen))


def _different(last: Tensor) -> list[int]:
    """The units whose last states, (B, H), differ most between sequences."""
    spread = last.max(0).values - last.min(0).values
    return spread.topk(min(_CHOSEN, last.shape[1])).indices.tolist()


def _layers(passes: list[CellPass], chosen: list[list[int]]) -> list[LayerLook]:
    return [_layer(of, units) for of, units in zip(passes, chosen, strict=True)]


def _layer(of: CellPass, units: list[int]) -> LayerLook:
    cell = of.cell
    if not isinstance(cell, BistableCell):
        return LayerLook(of.output[:, 0], (), None, [])
    counts = count_in_pass(of)
    gates = tuple(gate[:, 0] for gate in cell.gates(*of[1:]))  # type: ignore[arg-type]
    return LayerLook(
        of.output[:, 0],
        gates,
        (counts > 1).double().mean((1, 2)),
        [_loop(of, cell, unit) for unit in units],
    )


def _loop(of: CellPass, cell: BistableCell, unit: int) -> Loop:
    """Drive a unit along its own weights, from the mean input of its layer."""
    weights = cell.kernelh[:, unit]
    real = of.input.flatten(0, 1)
    drives = real @ weights
    low, high = drives.quantile(torch.tensor([0.05, 0.95])).tolist()
    mean, reach = real.mean(0), max(1.0, abs(low), abs(high)) * 1.1
    drive = torch.linspace(-reach, reach, _PLACES)
    path = mean + (drive - mean @ weights).unsqueeze(1) * weights / weights.square().sum()
    frozen = isinstance(cell, NeuromodulatedBistableRecurrentCell)
    state = of.output[-1, 0] if frozen else None
    return Loop(unit, drive, hysteresis(cell, path, state, torch.tensor([unit])), (low, high))
