"""The values of a call's tensors, and how they lie in memory."""

import math
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from tests.fuzz.call import Call

T = TypeVar("T")
HUGE = 1e5
"""The scale of the states, or inputs, of calls with huge values."""


def generator(call: Call, purpose: int = 0) -> torch.Generator:
    """Random numbers of a call's own; another sequence for each purpose."""
    return torch.Generator().manual_seed(call.seed + purpose)


def draw_values(call: Call, shapes: dict[str, tuple[tuple[int, ...], float]]) -> dict[str, Tensor]:
    """Draw values in float64 that the call's dtype has, with what is odd about this call.

    Args:
        call: the call.
        shapes: the shape and the scale of each tensor.
    """
    source = generator(call)
    dtype = getattr(torch, call.dtype)
    values = {
        name: scale * torch.randn(shape, generator=source, dtype=torch.float64)
        for name, (shape, scale) in shapes.items()
    }
    if call.values == "zero":
        values = {name: torch.zeros_like(drawn) for name, drawn in values.items()}
    elif call.values == "saturated":
        values = {n: v if n in ("input", "h_0") else 20 * v for n, v in values.items()}
    sequences = [values[name] for name in ("input", "h_0") if name in values]
    if call.values == "huge":
        sequences[-1].mul_(1e3 if dtype.itemsize == 2 else HUGE)
    elif call.values == "denormal":
        for drawn in sequences:
            drawn.mul_(torch.finfo(dtype).tiny / 16)
    elif call.values in ("nan", "inf"):
        for drawn in sequences[: 1 + call.seed % 2]:
            _spoil(call, drawn, source)
    return {
        name: as_laid_out(drawn.to(dtype).double(), dealt(call.layouts, at))
        for at, (name, drawn) in enumerate(values.items())
    }


def _spoil(call: Call, values: Tensor, source: torch.Generator) -> None:
    """Put one number that is not finite into one row."""
    if values.numel() == 0:
        return
    at = int(torch.randint(values.numel(), (), generator=source))
    signed = math.copysign(math.inf, at % 2 - 0.5)
    values.view(-1)[at] = math.nan if call.values == "nan" else signed


def dealt(given: Sequence[T], at: int) -> T:
    """What the tensor at this place gets of a few things that are dealt out."""
    return given[at % len(given)]


def as_laid_out(values: Tensor, how: str) -> Tensor:
    """The values that a tensor has that lies in memory so: expanded ones repeat the first row."""
    if how == "expanded" and values.dim() > 0 and values.shape[0] > 0:
        return values[:1].expand_as(values).clone()
    return values


def place(values: Tensor, dtype: torch.dtype, how: str) -> Tensor:
    """The values in a dtype, lying in memory as ``how`` says, amid NaN where there is room."""
    values = values.to(dtype)
    if how == "dense" or values.dim() == 0:
        return values.clone()
    if how == "strided":
        wide = values.new_full([2 * size + 1 for size in values.shape], math.nan)
        return wide[tuple(slice(1, None, 2) for _ in values.shape)].copy_(values)
    if how == "transposed":
        order = tuple(reversed(range(values.dim())))
        return values.permute(order).contiguous().permute(order)
    if how == "negated":
        return torch._neg_view(-values)
    if how == "expanded":
        return values[:1].clone().expand_as(values) if values.shape[0] else values.clone()
    shifted = values.new_full((values.numel() + 1,), math.nan)[1:].view(values.shape)
    return shifted.copy_(values)


def draw_lengths(call: Call) -> list[int]:
    """How many steps of each row are data, as drawn; some outside of 0 to T if so asked."""
    least = 1 if call.form == "packed" else 0
    low, high = (-2, call.steps + 3) if call.lengths == "outside" else (least, call.steps + 1)
    source = generator(call, 1)
    return torch.randint(low, high, (call.batch,), generator=source).tolist()


def draw_resets(call: Call) -> Tensor:
    """Where segments begin, (T, B): a third of the steps, all or none."""
    source = generator(call, 3)
    if call.resets in ("all", "none"):
        return torch.full((call.steps, call.batch), call.resets == "all")
    drawn = torch.rand(call.steps, 2 * call.batch, generator=source) < 1 / 3
    return drawn[:, ::2] if call.resets == "strided" else drawn[:, ::2].contiguous()


def options(call: Call) -> dict[str, Tensor]:
    """The lengths and resets that a call is made with; a packed sequence has its own lengths."""
    has_lengths = call.lengths and call.subject in ("operator", "scan")
    given = {"lengths": lengths_tensor(call)} if has_lengths else {}
    return {**given, "resets": draw_resets(call)} if call.resets else given


def lengths_tensor(call: Call) -> Tensor:
    """The lengths as the call hands them over."""
    kind = {"int32": torch.int32, "uint8": torch.uint8}.get(call.lengths, torch.int64)
    drawn = torch.tensor(draw_lengths(call), dtype=kind)
    return torch.stack((drawn, drawn - 1), 1)[:, 0] if call.lengths == "strided" else drawn
