"""What autocast does with the operators: all tensors go to the dtype that the input is computed in.

The results have the input's dtype, as those of ``nn.GRU`` do.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from brc_pytorch.ops.operator import (
    AUTOCAST,
    AUTOCAST_KEYS,
    chosen_backend,
    computed_in,
    library,
    operator,
)
from brc_pytorch.ops.several_layers import check_layers, layers_operator, one_by_one


def _to(dtype: torch.dtype, tensors: Sequence[Tensor]) -> list[Tensor]:
    # Of what is no floating-point number, the operator says what is wrong.
    return [tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in tensors]


def _scan_autocast(
    recurrence: str,
    input: Tensor,
    states: Tensor,
    parameters: Sequence[Tensor],
    lengths: Tensor | None,
    reverse: bool,
    keep: bool = False,
    resets: Tensor | None = None,
    reset_states: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    with torch._C._ExcludeDispatchKeyGuard(AUTOCAST_KEYS):  # noqa: SLF001 - as torch.library does
        dtype = computed_in(chosen_backend(input, recurrence, resets), input.dtype)
        given = *_to(dtype, (input, states)), _to(dtype, parameters)
        if reset_states is not None:
            (reset_states,) = _to(dtype, (reset_states,))
        options = lengths, reverse, keep, resets, reset_states
        output, last, saved = operator(recurrence, *given, *options)
        if output.dtype == input.dtype:
            return output, last, saved
        return output.to(input.dtype), last.to(input.dtype), saved


def _scan_layers_autocast(
    recurrence: str,
    input: Tensor,
    states: Sequence[Tensor],
    parameters: Sequence[Tensor],
    lengths: Tensor | None,
    resets: Tensor | None = None,
    reset_states: Sequence[Tensor] | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """As each layer's rule: from layer to layer the outputs have the input's dtype."""
    backend = chosen_backend(input, recurrence, resets)
    if input.dtype in backend.dtypes or not input.is_floating_point():
        with torch._C._ExcludeDispatchKeyGuard(AUTOCAST_KEYS):  # noqa: SLF001 - as torch.library does
            given = _to(input.dtype, states), _to(input.dtype, parameters)
            reset = None if reset_states is None else _to(input.dtype, reset_states)
            return layers_operator(recurrence, input, *given, lengths, resets, reset)  # type: ignore[no-any-return]
    options = lengths, resets, reset_states
    known = check_layers(recurrence, input, states, parameters, *options, mixed=True)
    return one_by_one(operator, known, input, states, parameters, *options)


for _key in AUTOCAST.values():
    library.impl("scan", _scan_autocast, _key)
    library.impl("scan_layers", _scan_layers_autocast, _key)
