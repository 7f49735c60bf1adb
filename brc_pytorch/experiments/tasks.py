"""The benchmark tasks and the cells they compare, as plain data.

A task holds every number of its experiment, with the predecessor's as the default, and gives the
data, the network, the loss and the metrics. It does not know how training is run.

Shapes use T for time steps, B for the batch, and N for samples.
"""

import copy
import difflib
import hashlib
import importlib
from collections.abc import Callable, Iterable
from dataclasses import Field, asdict, dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from brc_pytorch.datasets import BinaryAddition, BRCDataset, copy_first_input
from brc_pytorch.layers import (
    BistableRecurrentCell,
    MultiLayerBase,
    NeuromodulatedBistableRecurrentCell,
    PeepholeLSTMCell,
    SelectItem,
)
from brc_pytorch.layers.scan import has_pair_state

CellType = Callable[[int, int], nn.Module]
Data = BRCDataset | BinaryAddition

# The mode of MultiLayerBase, and the cell, for each name of the command line.
CELLS: dict[str, tuple[str, CellType]] = {
    "LSTM": ("LSTM", nn.LSTMCell),
    "GRU": ("GRU", nn.GRUCell),
    "RNN": ("RNN", nn.RNNCell),
    "BRC": ("BRC", BistableRecurrentCell),
    "nBRC": ("nBRC", NeuromodulatedBistableRecurrentCell),
    "PeepholeLSTM": ("LSTM", PeepholeLSTMCell),
}


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint at the known name most like `name`, or at all of them if none is near."""
    names = {candidate.casefold(): candidate for candidate in known}
    close = difflib.get_close_matches(name.casefold(), names, n=1)
    return f"did you mean {names[close[0]]}?" if close else f"known are {', '.join(names.values())}"


def cell_type(name: str) -> CellType:
    """Find a cell by its name in `CELLS`, or by `module:Class`.

    Args:
        name: A name of `CELLS`, or a class that is called with `(input_size, hidden_size)`, given
            as its importable module, a colon and its name.

    Returns:
        The class.

    Raises:
        ValueError: If there is no such cell; the message names the nearest one.
    """
    if name in CELLS:
        return CELLS[name][1]
    module_name, colon, class_name = name.partition(":")
    if not colon:
        raise ValueError(
            f"cell: expected a known name or module:Class, got {name!r}; {nearest(name, CELLS)}"
        )
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # An import that fails inside the user's module is their error to see in full.
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise ValueError(
            f"cell: expected an importable module before the colon of {name!r}, "
            f"got no module named {error.name!r}"
        ) from error
    found = getattr(module, class_name, None)
    if not callable(found):
        classes = [key for key, value in vars(module).items() if isinstance(value, type)]
        raise ValueError(  # noqa: TRY004 - the name is wrong, whatever it names
            f"cell: expected a class of {module_name} after the colon of {name!r}; "
            f"{nearest(class_name, classes)}"
        )
    return found  # type: ignore[no-any-return]  # what a user's module holds has no type here


def _keeps_pair(cell: nn.Module, input_size: int, hidden_size: int) -> bool:
    """Tell whether the state of a cell is a pair; one step shows where nothing else tells."""
    known = has_pair_state(cell)
    if known is not None:
        return known
    probe = copy.deepcopy(cell)  # a step may change a cell that keeps statistics
    input_t, h = torch.zeros(1, input_size), torch.zeros(1, hidden_size)
    with torch.no_grad():
        try:
            state = probe(input_t, h)
        except Exception:  # noqa: BLE001 - however a cell fails that unpacks a pair; the next line raises otherwise
            state = probe(input_t, (h, h))
    return isinstance(state, tuple)


def recurrent_network(
    cell: str, input_size: int, hidden_size: int, layers: int, *, return_sequences: bool
) -> MultiLayerBase:
    """Stack `layers` cells of the name `cell`, the first one over inputs of `input_size`.

    Args:
        cell: A name of `CELLS`, or `module:Class`.
        input_size: Features of the input, I.
        hidden_size: Units of every layer, H.
        layers: Number of layers.
        return_sequences: Whether the network gives every output, or its last states.

    Returns:
        The network over inputs (B, T, I).

    Raises:
        ValueError: If there is no such cell.
    """
    make = cell_type(cell)
    sizes = [input_size] + [hidden_size] * (layers - 1)
    cells = [make(size, hidden_size) for size in sizes]
    if cell in CELLS:
        mode = CELLS[cell][0]
    else:
        mode = "LSTM" if _keeps_pair(cells[0], input_size, hidden_size) else "RNN"
    return MultiLayerBase(mode, cells, hidden_size, return_sequences=return_sequences)


def random_stream(seed: int, *names: str | int) -> torch.Generator:
    """Return the random numbers of one purpose of a run, such as its data of one length.

    Each purpose has a stream of its own, which depends on nothing but its names, so that a run
    continued at any epoch draws what it would have drawn, and all cells see the same data.

    Args:
        seed: Seed of the run.
        names: What the numbers are for.
    """
    digest = hashlib.sha256(repr((seed, *names)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))


def _refuse_below(task: "Task", **least: float) -> None:
    """Refuse a task with a setting below its least value, which is 1 unless given.

    Raises:
        ValueError: If there is one; the message names it.
    """
    for name, value in asdict(task).items():
        if value < least.get(name, 1):
            raise ValueError(f"{name}: expected {least.get(name, 1)} or more, got {value}")


class LastState(nn.Module):
    """Pick h of the last layer's last step, whether the state is h or the pair (h, c)."""

    def forward(self, state: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        """Return h, (B, H), of the last states (1, B, H) of a network in one direction."""
        h = state[0] if isinstance(state, tuple) else state
        return h[-1]


class Task(Protocol):
    """What training asks of a task. Its fields are every setting that the results depend on."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    name: ClassVar[str]
    """Name of the task and of its command."""
    dimensions: ClassVar[tuple[str, ...]]
    """Fields in which the runs of one experiment may differ; all other ones they share."""
    held_out: ClassVar[str]
    """What the predecessor called the data that each epoch ends with: test or validation."""

    @property
    def layers(self) -> int:
        """Number of recurrent layers."""

    @property
    def batch_size(self) -> int:
        """Sequences in a batch, of training and of testing."""

    @property
    def learning_rate(self) -> float:
        """Step size of Adam."""

    @property
    def total_epochs(self) -> int:
        """Epochs of a run that is not ended early."""

    def length_at(self, epoch: int) -> int:
        """Return the length of the sequences of an epoch, counted from 0."""

    def data(self, seed: int, length: int) -> tuple[Data, Data]:
        """Return the training and the held-out data of a length."""

    def final_tests(self, seed: int) -> Iterable[tuple[int, Data]]:
        """Yield the lengths, and their data, that the last model is tested on."""

    def network(self, cell: str) -> nn.Module:
        """Return a new network of the cell, from inputs (B, T, I) to predictions."""

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the mean loss of a batch, a scalar."""

    def metrics(self, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return the means over a batch of all that is reported of held-out data."""

    def is_solved(self, held_out_loss: float) -> bool:
        """Tell whether training ends before its last epoch."""


@dataclass(frozen=True)
class CopyFirstInputTask:
    """Copy-First-Input: after `length` random numbers, tell the first.

    Defaults are those of brc-pytorch 0.1.3, whose lengths were 5, 100 and 300.

    Attributes:
        length: Time steps, T.
        layers: Recurrent layers.
        hidden_size: Units of a layer, H.
        train_size: Training sequences.
        test_size: Test sequences.
        batch_size: Sequences in a batch.
        epochs: Epochs at most.
        learning_rate: Step size of Adam.
        stop_below: Training ends after an epoch with a test loss below this.
    """

    name: ClassVar[str] = "copy-first-input"
    dimensions: ClassVar[tuple[str, ...]] = ("length", "layers")
    held_out: ClassVar[str] = "test"

    length: int = 300
    layers: int = 2
    hidden_size: int = 100
    train_size: int = 45_000
    test_size: int = 5_000
    batch_size: int = 100
    epochs: int = 60
    learning_rate: float = 1e-3
    stop_below: float = 0.1

    def __post_init__(self) -> None:
        """Refuse settings that no run could have."""
        _refuse_below(self, learning_rate=0, stop_below=0)

    @property
    def total_epochs(self) -> int:
        """Epochs of a run that is not ended early."""
        return self.epochs

    def length_at(self, epoch: int) -> int:  # noqa: ARG002 - the same length throughout
        """Return the length of the sequences of an epoch."""
        return self.length

    def data(self, seed: int, length: int) -> tuple[BRCDataset, BRCDataset]:
        """Return the training and the test data: inputs (N, T, 1), targets (N, 1)."""
        train, test = (
            BRCDataset(
                *copy_first_input(
                    size, length, generator=random_stream(seed, self.name, use, length)
                )
            )
            for use, size in (("train", self.train_size), ("test", self.test_size))
        )
        return train, test

    def final_tests(self, seed: int) -> Iterable[tuple[int, Data]]:  # noqa: ARG002 - none follow
        """Return nothing: every epoch ends with the test."""
        return ()

    def network(self, cell: str) -> nn.Module:
        """Return recurrent layers and a linear one on their last state: (B, T, 1) to (B, 1)."""
        layers = recurrent_network(cell, 1, self.hidden_size, self.layers, return_sequences=False)
        return nn.Sequential(layers, LastState(), nn.Linear(self.hidden_size, 1))

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the mean squared error."""
        return functional.mse_loss(prediction, target)

    def metrics(self, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return the mean squared error as "loss"."""
        return {"loss": self.loss(prediction, target)}

    def is_solved(self, held_out_loss: float) -> bool:
        """Tell whether the test loss is below `stop_below`."""
        return held_out_loss < self.stop_below


@dataclass(frozen=True)
class BinaryAdditionTask:
    """Binary addition: lengths one after the other, then a test far beyond them.

    Defaults are those of brc-pytorch 0.1.3.

    Attributes:
        layers: Recurrent layers.
        hidden_size: Units of a layer, H.
        min_length: Length trained first, and shortest length tested.
        max_length: Length trained last.
        epochs_per_length: Epochs on each length.
        train_size: Training samples of each length.
        validation_size: Validation samples of each length.
        batch_size: Samples in a batch.
        learning_rate: Step size of Adam, one optimizer for all lengths.
        test_size: Test samples of each length.
        max_test_length: Longest length tested.
    """

    name: ClassVar[str] = "binary-addition"
    dimensions: ClassVar[tuple[str, ...]] = ("layers",)
    held_out: ClassVar[str] = "validation"

    layers: int = 1
    hidden_size: int = 100
    min_length: int = 3
    max_length: int = 20
    epochs_per_length: int = 15
    train_size: int = 10_000
    validation_size: int = 1_000
    batch_size: int = 200
    learning_rate: float = 1e-3
    test_size: int = 1_000
    max_test_length: int = 60

    def __post_init__(self) -> None:
        """Refuse settings that no run could have."""
        _refuse_below(
            self,
            min_length=2,
            max_length=self.min_length,
            max_test_length=self.min_length,
            learning_rate=0,
        )

    @property
    def total_epochs(self) -> int:
        """Epochs of a run."""
        return self.epochs_per_length * (self.max_length - self.min_length + 1)

    def length_at(self, epoch: int) -> int:
        """Return the length of the sequences of an epoch."""
        return self.min_length + epoch // self.epochs_per_length

    def _samples(self, seed: int, use: str, size: int, length: int) -> BinaryAddition:
        generator = random_stream(seed, self.name, use, length)
        return BinaryAddition(size, length, length, length, "single", generator=generator)

    def data(self, seed: int, length: int) -> tuple[BinaryAddition, BinaryAddition]:
        """Return training and validation data of a length: (N, T, 2) and (N, T, 1)."""
        return (
            self._samples(seed, "train", self.train_size, length),
            self._samples(seed, "validation", self.validation_size, length),
        )

    def final_tests(self, seed: int) -> Iterable[tuple[int, BinaryAddition]]:
        """Yield every length from `min_length` to `max_test_length` with its test data."""
        for length in range(self.min_length, self.max_test_length + 1):
            yield length, self._samples(seed, "test", self.test_size, length)

    def network(self, cell: str) -> nn.Module:
        """Return recurrent layers, linear and sigmoid at every step: (B, T, 2) to (B, T, 1)."""
        layers = recurrent_network(cell, 2, self.hidden_size, self.layers, return_sequences=True)
        return nn.Sequential(layers, SelectItem(0), nn.Linear(self.hidden_size, 1), nn.Sigmoid())

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the mean binary cross-entropy of all bits."""
        return functional.binary_cross_entropy(prediction, target)

    def metrics(self, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return "loss", and as "accuracy" the share of sequences with all bits right."""
        right = (prediction.round() == target).flatten(1).all(1)
        return {"loss": self.loss(prediction, target), "accuracy": right.float().mean()}

    def is_solved(self, held_out_loss: float) -> bool:  # noqa: ARG002 - all lengths are trained
        """Return False: the curriculum is always gone through."""
        return False


TASKS: dict[str, type[Task]] = {
    task.name: task for task in (CopyFirstInputTask, BinaryAdditionTask)
}
"""Every task by the name of its command; `TASKS[name](**settings)` makes one."""
