"""Parameters of a layer gate by gate, as autograd sees them, and side by side, as operators do."""

from collections.abc import Sequence

import torch
from torch import Tensor

from brc_pytorch.ops.recurrences import RECURRENCES, Recurrence


def side_by_side(recurrence: str, layers: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
    """The parameters of each layer, given gate by gate, as the operator takes them."""
    layouts, stacked = RECURRENCES[recurrence].layouts, []
    for parameters in layers:
        of_layer, at = [], 0
        for tensors in layouts[len(parameters)][0]:
            if tensors == 1:
                of_layer.append(parameters[at])
            elif tensors:
                of_layer.append(torch.cat([*parameters[at : at + tensors]], dim=-1))
            at += tensors
        stacked.append(of_layer)
    return stacked


def empty_side_by_side(recurrence: Recurrence, parameters: Sequence[Tensor]) -> list[Tensor]:
    """New tensors for what a layer's parameters are side by side."""
    empty, at = [], 0
    for tensors in recurrence.layouts[len(parameters)][0]:
        if tensors == 1:
            empty.append(torch.empty_like(parameters[at]))
        elif tensors:
            *rows, columns = parameters[at].shape
            empty.append(parameters[at].new_empty((*rows, tensors * columns)))
        at += tensors
    return empty


def apart(
    recurrence: Recurrence, count: int, gradients: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """The gradients of a layer's ``count`` parameters, from those of what stood side by side."""
    tensors = [each for each in recurrence.layouts[count][0] if each]
    found: list[Tensor | None] = []
    for each, gradient in zip(tensors, gradients, strict=True):
        if gradient is None or each == 1:
            found += [gradient] * each
        else:
            found += gradient.chunk(each, dim=-1)
    return found
