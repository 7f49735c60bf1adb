"""One step of one layer, for whoever steps a cell: by the compiled kernels, with little on the way.

Its gradients are those of a sequence of one step.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from brc_pytorch.ops.backends import Backend, Call, choice
from brc_pytorch.ops.backward import gradients_of
from brc_pytorch.ops.dispatch import any_requires_grad, goes_straight, is_known, remember
from brc_pytorch.ops.operator import require
from brc_pytorch.ops.recurrences import RECURRENCES, Recurrence
from brc_pytorch.ops.side_by_side import apart, side_by_side


def _check(
    recurrence: Recurrence, input: Tensor, state: Tensor, parameters: Sequence[Tensor]
) -> None:
    (batch, features), hidden = input.shape, state.shape[1]
    of_layer = {"I": (features, hidden), "H": (hidden, hidden), None: (hidden,)}
    _, rows = recurrence.layouts[len(parameters)]
    shapes = [(batch, hidden), *map(of_layer.__getitem__, rows)]
    require(input, (state, *parameters), shapes, recurrence.states)


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
        updated = state.new_empty(state.shape)
        backend.step(recurrence, input, state, parameters, updated)  # type: ignore[misc]  # it has one
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
        gradients += apart(recurrence, len(parameters), of_stacked)
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
    tensors = input, state, *parameters
    form = recurrence, len(tensors), input.shape, state.shape
    is_checked = is_known(form, tensors)
    if (
        backend is None
        or backend.step is None
        or choice.forced is not None
        or input.dtype not in backend.dtypes
        or forward_ad._current_level >= 0  # noqa: SLF001 - nothing public tells
        or not (is_checked or goes_straight(tensors))
    ):
        return None
    known = RECURRENCES[recurrence]
    if not is_checked:
        _check(known, input, state, parameters)
        remember(form, tensors)
    if torch.is_grad_enabled() and any_requires_grad(*tensors):
        return _Step.apply(backend, known, *tensors)  # type: ignore[no-untyped-call, no-any-return]
    updated = state.new_empty(state.shape)
    backend.step(known, input, state, parameters, updated)
    return updated
