"""Weights to and from the authors' TensorFlow/Keras cells (github.com/nvecoven/BRC)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from brc_pytorch.layers.bistable_cell import BistableCell

# The order in which the authors' layers create their weights, and Keras lists them.
_KERAS_ORDER = ("kernelz", "kernelr", "kernelh", "memoryz", "memoryr", "br", "bz")


def load_keras_weights(module: nn.Module, weights: Sequence[Any]) -> None:
    """Copy what Keras's ``get_weights()`` gives into a bistable cell, or the cells of a network.

    Nothing is copied unless everything fits.

    Args:
        module: a :class:`~brc_pytorch.BistableRecurrentCell` or
            :class:`~brc_pytorch.NeuromodulatedBistableRecurrentCell`, or a network of them, such as
            :class:`~brc_pytorch.BRC` and :class:`~brc_pytorch.NBRC`.
        weights: arrays or tensors, seven a cell, in the order kz, kr, kh, each (I, H), mz, mr, each
            (H) or (H, H), br, bz, each (H); cell after cell, from the first layer on, a backward
            cell behind its forward one.

    Raises:
        ValueError: the module has no bistable cells, or cells without the paper's biases, or the
            weights are not as many or not of the shapes that it needs.

    Example:
        >>> from brc_pytorch import NBRC
        >>> from brc_pytorch.interop.keras import keras_weights, load_keras_weights
        >>> source, target = NBRC(3, 5), NBRC(3, 5)
        >>> load_keras_weights(target, keras_weights(source))
        >>> bool((source.cells[0].memoryz == target.cells[0].memoryz).all())
        True
    """
    names, parameters = zip(*_in_keras_order(module), strict=True)
    if len(weights) != len(parameters):
        raise ValueError(
            f"weights: expected {len(parameters)} arrays, {len(_KERAS_ORDER)} a cell, "
            f"got {len(weights)}"
        )
    tensors = [torch.as_tensor(weight) for weight in weights]
    for index, (name, parameter) in enumerate(zip(names, parameters, strict=True)):
        if tensors[index].shape != parameter.shape:
            raise ValueError(
                f"weights[{index}] ({name}): expected shape {tuple(parameter.shape)}, "
                f"got {tuple(tensors[index].shape)}"
            )
    with torch.no_grad():
        for parameter, tensor in zip(parameters, tensors, strict=True):
            parameter.copy_(tensor)


def keras_weights(module: nn.Module) -> list[Tensor]:
    """Copy the weights of a bistable cell or network for Keras's ``set_weights()``.

    Args:
        module: as for :func:`load_keras_weights`.

    Returns:
        Tensors on the CPU in the order that :func:`load_keras_weights` takes.

    Raises:
        ValueError: the module has no bistable cells, or cells without the paper's biases.
    """
    return [parameter.detach().to("cpu", copy=True) for _, parameter in _in_keras_order(module)]


def _in_keras_order(module: nn.Module) -> list[tuple[str, Tensor]]:
    found = []
    for prefix, cell in module.named_modules():
        if not isinstance(cell, BistableCell):
            continue
        if not cell.bias or cell.candidate_bias:
            raise ValueError(
                f"module: expected cells with the paper's biases, as the authors' have, got {cell}"
            )
        path = f"{prefix}." if prefix else ""
        found += [(path + name, getattr(cell, name)) for name in _KERAS_ORDER]
    if not found:
        raise ValueError(f"module: expected bistable cells, got {type(module).__name__}")
    return found
