"""How a call from Python reaches the operator: past torch's dispatcher where it would do nothing.

What transforms functions, or runs the reference by name, goes to the equations themselves.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from brc_pytorch.ops.autograd import Scan
from brc_pytorch.ops.backends import LayersCall, choice, say_once_that_kernels_are_missing
from brc_pytorch.ops.dispatch import (
    any_requires_grad,
    goes_straight,
    is_known,
    remember,
    transforms_are_active,
)
from brc_pytorch.ops.fallback import REFERENCE
from brc_pytorch.ops.operator import checked, chosen_backend, compute, mixes_dtypes, operator
from brc_pytorch.ops.recorded_layers import RecordedLayers
from brc_pytorch.ops.recurrences import RECURRENCES
from brc_pytorch.ops.several_layers import check_layers, compute_layers, layers_operator


def _stacked(recurrence: str, states: tuple[Tensor, ...], name: str = "states") -> Tensor:
    """The states of a recurrence, (S, B, H)."""
    count = len(RECURRENCES[recurrence].states) if recurrence in RECURRENCES else len(states)
    if not states or len(states) != count:
        raise ValueError(f"{name}: expected {count} of {recurrence!r}, got {len(states)}")
    first = states[0]
    for place, state in enumerate(states):
        if state.shape != first.shape or state.device != first.device:
            raise ValueError(
                f"{name}[{place}]: expected shape {tuple(first.shape)} on {first.device}, as "
                f"{name}[0], got {tuple(state.shape)} on {state.device}"
            )
        if state.dtype != first.dtype and not mixes_dtypes(first.device):
            raise ValueError(
                f"{name}[{place}]: expected dtype {first.dtype}, as {name}[0], got {state.dtype}"
            )
    return torch.stack(states)


def scan(
    recurrence: str,
    input: Tensor,
    states: tuple[Tensor, ...],
    parameters: Sequence[Tensor],
    lengths: Tensor | None = None,
    reverse: bool = False,
    resets: Tensor | None = None,
    reset_states: tuple[Tensor, ...] | None = None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run a recurrence over a sequence.

    Args:
        recurrence: its name, ``"brc"``, ``"nbrc"``, ``"gru"`` or ``"lstm"``.
        input: x_1 to x_T, (T, B, I), T > 0.
        states: the states before the first step, each (B, H).
        parameters: those of the recurrence, stacked: kernel, memory and, if there is one, bias; see
            :func:`brc_pytorch.ops.brc` and its like.
        lengths: how many steps of each row are data, (B), integers from 0 to T; a value outside
            counts as the nearest of these. Default: all T.
        reverse: go from each row's last step to its first. Default: False.
        resets: where segments begin that know nothing of the steps before, (T, B) booleans: True at
            step t starts it from ``reset_states`` instead of from step t - 1. In reverse it is step
            t - 1 that starts so, the last of its segment. Default: one segment of all steps.
        reset_states: the states that such segments start from, each (B, H). Default: zero.

    Returns:
        The output sequence (T, B, H), h_t standing where x_t stood, zero where a row has ended; and
        the last states, each (B, H), each row's own.

    Raises:
        ValueError: an argument has the wrong shape, dtype (outside autocast) or device.
        RuntimeError: the backend asked for by name cannot run on this device.
    """
    direct = (
        choice.forced == "reference" or transforms_are_active() or forward_ad._current_level >= 0  # noqa: SLF001 - nothing public tells
    )
    if not direct and choice.forced is None:
        kind = input.device.type
        if (kind, recurrence) not in choice.chosen and not torch.compiler.is_compiling():
            say_once_that_kernels_are_missing(kind, recurrence)
            direct = True  # autograd's own backward pass need not run the equations twice
    stacked = states[0].unsqueeze(0) if len(states) == 1 else _stacked(recurrence, states)
    reset = None if reset_states is None else _stacked(recurrence, reset_states, "reset_states")
    if direct:
        options = lengths, reverse, False, resets, reset
        mixed = mixes_dtypes(input.device)
        call = checked(recurrence, input, stacked, parameters, *options, mixed=mixed)
        return call.recurrence.scan(
            input, states, parameters, lengths, reverse, resets, reset_states
        )
    is_plain = resets is None and reset is None
    if is_plain and lengths is None and goes_straight((input, stacked, *parameters)):
        keep = torch.is_grad_enabled() and any_requires_grad(input, stacked, *parameters)
        call = checked(recurrence, input, stacked, parameters, None, reverse, keep)
        if keep:
            output, last, _ = Scan.apply(compute, call, input, stacked, *parameters, None)  # type: ignore[no-untyped-call]
        else:
            output, last, _ = compute(call)
    else:
        beyond: tuple[Any, ...] = () if is_plain else (False, resets, reset)
        output, last, _ = operator(
            recurrence, input, stacked, parameters, lengths, reverse, *beyond
        )
    return output, (last.squeeze(0),) if len(states) == 1 else last.unbind(0)


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
        where nothing is gained over :func:`scan` of each: where the backend has no such call,
        layers differ in the number of their parameters, or gradients are wanted of a call with
        lengths or resets, or of one that something follows, as ``torch.compile`` does.

    Raises:
        ValueError: an argument has the wrong shape, dtype (outside autocast) or device.
        RuntimeError: the backend asked for by name cannot run on this device.
    """
    parameters: list[Tensor] = []
    for layer in layers:
        if len(layer) != len(layers[0]):
            return None
        parameters += layer
    tensors = input, *states, *parameters
    is_plain = lengths is None and resets is None and reset_states is None
    form = recurrence, len(states), len(tensors), input.shape, tensors[-1].shape
    is_checked = is_plain and is_known(form, tensors)
    straight = is_checked or (is_plain and goes_straight(tensors))
    if (
        not straight
        and (
            torch.compiler.is_compiling()  # first, since it cannot trace the others
            or torch.is_grad_enabled()
            or torch._C._is_tracing()  # noqa: SLF001 - nothing public tells
            or transforms_are_active()
        )
    ) or forward_ad._current_level >= 0:  # noqa: SLF001 - the same
        return None
    if choice.forced is None:
        backend = choice.chosen.get((input.device.type, recurrence), REFERENCE)
    else:
        backend = chosen_backend(input, recurrence, resets)
    if backend.layers is None or input.dtype not in backend.dtypes:
        return None
    if not straight:
        options = () if is_plain else (resets, reset_states)
        output, last = layers_operator(recurrence, input, states, parameters, lengths, *options)
        return output, tuple(last)
    if is_checked:
        call = LayersCall(RECURRENCES[recurrence], input, states, parameters, None, None, None)
    else:
        call = check_layers(recurrence, input, states, parameters, None)
        if input.shape[0] == 1:
            remember(form, tensors)
    if torch.is_grad_enabled() and any_requires_grad(*tensors):
        output, *last = RecordedLayers.apply(backend, call, *tensors)  # type: ignore[no-untyped-call]
    else:
        output, last = compute_layers(backend, call)
    return output, tuple(last)
