"""The autograd formula of the operator ``brc_pytorch::scan``."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from brc_pytorch.ops.backends import Call
from brc_pytorch.ops.backward import gradients_of
from brc_pytorch.ops.dispatch import any_requires_grad
from brc_pytorch.ops.operator import checked, library, operator


class Scan(torch.autograd.Function):
    """The operator's autograd formula, whatever backend computes."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - autograd's own
        run: Callable[[Call], tuple[Tensor, Tensor, Tensor]],
        call: Call,
        *tensors: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute, and keep what the gradients need.

        Args:
            ctx: autograd's own.
            run: the operator, or what it computes.
            call: one that keeps what the backward pass needs.
            tensors: the ``tensors`` of the call, for autograd to see them.
        """
        output, last, saved = run(call)
        ctx.options = call.recurrence, call.reverse
        ctx.mark_non_differentiable(saved)
        ctx.set_materialize_grads(False)  # a gradient that is not there stays None, not zeros
        ctx.save_for_backward(call.lengths, call.resets, output, saved, *tensors)
        return output, last, saved

    @staticmethod
    def backward(
        ctx: Any,  # noqa: ANN401 - autograd's own
        grad_output: Tensor | None,
        grad_last: Tensor | None,
        _grad_saved: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        """The gradients of the call's tensors that want one."""
        needed = ctx.needs_input_grad
        if grad_output is None and grad_last is None:
            return (None,) * len(needed)
        recurrence, reverse = ctx.options
        lengths, resets, output, saved, input, states, *parameters, reset = ctx.saved_tensors
        options = lengths, reverse, False, resets, reset
        call = Call(recurrence, input, states, parameters, *options)
        gradients = gradients_of(call, grad_output, grad_last, output, saved, needed[2])
        wanted = (g if need else None for need, g in zip(needed[2:], gradients, strict=True))
        return None, None, *wanted


def _below_autograd(*arguments: Any) -> Any:  # noqa: ANN401 - the operator's own
    with torch._C._AutoDispatchBelowAutograd():  # noqa: SLF001 - nothing public does it
        return operator(*arguments)


def _call_below_autograd(call: Call) -> Any:  # noqa: ANN401 - the same
    return _below_autograd(call.recurrence.name, *call[1:])


def _scan_autograd(*arguments: Any) -> Any:  # noqa: ANN401 - torch does not say what it applies
    if torch.is_grad_enabled() and any_requires_grad(*arguments):
        call = checked(*arguments)._replace(keep=True)
        return Scan.apply(_call_below_autograd, call, *call.tensors)  # type: ignore[no-untyped-call]
    return _below_autograd(*arguments)


library.impl("scan", _scan_autograd, "Autograd")
