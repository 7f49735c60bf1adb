"""Where every compiled backend stands back: derivatives that only the reference has."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad

from brc_pytorch.ops import reference
from brc_pytorch.ops.library import Recurrence

# What a recurrence takes: input, h_0, kernel, memory, bias, lengths, reverse.
Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None, bool]


def reference_for(memory: Tensor) -> Recurrence:
    """The reference of the recurrence that has a memory of this shape."""
    full = memory.dim() == 2  # noqa: PLR2004 - (H, 2H) in the nBRC, (2H) in the BRC
    return reference.nbrc_scan if full else reference.brc_scan


def needs_reference() -> bool:
    """Whether a function transform or forward-mode differentiation follows every operation."""
    return (
        torch._C._are_functorch_transforms_active()  # noqa: SLF001 - nothing public tells
        or forward_ad._current_level >= 0  # noqa: SLF001 - the same
    )


def differentiable_gradients(
    inputs: Inputs,
    cotangents: tuple[Tensor | None, Tensor | None],
    needed: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Gradients that can themselves be differentiated: those of the reference.

    Args:
        inputs: what the recurrence took.
        cotangents: the gradients of its output and its last states; None for one that is zero.
        needed: for each argument of an operator, the recurrence's first, whether to differentiate.

    Returns:
        For each of these arguments its gradient, or None.
    """
    *saved, bias, lengths, reverse = inputs
    # A view each: a tensor that is passed twice gets two gradients.
    input, h_0, kernel, memory = (tensor.view_as(tensor) for tensor in saved)
    bias = None if bias is None else bias.view_as(bias)
    tensors = (input, h_0, kernel, memory, bias)
    results = reference_for(memory)(*tensors, lengths, reverse)
    known = [(r, g) for r, g in zip(results, cotangents, strict=True) if g is not None]
    wanted = {
        place: tensor
        for place, tensor in enumerate(tensors)
        if tensor is not None and needed[place]
    }
    gradients = torch.autograd.grad(
        [result for result, _ in known],
        list(wanted.values()),
        [gradient for _, gradient in known],
        create_graph=True,
        allow_unused=True,
    )
    found = dict(zip(wanted, gradients, strict=True))
    return tuple(found.get(place) for place in range(len(needed)))
