"""Where every compiled backend stands back: other devices, and derivatives only the reference has.

Both run the recurrence's equations in plain PyTorch. As a backend of the operator the reference
saves nothing; its backward pass runs the equations once more.
"""

import torch
from torch import Tensor

from brc_pytorch.ops.backends import Backend, Call, Gradients, register_backend
from brc_pytorch.ops.recurrences import RECURRENCES


def differentiable_gradients(
    call: Call,
    grad_output: Tensor | None,
    grad_last: Tensor | None,
    dtype: torch.dtype,
    *,
    create_graph: bool,
) -> list[Tensor | None]:
    """Gradients of the equations, of those tensors that require one.

    Args:
        call: what the recurrence took.
        grad_output: the gradient of its output, (T, B, H), None for zero.
        grad_last: the gradient of its last states, (S, B, H), None for zero.
        dtype: what to compute in.
        create_graph: whether the gradients can themselves be differentiated.

    Returns:
        The gradients of the input, the states (S, B, H) and each parameter; None where it is not
        required, or zero.
    """
    # A view each: a tensor that is passed twice gets two gradients.
    tensors = [t.view_as(t) for t in (call.input, call.states, *call.parameters)]
    input, states, *parameters = (t.to(dtype) for t in tensors)
    output, last = call.recurrence.scan(
        input, states.unbind(0), parameters, call.lengths, call.reverse
    )
    results = [(output, grad_output), (torch.stack(last), grad_last)]
    known = [(result, grad.to(dtype)) for result, grad in results if grad is not None]
    places = [place for place, tensor in enumerate(tensors) if tensor.requires_grad]
    found: list[Tensor | None] = [None] * len(tensors)
    if known and places:
        gradients = torch.autograd.grad(
            [result for result, _ in known],
            [tensors[place] for place in places],
            [grad for _, grad in known],
            create_graph=create_graph,
            allow_unused=True,
        )
        for place, gradient in zip(places, gradients, strict=True):
            found[place] = gradient
    return found


def _forward(call: Call, output: Tensor, last: Tensor, saved: Tensor) -> None:  # noqa: ARG001 - a backend's signature
    recurrence, input, states, parameters, lengths, reverse = call
    results = recurrence.scan(input, states.unbind(0), parameters, lengths, reverse)
    output.copy_(results[0])
    for into, state in zip(last.unbind(0), results[1], strict=True):
        into.copy_(state)


def _backward(
    call: Call,
    grad_output: Tensor | None,
    grad_last: Tensor | None,
    output: Tensor,  # noqa: ARG001 - a backend's signature
    saved: Tensor,  # noqa: ARG001
    gradients: Gradients,
) -> None:
    input, states, *parameters = (
        tensor.detach().requires_grad_() for tensor in (call.input, call.states, *call.parameters)
    )
    input.requires_grad_(gradients.input.shape == input.shape)
    call = call._replace(input=input, states=states, parameters=parameters)
    with torch.enable_grad():
        found = differentiable_gradients(
            call, grad_output, grad_last, input.dtype, create_graph=False
        )
    for into, gradient in zip((*gradients[:2], *gradients.parameters), found, strict=True):
        into.zero_() if gradient is None else into.copy_(gradient)


REFERENCE = Backend(
    device_type=None,
    dtypes=frozenset((torch.float16, torch.bfloat16, torch.float32, torch.float64)),
    recurrences=frozenset(RECURRENCES),
    forward=_forward,
    backward=_backward,
    saved_shape=lambda _: (0,),
)
register_backend("reference", REFERENCE)
