"""Sequential MNIST: see an image pixel by pixel or line by line, and tell the digit at the end.

Benchmark 3 of Vecoven, Ernst and Drion, "A bio-inspired bistable recurrent cell allows for
long-lasting memory", PLOS ONE 16(6), 2021 (arXiv 2006.05252).
"""

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence
from torch.utils.data import Dataset

# What follows an image, by what is seen of it at a step: black pixels in the authors' first code
# (Benchmark3.py of github.com/nvecoven/BRC), zeros in RememberLinePMnist of their last one.
_BLANK = {"pixel": -0.5, "line": 0.0}
_END = 1.0
"""The features of a last step that is marked; those of an image are at most 0.5."""


class SequentialMNIST(Dataset[tuple[Tensor | PackedSequence, Tensor]]):
    """Images as sequences of their pixels or lines, followed by blank ones, and their labels.

    The pixels are scaled to -0.5 .. 0.5, as in the authors' code. Blank pixels are black, -0.5;
    blank lines are 0, between black and white. Sequences are made when they are asked for:
    `dataset[index]` takes the same indices as `BRCDataset`, so that batches need no collation.

    With a number of blank steps for each image, its last one is all ones and tells that the
    sequence ends; a batch is then a `PackedSequence`. (The authors drew one number for all training
    images and one for all test images, from 0 on, and put the ones in the place of the image's last
    line where it was 0; here every image has its own, from 1 on.)

    Attributes:
        images: The images (N, 28, 28), as they were given.
        labels: The labels (N), as they were given.
        by: "pixel" or "line".
        permutation: The order in which pixels or lines are seen (784) or (28), or None.
        padding: The number of blank steps, one for all or (N).
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        by: str = "pixel",
        permutation: Tensor | None = None,
        padding: int | Tensor = 0,
    ) -> None:
        """Keep the images; nothing is copied.

        Args:
            images: Images (N, height, width), uint8.
            labels: The digit of each image (N), int64.
            by: What is seen at a step: "pixel", I = 1 feature, row by row, or "line", I = width.
            permutation: The order in which the pixels or lines are seen, the same for all images;
                by default their own.
            padding: Number of blank steps after each image: one for all, 0 or more, or each its
                own (N), 1 or more.

        Raises:
            ValueError: If an argument has the wrong shape, dtype or value.
        """
        if images.dtype != torch.uint8 or images.dim() != 3:  # noqa: PLR2004 - (N, height, width)
            raise ValueError(
                "images: expected (N, height, width), uint8, "
                f"got {tuple(images.shape)}, {images.dtype}"
            )
        if labels.shape != images.shape[:1]:
            raise ValueError(
                f"labels: expected one for each of {len(images)} images, got {tuple(labels.shape)}"
            )
        if by not in _BLANK:
            raise ValueError(f'by: expected "pixel" or "line", got {by!r}')
        steps = images.shape[1] if by == "line" else images.shape[1] * images.shape[2]
        if permutation is not None and not torch.equal(
            permutation.sort().values, torch.arange(steps, device=permutation.device)
        ):
            raise ValueError(f"permutation: expected an order of 0 to {steps - 1}")
        least = 0
        if isinstance(padding, Tensor):
            least = 1
            if padding.shape != labels.shape:
                raise ValueError(
                    f"padding: expected one for each of {len(images)} images, "
                    f"got {tuple(padding.shape)}"
                )
        wrong = [value for value in torch.as_tensor(padding).flatten().tolist() if value < least]
        if wrong:
            raise ValueError(f"padding: expected {least} or more, got {wrong[0]}")
        self.images = images
        self.labels = labels
        self.by = by
        self.permutation = permutation
        self.padding = padding

    def __len__(self) -> int:
        """Return the number of images, N."""
        return len(self.images)

    def __getitem__(
        self, index: int | slice | list[int] | Tensor
    ) -> tuple[Tensor | PackedSequence, Tensor]:
        """Return the sequences (..., T, I), float32, and labels at `index`."""
        images = self.images[index]
        steps = images if self.by == "line" else images.flatten(-2)[..., None]
        if self.permutation is not None:
            steps = steps.index_select(-2, self.permutation)
        inputs, labels = steps / 255 - 0.5, self.labels[index]
        blank = _BLANK[self.by]
        if not isinstance(self.padding, Tensor):
            return functional.pad(inputs, (0, 0, 0, self.padding), value=blank), labels
        padding = self.padding[index]
        lengths = steps.shape[-2] + padding
        inputs = functional.pad(inputs, (0, 0, 0, int(padding.max())), value=blank)
        last = (lengths - 1)[..., None, None].expand(*labels.shape, 1, inputs.shape[-1])
        inputs.scatter_(-2, last, _END)
        if labels.dim() == 0:
            return inputs, labels
        return (
            pack_padded_sequence(inputs, lengths.cpu(), batch_first=True, enforce_sorted=False),
            labels,
        )
