"""What the cells say about bad input: the argument, what was expected, what came."""

import torch
from torch import Tensor

from brc_pytorch.ops.operator import mixes_dtypes


def check_size(name: str, value: int) -> int:
    """Return ``value`` if it is a number of features, at least 1.

    Raises:
        TypeError: it is no integer.
        ValueError: it is below 1.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: expected an int, got {value!r}")
    if value < 1:
        raise ValueError(f"{name}: expected at least 1, got {value}")
    return value


def check_shape(name: str, tensor: Tensor, symbols: str, shape: tuple[int | None, ...]) -> None:
    """Check that ``tensor`` has this shape, in which None stands for any size.

    Raises:
        ValueError: it has another one.
    """
    # Not `in (None, size)`: torch.compile does not see that None is there where sizes are symbols.
    if tensor.dim() != len(shape) or any(
        expected is not None and size != expected
        for size, expected in zip(tensor.shape, shape, strict=True)
    ):
        sizes = ", ".join("*" if size is None else str(size) for size in shape)
        raise ValueError(f"{name}: expected {symbols} = ({sizes}), got {tuple(tensor.shape)}")


def check_lengths(lengths: Tensor, batch: int) -> None:
    """Check that ``lengths`` is (B), integers.

    Raises:
        ValueError: it has another shape, or a dtype that is not for integers.
    """
    dtype = lengths.dtype
    is_integer = not (dtype.is_floating_point or dtype.is_complex or dtype == torch.bool)
    if lengths.shape != (batch,) or not is_integer:
        raise ValueError(
            f"lengths: expected {batch} integers, one a row, "
            f"got shape {tuple(lengths.shape)} of {dtype}"
        )


def check_resets(resets: Tensor, steps: int, batch: int) -> None:
    """Check that ``resets`` is (T, B), booleans.

    Raises:
        ValueError: it has another shape or dtype.
    """
    check_shape("resets", resets, "(T, B)", (steps, batch))
    if resets.dtype != torch.bool:
        raise ValueError(f"resets: expected dtype torch.bool, got {resets.dtype}")


def check_features(name: str, tensor: Tensor, size: int) -> None:
    """Check that ``tensor`` is (*, size).

    Raises:
        ValueError: its last dimension has another size, or it has none.
    """
    if tensor.dim() == 0 or tensor.shape[-1] != size:
        raise ValueError(f"{name}: expected shape (*, {size}), got {tuple(tensor.shape)}")


def check_like(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Check that ``tensor`` has the dtype (outside autocast) and the device of ``other``.

    Raises:
        ValueError: it has not.
    """
    if tensor.device != other.device:
        raise ValueError(
            f"{name}: expected device {other.device}, that of {other_name}, got {tensor.device}"
        )
    if tensor.dtype != other.dtype and not mixes_dtypes(other.device):
        raise ValueError(
            f"{name}: expected dtype {other.dtype}, that of {other_name}, got {tensor.dtype}"
        )


def check_broadcast(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Check that the leading dimensions, all but the last, of both tensors broadcast.

    Raises:
        ValueError: they do not.
    """
    sizes = zip(reversed(tensor.shape[:-1]), reversed(other.shape[:-1]), strict=False)
    if any(size != other_size and 1 not in (size, other_size) for size, other_size in sizes):
        raise ValueError(
            f"{name}: expected leading dimensions that broadcast with those of {other_name} "
            f"{tuple(other.shape)}, got {tuple(tensor.shape)}"
        )
