"""The operator ``brc_pytorch::scan_layers``: several layers in one call, without gradients."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from brc_pytorch.ops.backends import Backend, LayersCall
from brc_pytorch.ops.operator import (
    check_sequence,
    chosen_backend,
    library,
    operator,
    require,
)
from brc_pytorch.ops.side_by_side import side_by_side


def check_layers(
    name: str,
    input: Tensor,
    states: Sequence[Tensor],
    parameters: Sequence[Tensor],
    lengths: Tensor | None,
    resets: Tensor | None = None,
    reset_states: Sequence[Tensor] | None = None,
    *,
    mixed: bool = False,
) -> LayersCall:
    """Check the operator's arguments, and return them as a backend takes them."""
    recurrence = check_sequence(name, input, lengths, resets)
    given = {"states": states}
    if reset_states is not None:
        if resets is None:
            raise ValueError("reset_states: expected resets beside them, got none")
        given["reset_states"] = reset_states
    for of, tensors in given.items():
        if len(tensors) != len(recurrence.states):
            raise ValueError(
                f"{of}: expected {len(recurrence.states)} of {name!r}, got {len(tensors)}"
            )
    h_0 = states[0].shape
    if len(h_0) != 3:  # noqa: PLR2004 - (L, B, H)
        raise ValueError(f"{recurrence.states[0]}: expected (L, B, H), got {tuple(h_0)}")
    layers, hidden = int(h_0[0]), h_0[2]  # layers are never symbolic
    count = len(parameters) // max(layers, 1)
    if count not in recurrence.layouts or count * layers != len(parameters):
        raise ValueError(
            f"parameters: expected {[*recurrence.layouts]} tensors a layer, "
            f"got {len(parameters)} for {layers}"
        )
    names, all_states = recurrence.states, states
    if reset_states is not None:
        names = (*names, *["reset_states"] * len(reset_states))
        all_states = (*states, *reset_states)
    _, batch, features = input.shape
    shapes: list[tuple[int, ...]] = [(layers, batch, hidden)] * len(all_states)
    width = recurrence.apart * hidden
    _, rows = recurrence.layouts[count]
    for _ in range(layers):
        of_layer = {"I": (features, width), "H": (hidden, width), None: (width,)}
        shapes += map(of_layer.__getitem__, rows)
        features = hidden
    require(input, (*all_states, *parameters), shapes, names, mixed)
    return LayersCall(recurrence, input, states, parameters, lengths, resets, reset_states)


# What torch calls has the arguments of :func:`check_layers`; those at their default may be left
# out.


def _scan_layers(*arguments: Any) -> tuple[Tensor, list[Tensor]]:  # noqa: ANN401 - see above
    call = check_layers(*arguments)
    backend = chosen_backend(call.input, call.recurrence.name, call.resets)
    if backend.layers is None or call.input.dtype not in backend.dtypes:
        return one_by_one(call)
    return compute_layers(backend, call)


def compute_layers(backend: Backend, call: LayersCall) -> tuple[Tensor, list[Tensor]]:
    """Compute a call that has been checked by a backend that computes several layers."""
    output, last = _empty(call)
    backend.layers(call, (output,), last, ())  # type: ignore[misc]  # it has one
    return output, last


def _empty(call: LayersCall) -> tuple[Tensor, list[Tensor]]:
    _, input, states, *_ = call
    steps, batch, _ = input.shape
    output = input.new_empty((steps, batch, states[0].shape[2]))
    contiguous = torch.contiguous_format
    return output, [torch.empty_like(state, memory_format=contiguous) for state in states]


def _scan_layers_fake(*arguments: Any) -> tuple[Tensor, list[Tensor]]:  # noqa: ANN401 - see above
    return _empty(check_layers(*arguments))


def one_by_one(call: LayersCall) -> tuple[Tensor, list[Tensor]]:
    """What the operator of several layers computes, by that of a single one."""
    recurrence, input, states, parameters, lengths, resets, reset_states = call
    layers = len(states[0])
    count = len(parameters) // layers
    of_layers = [parameters[layer * count : (layer + 1) * count] for layer in range(layers)]
    last = []
    for layer, stacked in enumerate(side_by_side(recurrence.name, of_layers)):
        of_layer = torch.stack([state[layer] for state in states])
        reset = None if reset_states is None else torch.stack([s[layer] for s in reset_states])
        options = lengths, False, False, resets, reset
        input, last_of_layer, _ = operator(recurrence.name, input, of_layer, stacked, *options)
        last.append(last_of_layer)
    return input, [*torch.stack(last, dim=1)]


library.define(
    "scan_layers(str recurrence, Tensor input, Tensor[] states, Tensor[] parameters,"
    " Tensor? lengths, Tensor? resets=None, Tensor[]? reset_states=None)"
    " -> (Tensor output, Tensor[] last)"
)
layers_operator = torch.ops.brc_pytorch.scan_layers.default
library.impl("scan_layers", _scan_layers, "CompositeExplicitAutograd")
torch.library.register_fake("brc_pytorch::scan_layers", _scan_layers_fake, lib=library)
