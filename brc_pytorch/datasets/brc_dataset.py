"""A data set of inputs and outputs that is indexed a batch at a time."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset


class BRCDataset(Dataset[tuple[Tensor, Tensor]]):
    """Pairs of inputs and outputs, held as two arrays of equal length.

    The index may be an int (one sample, without a batch dimension) or a slice, a list of ints, or
    a tensor of ints or booleans (a batch). Batches need no collation::

        order = torch.randperm(len(dataset)).split(100)
        loader = DataLoader(dataset, sampler=order, batch_size=None)

    A plain `DataLoader(dataset, batch_size=100)` works as well.

    Attributes:
        input: The inputs, as they were given.
        output: The outputs, as they were given.
    """

    def __init__(self, inputs: Any, outputs: Any) -> None:  # noqa: ANN401 - any array; NumPy is optional
        """Keep both arrays; nothing is copied.

        Args:
            inputs: Tensor or NumPy array (N, ...).
            outputs: Tensor or NumPy array (N, ...).

        Raises:
            TypeError: If an argument is neither a tensor nor a NumPy array.
            ValueError: If an array has no dimension, or their lengths differ.
        """
        for name, array in (("inputs", inputs), ("outputs", outputs)):
            if not hasattr(array, "__array__"):
                raise TypeError(
                    f"{name}: expected a tensor or a NumPy array, got {type(array).__name__}"
                )
            if array.ndim == 0:
                raise ValueError(f"{name}: expected at least one dimension, got a scalar")
        if len(inputs) != len(outputs):
            raise ValueError(
                f"outputs: expected as many samples as inputs, {len(inputs)}, got {len(outputs)}"
            )
        self.input = inputs
        self.output = outputs

    def __len__(self) -> int:
        """Return the number of samples, N."""
        return len(self.input)

    def __getitem__(self, index: int | slice | list[int] | Tensor) -> tuple[Tensor, Tensor]:
        """Return the inputs and outputs at `index`, as tensors of the arrays' own types."""
        return torch.as_tensor(self.input)[index], torch.as_tensor(self.output)[index]
