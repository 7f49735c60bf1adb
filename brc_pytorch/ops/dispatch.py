"""Whether torch's dispatcher would do anything for a call but hand it on; nothing public tells."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

any_requires_grad = torch._C._any_requires_grad  # noqa: SLF001 - as torch.library's own rule
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
# Of gradients that torch.autograd.grad computes many of at once no mode tells.
_has_storage = torch._C._has_storage  # noqa: SLF001
# Types of tensors that are nothing else.
_OWN_TYPES = {Tensor, torch.nn.Parameter}


def _find_guards() -> Any:  # noqa: ANN401 - a class of torch's own
    """Torch's own guards, by which torch.compile decides whether a program still fits.

    They tell in one call whether tensors have the types, dispatch keys, dtypes, devices, sizes and
    strides of others, and require gradients where those do. They are private: None where this
    version of torch has none that can be made like this.
    """
    x = torch.empty(2, 1)
    try:
        guards: Any = torch._C._dynamo.guards.TensorGuards  # noqa: SLF001 - nothing public tells
        same = guards(x, dynamic_dims_sizes=[[2, 1]], dynamic_dims_strides=[[1, 1]])
        return guards if same.check(x) and not same.check(x.t()) else None
    except (AttributeError, TypeError, RuntimeError, SystemError):
        return None


_TensorGuards = _find_guards()
_known: dict[Hashable, Any] = {}
_MOST = 64


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
        or not all(map(_has_storage, tensors))
    )


def is_known(form: Hashable, tensors: Sequence[Tensor]) -> bool:
    """Whether such a call has been remembered, and so goes straight and needs no further check."""
    for watches in _WATCHERS:
        if watches():
            return False
    guards = _known.get(form)
    return guards is not None and bool(guards.check(*tensors))


def remember(form: Hashable, tensors: Sequence[Tensor]) -> None:
    """Note that a call of this form with such tensors goes straight and has passed all checks.

    For single steps, which take less time than the checks. What is kept are facts, no tensors.

    Args:
        form: all that matters beside the facts that guards know.
        tensors: those of the call.
    """
    if _TensorGuards is None:
        return
    if len(_known) >= _MOST:
        _known.clear()
    _known[form] = _TensorGuards(
        *tensors,
        dynamic_dims_sizes=[[*tensor.shape] for tensor in tensors],
        dynamic_dims_strides=[[*tensor.stride()] for tensor in tensors],
    )
