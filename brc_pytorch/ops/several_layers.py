"""The operator ``brc_pytorch::scan_layers``: several layers in one call, without gradients."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from brc_pytorch.ops.backends import LayersCall, choice
from brc_pytorch.ops.entry import goes_straight, side_by_side, transforms_are_active
from brc_pytorch.ops.fallback import REFERENCE
from brc_pytorch.ops.operator import (
    check_sequence,
    chosen_backend,
    library,
    operator,
    require,
)


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
    h_0 = states[0]
    if h_0.dim() != 3:  # noqa: PLR2004 - (L, B, H)
        raise ValueError(f"{recurrence.states[0]}: expected (L, B, H), got {tuple(h_0.shape)}")
    layers, hidden = int(h_0.shape[0]), h_0.shape[2]  # layers are never symbolic
    count = len(parameters) // max(layers, 1)
    if count not in recurrence.layouts or count * layers != len(parameters):
        raise ValueError(
            f"parameters: expected {[*recurrence.layouts]} tensors a layer, "
            f"got {len(parameters)} for {layers}"
        )
    all_states = [state for tensors in given.values() for state in tensors]
    shapes: list[tuple[int, ...]] = [(layers, input.shape[1], hidden)] * len(all_states)
    features, width = input.shape[2], recurrence.apart * hidden
    for _ in range(layers):
        of_layer = {"I": (features, width), "H": (hidden, width), None: (width,)}
        shapes += map(of_layer.__getitem__, recurrence.layouts[count][1])
        features = hidden
    names = (*recurrence.states, *["reset_states"] * (len(all_states) - len(states)))
    require(input, (*all_states, *parameters), shapes, names, mixed)
    return LayersCall(recurrence, input, states, parameters, lengths, resets, reset_states)


# What torch calls has the arguments of :func:`check_layers`; those at their default may be left
# out.


def _scan_layers(*arguments: Any) -> tuple[Tensor, list[Tensor]]:  # noqa: ANN401 - see above
    call = check_layers(*arguments)
    backend = chosen_backend(call.input, call.recurrence.name, call.resets)
    if backend.layers is None or call.input.dtype not in backend.dtypes:
        return one_by_one(call)
    output, last = _empty(call)
    backend.layers(call, output, last)
    return output, last


def _empty(call: LayersCall) -> tuple[Tensor, list[Tensor]]:
    _, input, states, *_ = call
    steps, batch, _ = input.shape
    output = input.new_empty((steps, batch, states[0].shape[2]))
    last = []
    for state in states:
        last.append(state.new_empty(state.shape))  # noqa: PERF401 - a call less
    return output, last


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


def scan_layers(
    recurrence: str,
    input: Tensor,
    states: tuple[Tensor, ...],
    layers: Sequence[Sequence[Tensor]],
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
    reset_states: tuple[Tensor, ...] | None = None,
) -> tuple[Tensor, tuple[Tensor, ...]] | None:
    """Run layers of one recurrence in one call, each taking the outputs of the one before.

    Args:
        recurrence: its name, ``"brc"``, ``"nbrc"``, ``"gru"`` or ``"lstm"``.
        input: x_1 to x_T, (T, B, I), T > 0.
        states: the states before the first step, each (L, B, H).
        layers: for each layer its parameters, those of the first taking I inputs, those of the
            others H. Of the bistable cells, gate by gate: U_c, U_a, U, each (I, H); w_c, w_a, each
            (H), or W_c, W_a, each (H, H); and the biases b_c, b_a (and the candidate's), each (H),
            or none. Of the GRU and the LSTM, the gates of a tensor side by side: the kernel
            (I, G * H), the memory (H, G * H); and b_ih, b_hh, each (G * H), or none; G is 3 or 4.
        lengths: how many steps of each row are data, (B) integers. Default: all T.
        resets: where segments begin, (T, B) booleans, as for :func:`scan`. Default: one segment of
            all steps.
        reset_states: the states that such segments start from, each (L, B, H). Default: zero.

    Returns:
        The last layer's output (T, B, H) and the last states of all layers, each (L, B, H); or None
        where nothing is gained over :func:`scan` of each: where gradients are wanted, or the
        backend has no such call, or layers differ in the number of their parameters.

    Raises:
        ValueError: an argument has the wrong shape, dtype (outside autocast) or device.
        RuntimeError: the backend asked for by name cannot run on this device.
    """
    if (
        torch.is_grad_enabled()
        or torch.compiler.is_compiling()
        or transforms_are_active()
        or forward_ad._current_level >= 0  # noqa: SLF001 - nothing public tells
    ):
        return None
    if choice.forced is None:
        backend = choice.chosen.get((input.device.type, recurrence), REFERENCE)
    else:
        backend = chosen_backend(input, recurrence, resets)
    if backend.layers is None or input.dtype not in backend.dtypes:
        return None
    parameters: list[Tensor] = []
    for layer in layers:
        if len(layer) != len(layers[0]):
            return None
        parameters += layer
    options: tuple[Any, ...] = (lengths,)
    if resets is not None or reset_states is not None:
        options += resets, reset_states
    straight = lengths is None and resets is None
    straight = straight and goes_straight((input, *states, *parameters))
    run = _scan_layers if straight else layers_operator
    output, last = run(recurrence, input, states, parameters, *options)
    return output, tuple(last)
