"""Several layers whose gradients are wanted, as one node of autograd's graph.

Autograd sees the parameters gate by gate, and nothing of what lies between the layers.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from brc_pytorch.ops.backends import Backend, Call, Gradients, LayersCall
from brc_pytorch.ops.backward import gradients_of
from brc_pytorch.ops.dispatch import goes_straight, is_known, remember
from brc_pytorch.ops.operator import operator, require
from brc_pytorch.ops.several_layers import check_layers
from brc_pytorch.ops.side_by_side import apart, empty_side_by_side, side_by_side


def _by_layer(parameters: list[Tensor], layers: int) -> list[list[Tensor]]:
    count = len(parameters) // layers
    return [parameters[at : at + count] for at in range(0, len(parameters), count)]


def _of_layer(states: Sequence[Tensor], layer: int) -> Tensor:
    """One layer's (S, B, H) of states that are (L, B, H) each."""
    if len(states) == 1:
        return states[0] if states[0].shape[0] == 1 else states[0][layer : layer + 1]
    return torch.stack([state[layer] for state in states])


def _of_states(layers: Sequence[Tensor]) -> list[Tensor]:
    """What :func:`_of_layer` takes, from what it gives of all layers."""
    if layers[0].shape[0] == 1:
        return [layers[0] if len(layers) == 1 else torch.cat([*layers])]
    return [*torch.stack([*layers], dim=1)]


def _together(grads: Sequence[Tensor | None], states: Sequence[Tensor]) -> Sequence[Tensor] | None:
    """The gradients of the last states, zero where one is not there; None where none is."""
    there = [grad for grad in grads if grad is not None]
    if not there or len(there) == len(grads):
        return there or None
    pairs = zip(grads, states, strict=True)
    return [torch.zeros_like(state) if grad is None else grad for grad, state in pairs]


class _Kept(NamedTuple):
    """What the backward pass of layers starts from.

    Attributes:
        backend: the one that computed them.
        call: what they were called with.
        outputs: of each layer, (T, B, H).
        saved: what the backend saved of each.
        grad_output: the gradient of the last output, None for zero.
        grad_last: those of the last states, each (L, B, H), None for zero.
    """

    backend: Backend
    call: LayersCall
    outputs: Sequence[Tensor]
    saved: Sequence[Tensor]
    grad_output: Tensor | None
    grad_last: Sequence[Tensor] | None

    def can_be_read(self) -> bool:
        """Whether the backend may read all of these, without torch's dispatcher.

        Raises:
            ValueError: whoever looked after the saved tensors returned others.
        """
        recurrence, input, states, parameters, *_ = self.call
        last = self.grad_last or ()
        outputs = self.outputs if self.grad_output is None else (*self.outputs, self.grad_output)
        tensors = input, *states, *parameters, *outputs, *last, *self.saved
        counts = len(tensors), len(self.saved), len(last), len(outputs)
        form = recurrence, *counts, input.shape, states[0].shape
        if is_known(form, tensors):
            return True
        if not goes_straight(tensors):
            return False
        check_layers(recurrence.name, input, states, parameters, None)
        shape, hidden = input.shape, states[0].shape[2]
        shapes, of_saved = [(*shape[:2], hidden)] * len(outputs), []
        shapes += [tuple(states[0].shape)] * len(last)
        for _ in self.saved:
            of_saved.append(self.backend.saved_shape(recurrence, shape, hidden))
            shape = self.outputs[0].shape
        names = ["output"] * len(outputs) + ["grad_last"] * len(last) + ["saved"] * len(self.saved)
        require(input, (*outputs, *last, *self.saved), [*shapes, *of_saved], names)
        if input.shape[0] == 1:
            remember(form, tensors)
        return True

    def gradients_of(
        self, call: Call, layer: int, grad_output: Tensor | None, needs_input: bool
    ) -> Sequence[Tensor | None]:
        """The gradients of one layer's call, its parameters as they came."""
        _, input, states, parameters, *_ = call
        nothing = input.new_empty(0)
        gradients = Gradients(
            input.new_empty(input.shape) if needs_input else nothing,
            torch.empty_like(states, memory_format=torch.contiguous_format),
            empty_side_by_side(call.recurrence, parameters),
            nothing,
        )
        grad_last = None if self.grad_last is None else _of_layer(self.grad_last, layer)
        results = self.outputs[layer], self.saved[layer]
        self.backend.backward(call, grad_output, grad_last, *results, gradients)
        return gradients.tensors


class RecordedLayers(torch.autograd.Function):
    """The autograd formula of several layers without lengths and resets."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - autograd's own
        backend: Backend,
        call: LayersCall,
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        """Compute, and keep what the gradients need.

        Args:
            ctx: autograd's own.
            backend: one that computes several layers.
            call: what has been checked.
            tensors: input, states and parameters of the call, for autograd to see them.
        """
        recurrence, input, states, *_ = call
        steps, batch, _ = shape = input.shape
        hidden = states[0].shape[2]
        outputs, saved = [], []
        for _ in range(states[0].shape[0]):
            outputs.append(input.new_empty((steps, batch, hidden)))
            saved.append(input.new_empty(backend.saved_shape(recurrence, shape, hidden)))
            shape = outputs[0].shape
        contiguous = torch.contiguous_format
        last = [torch.empty_like(state, memory_format=contiguous) for state in states]
        backend.layers(call, outputs, last, saved)  # type: ignore[misc]  # it has one
        ctx.backend, ctx.recurrence, ctx.layers = backend, recurrence, len(outputs)
        ctx.set_materialize_grads(False)  # a gradient that is not there stays None, not zeros
        ctx.save_for_backward(*outputs, *saved, *tensors)
        return outputs[-1], *last

    @staticmethod
    def backward(
        ctx: Any,  # noqa: ANN401 - autograd's own
        grad_output: Tensor | None,
        *grad_last: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        """The gradients of the call's tensors that want one."""
        needed = ctx.needs_input_grad[2:]
        if grad_output is None and not any(grad is not None for grad in grad_last):
            return (None,) * (2 + len(needed))
        recurrence, layers, saved_tensors = ctx.recurrence, ctx.layers, ctx.saved_tensors
        outputs, saved = saved_tensors[:layers], saved_tensors[layers : 2 * layers]
        input, *tensors = saved_tensors[2 * layers :]
        end = len(recurrence.states)
        states, parameters = tensors[:end], tensors[end:]
        by_layer = _by_layer(parameters, layers)
        grads = _together(grad_last, states)
        call = LayersCall(recurrence, input, states, parameters, None, None, None)
        kept = _Kept(ctx.backend, call, outputs, saved, grad_output, grads)
        inputs = [input, *outputs[:-1]]
        straight = not torch.is_grad_enabled() and kept.can_be_read()
        if not straight:
            by_layer = side_by_side(recurrence.name, by_layer)
        if torch.is_grad_enabled():  # what is differentiated again must not end between layers
            for layer, stacked in enumerate(by_layer[:-1]):
                arguments = inputs[layer], _of_layer(states, layer), stacked, None, False
                inputs[layer + 1] = operator(recurrence.name, *arguments)[0]
        of_states: list[Any] = []
        of_parameters: list[Tensor | None] = []
        for layer in reversed(range(layers)):
            of_layer = _of_layer(states, layer)
            single = Call(recurrence, inputs[layer], of_layer, by_layer[layer], None, False)
            needs_input = layer > 0 or needed[0]
            if straight:
                found = kept.gradients_of(single, layer, grad_output, needs_input)
            else:
                grad = None if grads is None else _of_layer(grads, layer)
                results = outputs[layer], saved[layer]
                found = gradients_of(single, grad_output, grad, *results, needs_input)
            grad_output, of_single, *of_stacked, _ = found
            of_states.insert(0, of_single)
            of_parameters = apart(recurrence, len(parameters) // layers, of_stacked) + of_parameters
        of_all = _of_states(of_states) if any(needed[1 : 1 + end]) else [None] * end
        gradients = grad_output, *of_all, *of_parameters
        wanted = (g if need else None for need, g in zip(needed, gradients, strict=True))
        return None, None, *wanted
