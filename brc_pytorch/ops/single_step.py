"""One step of one layer, for whoever steps a cell: by the compiled kernels, with little on the way.

Its gradients are those of a sequence of one step.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from brc_pytorch.ops.backends import Backend, Call, choice
from brc_pytorch.ops.entry import goes_straight, side_by_side
from brc_pytorch.ops.operator import any_requires_grad, gradients_of, require
from brc_pytorch.ops.recurrences import RECURRENCES, Recurrence


def _compute(
    backend: Backend,
    recurrence: Recurrence,
    input: Tensor,
    state: Tensor,
    parameters: Sequence[Tensor],
) -> Tensor:
    (batch, features), hidden = input.shape, state.shape[1]
    of_layer = {"I": (features, hidden), "H": (hidden, hidden), None: (hidden,)}
    _, rows = recurrence.layouts[len(parameters)]
    shapes = [(batch, hidden), *map(of_layer.__getitem__, rows)]
    require(input, (state, *parameters), shapes, recurrence.states)
    updated = state.new_empty((batch, hidden))
    backend.step(recurrence, input, state, parameters, updated)  # type: ignore[misc]  # it has one
    return updated


class _Step(torch.autograd.Function):
    """Autograd sees the parameters gate by gate; side by side they are put in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - autograd's own
        backend: Backend,
        recurrence: Recurrence,
        input: Tensor,
        state: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        updated = _compute(backend, recurrence, input, state, parameters)
        ctx.recurrence = recurrence
        ctx.save_for_backward(updated, input, state, *parameters)
        return updated

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401 - autograd's own
        recurrence, needed = ctx.recurrence, ctx.needs_input_grad[2:]
        updated, input, state, *parameters = ctx.saved_tensors
        (stacked,) = side_by_side(recurrence.name, [parameters])
        call = Call(recurrence, input.unsqueeze(0), state.unsqueeze(0), stacked, None, False)
        results = updated.unsqueeze(0), updated.new_empty(0)  # where nothing was saved
        found = gradients_of(call, grad.unsqueeze(0), None, *results, needed[0])
        of_input, of_state, *of_stacked, _ = found
        gradients = [None if g is None else g.squeeze(0) for g in (of_input, of_state)]
        tensors, _ = recurrence.layouts[len(parameters)]
        there = [count for count in tensors if count]
        for count, gradient in zip(there, of_stacked, strict=True):
            gradients += [None] * count if gradient is None else gradient.chunk(count, dim=-1)
        wanted = (g if need else None for need, g in zip(needed, gradients, strict=True))
        return None, None, *wanted


def step(
    recurrence: str, input: Tensor, state: Tensor, parameters: Sequence[Tensor]
) -> Tensor | None:
    """One step of one layer of a recurrence with one state, by the compiled kernels.

    Args:
        recurrence: its name, ``"brc"`` or ``"nbrc"``.
        input: x_t, (B, I).
        state: h_{t-1}, (B, H).
        parameters: gate by gate, as for :func:`scan_layers`.

    Returns:
        h_t, (B, H); or None where the equations do better in plain PyTorch: without such kernels,
        and where something follows every operation, as ``torch.compile`` and autocast do.

    Raises:
        ValueError: an argument has the wrong shape, dtype or device.
    """
    backend = choice.chosen.get((input.device.type, recurrence))
    if (
        backend is None
        or backend.step is None
        or choice.forced is not None
        or input.dtype not in backend.dtypes
        or forward_ad._current_level >= 0  # noqa: SLF001 - nothing public tells
        or not goes_straight((input, state, *parameters))
    ):
        return None
    known = RECURRENCES[recurrence]
    if torch.is_grad_enabled() and any_requires_grad(input, state, *parameters):
        return _Step.apply(backend, known, input, state, *parameters)  # type: ignore[no-untyped-call, no-any-return]
    return _compute(backend, known, input, state, parameters)
