"""What autocast does with the operators: all tensors go to the dtype that the input is computed in.

The results have the input's dtype, as those of ``nn.GRU`` do.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from brc_pytorch.ops.operator import (
    AUTOCAST,
    AUTOCAST_KEYS,
    checked,
    chosen_backend,
    computed_in,
    library,
    operator,
)
from brc_pytorch.ops.several_layers import check_layers, layers_operator, one_by_one


def _to(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    # Of what is no floating-point number, the operator says what is wrong.
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _scan_autocast(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ANN401 - the operator's own
    call = checked(*arguments, mixed=True)
    name, dtype = call.recurrence.name, call.input.dtype
    with torch._C._ExcludeDispatchKeyGuard(AUTOCAST_KEYS):  # noqa: SLF001 - as torch.library does
        computed = computed_in(chosen_backend(call.input, name, call.resets), dtype)
        alike = call.with_each(lambda tensor: _to(tensor, computed))
        output, last, saved = operator(name, *alike[1:])
        return output.to(dtype), last.to(dtype), saved


def _scan_layers_autocast(*arguments: Any) -> tuple[Tensor, list[Tensor]]:  # noqa: ANN401 - the operator's own
    """As each layer's rule: from layer to layer the outputs have the input's dtype."""
    call = check_layers(*arguments, mixed=True)
    name, dtype = call.recurrence.name, call.input.dtype
    if dtype not in chosen_backend(call.input, name, call.resets).dtypes:
        return one_by_one(call)

    def all_to(tensors: Sequence[Tensor]) -> list[Tensor]:
        return [_to(tensor, dtype) for tensor in tensors]

    with torch._C._ExcludeDispatchKeyGuard(AUTOCAST_KEYS):  # noqa: SLF001 - as torch.library does
        reset = None if call.reset_states is None else all_to(call.reset_states)
        given = call.input, all_to(call.states), all_to(call.parameters), call.lengths, call.resets
        return layers_operator(name, *given, reset)  # type: ignore[no-any-return]


for _key in AUTOCAST.values():
    library.impl("scan", _scan_autocast, _key)
    library.impl("scan_layers", _scan_layers_autocast, _key)
