"""How a call from Python reaches the operator: past torch's dispatcher where it would do nothing.

What transforms functions, or runs the reference by name, goes to the equations themselves.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from brc_pytorch.ops.backends import choice, say_once_that_kernels_are_missing
from brc_pytorch.ops.operator import (
    Scan,
    any_requires_grad,
    checked,
    compute,
    mixes_dtypes,
    operator,
)
from brc_pytorch.ops.recurrences import RECURRENCES

# Whether a function transform follows every operation. Nothing public tells.
transforms_are_active = torch._C._are_functorch_transforms_active  # noqa: SLF001
# What tells of someone who follows, records or changes all operations; nothing public tells most.
_WATCHERS: tuple[Callable[[], object], ...] = (
    torch.compiler.is_compiling,  # first, since it cannot trace the others
    torch._C._len_torch_dispatch_stack,  # noqa: SLF001
    torch._C._is_torch_function_mode_enabled,  # noqa: SLF001
    torch._C._is_tracing,  # noqa: SLF001
    torch._C._autograd._profiler_enabled,  # noqa: SLF001
    torch._C._is_any_autocast_enabled,  # noqa: SLF001
    transforms_are_active,
)
# Types of tensors that are nothing else.
_OWN_TYPES = {Tensor, torch.nn.Parameter}


def goes_straight(tensors: Sequence[Tensor]) -> bool:
    """Whether the dispatcher would do nothing but call an operator's own kernel.

    It does more where a mode, a tracer or a profiler follows operations, autocast changes dtypes,
    or a tensor is not what it seems. A single step takes less time than that.
    """
    for watches in _WATCHERS:
        if watches():
            return False
    return not (
        {*map(type, tensors)} - _OWN_TYPES
        or any(map(Tensor.is_neg, tensors))
        or any(map(Tensor._is_zerotensor, tensors))  # noqa: SLF001
    )


def side_by_side(recurrence: str, layers: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
    """The parameters of each layer, given gate by gate, as the operator takes them."""
    layouts, stacked = RECURRENCES[recurrence].layouts, []
    for parameters in layers:
        of_layer, at = [], 0
        for tensors in layouts[len(parameters)][0]:
            if tensors:
                of_layer.append(torch.cat([*parameters[at : at + tensors]], dim=-1))
            at += tensors
        stacked.append(of_layer)
    return stacked


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
