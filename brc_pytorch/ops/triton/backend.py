"""The recurrences on GPUs: Triton kernels as a backend of the operator.

The products with what is known beforehand are cuBLAS': U x for all steps at hand, and from the
gradients of the gates' arguments those of the input and the weights. The kernels of
:mod:`brc_pytorch.ops.triton.kernels` walk over time. Triton comes with torch's CUDA builds; it is
imported when the first tensor arrives on a GPU.

A sequence is walked in spans of steps, so that what one span needs beside the states stays small
and near: the gates are not kept for the backward pass but computed again, span by span, from the
input and the states.

Symbols: T time, B batch, I input size, H hidden size; the tensors are those of
:mod:`brc_pytorch.ops.reference`.
"""

import importlib.util
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from brc_pytorch.ops.backends import Backend, Call, Gradients, register_backend
from brc_pytorch.ops.reference import are_data, begin_anew, mask_padding

# The projected input of one span: with the states beside it, it stays in the second-level cache
# (40 MiB on an A100, 50 on an H100) between the product that writes it and the kernel.
_SPAN_BYTES = 32 * 2**20
# A program that waits for memory more than it computes: one warp, and a column for each thread.
_COLUMNS_OPTIONS = {"block": 32, "num_warps": 1, "enable_fp_fusion": True}
# The weights of the nBRC that a multiprocessor's 64 Ki registers hold beside all else.
_RESIDENT_BYTES = 128 * 2**10
# With 255 registers a thread, eight warps have all of them; more warps would spill more.
_RESIDENT_WARPS = 8
# Weights of two bytes are packed for this block, and most lie in the first-level cache.
_PACKED_BLOCK = 256
# A row has a multiprocessor to itself; from some rows on products of all rows at once are faster.
_RESIDENT_ROWS = 2048


class _Inputs(NamedTuple):
    """What a layer takes, as the kernels read it.

    ``anew`` (T, B) is not 0 where a step starts from ``reset_state`` (B, H), None for zero.
    """

    recurrence: str
    input: Tensor
    h_0: Tensor
    kernel: Tensor
    memory: Tensor
    bias: Tensor | None
    lengths: Tensor | None
    reverse: bool
    anew: Tensor | None
    reset_state: Tensor | None


def _computed_in(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _spans(inputs: _Inputs) -> list[tuple[int, int]]:
    """First time and number of steps of each span, in the order of the forward pass."""
    input, kernel, reverse = inputs.input, inputs.kernel, inputs.reverse
    steps, batch, _ = input.shape
    count = math.ceil(steps * batch * kernel.shape[1] * input.itemsize / _SPAN_BYTES)
    size = math.ceil(steps / max(count, 1))
    spans = [(first, min(size, steps - first)) for first in range(0, steps, size)]
    return spans[::-1] if reverse else spans


def _resident_block(hidden: int, batch: int, dtype: torch.dtype) -> int | None:
    """Units of a program that keeps the nBRC's weights on chip, a power of 2; None if too many."""
    block = max(16, 1 << (hidden - 1).bit_length())
    fits = 2 * block**2 * dtype.itemsize <= _RESIDENT_BYTES
    packs = dtype.itemsize == 2 and block == _PACKED_BLOCK  # noqa: PLR2004 - two bytes
    return block if (fits or packs) and batch <= _RESIDENT_ROWS else None


def _resident_options(block: int, dtype: torch.dtype) -> dict[str, Any]:
    packed = block == _PACKED_BLOCK
    words = block**2 // 2 if packed else 2 * block**2 * max(dtype.itemsize // 4, 1)
    warps = min(max(1, words // 2048), _RESIDENT_WARPS)
    return {"block": block, "packed": packed, "num_warps": warps, "enable_fp_fusion": True}


def _tiles(memory: Tensor, block: int, transposed: bool) -> Tensor:
    """W_c and W_a padded with zeros, (2, block, block), or with two rows in a word, int32."""
    hidden = memory.shape[0]
    tiles = memory.new_zeros(2, block, block)
    weights = memory.view(hidden, 2, hidden).movedim(1, 0)
    tiles[:, :hidden, :hidden] = weights.mT if transposed else weights
    if block < _PACKED_BLOCK:
        return tiles
    pairs = tiles.view(2, block // 2, 2, block).movedim(2, 3).contiguous()
    return pairs.view(torch.int32).squeeze(-1)


def _project(input: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """U_c x + b_c, U_a x + b_a and U x side by side, (count, B, 3H), in one product."""
    rows = input.flatten(0, 1)
    if bias is None:
        arguments = rows @ kernel
    else:
        arguments = torch.addmm(F.pad(bias, (0, kernel.shape[1] - bias.shape[0])), rows, kernel)
    return arguments.view(*input.shape[:2], -1)


def _prepare(call: Call) -> _Inputs:
    recurrence, input, states, (kernel, memory, *bias), lengths, reverse, *_ = call
    resets, reset = call.resets, call.reset_states
    anew = None
    if resets is not None:
        valid = None if lengths is None else are_data(input, lengths)
        anew = begin_anew(resets, valid, reverse).squeeze(-1).to(torch.int8).contiguous()
    if lengths is not None:
        lengths = lengths.to(input.device).clamp(0, input.shape[0]).to(torch.int32).contiguous()
    return _Inputs(
        recurrence.name,
        *(input, states[0].contiguous(), kernel, memory.contiguous(), bias[0] if bias else None),
        *(lengths, reverse, anew, None if reset is None else reset[0].contiguous()),
    )


def _ends(inputs: _Inputs) -> Tensor | None:
    """Where a segment ends: the step that is taken next starts anew, (T, B)."""
    if inputs.anew is None:
        return None
    none = torch.zeros_like(inputs.anew[:1])
    if inputs.reverse:
        return torch.cat((none, inputs.anew[:-1]))
    return torch.cat((inputs.anew[1:], none))


def _first_anew(inputs: _Inputs) -> Tensor:
    """Which rows start from the reset state at the first step to be taken, (B, 1) booleans."""
    assert inputs.anew is not None  # noqa: S101 - asked only then
    return inputs.anew[-1 if inputs.reverse else 0].unsqueeze(1) != 0


def _forward(call: Call, output: Tensor, last: Tensor, saved: Tensor) -> None:  # noqa: ARG001 - nothing is saved
    if output.numel() > 0:
        with torch.cuda.device_of(output):  # type: ignore[no-untyped-call]
            _write_outputs(_prepare(call), output, last[0])


def _columns_grid(output: Tensor) -> tuple[int]:
    _, batch, hidden = output.shape
    return (math.ceil(batch * hidden / _COLUMNS_OPTIONS["block"]),)


def _forward_walk(inputs: _Inputs, state: Tensor, output: Tensor) -> Callable[[Tensor, int], None]:
    """How this layer walks over a span: from its arguments and first time to states and output."""
    from brc_pytorch.ops.triton import kernels  # noqa: PLC0415 - where a GPU is in use

    memory, lengths, reverse = inputs.memory, inputs.lengths, inputs.reverse
    resets = inputs.anew, inputs.reset_state
    steps, batch, hidden = output.shape
    if inputs.recurrence == "brc":

        def walk_columns(arguments: Tensor, first: int) -> None:
            kernels.brc_forward[_columns_grid(output)](
                *(arguments, memory, state, output, lengths, *resets),
                *(first, len(arguments), steps, batch, hidden),
                **{"reverse": reverse, **_COLUMNS_OPTIONS},
            )

        return walk_columns

    block = _resident_block(hidden, batch, output.dtype)
    if block is not None:
        tiles = _tiles(memory, block, transposed=False)
        options = {"reverse": reverse, **_resident_options(block, output.dtype)}

        def walk_rows(arguments: Tensor, first: int) -> None:
            kernels.nbrc_forward[batch,](
                *(arguments, tiles, state, output, lengths, *resets),
                *(first, len(arguments), steps, batch, hidden),
                **{"zero": 0, **options},
            )

        return walk_rows

    if inputs.anew is not None:
        reset = 0 if inputs.reset_state is None else inputs.reset_state.to(state.dtype)
        state.copy_(torch.where(_first_anew(inputs), reset, state))
    ends = _ends(inputs)
    narrow = state.to(output.dtype)
    feedback = output.new_empty(batch, 2 * hidden)

    def walk_steps(arguments: Tensor, first: int) -> None:
        order = range(len(arguments))
        for step in reversed(order) if reverse else order:
            torch.mm(narrow, memory, out=feedback)
            kernels.nbrc_forward_step[_columns_grid(output)](
                *(arguments, feedback, state, narrow, output, lengths, ends, inputs.reset_state),
                *(step, first, steps, batch, hidden),
                **_COLUMNS_OPTIONS,
            )

    return walk_steps


def _write_outputs(inputs: _Inputs, output: Tensor, last: Tensor) -> None:
    _, input, h_0, kernel, _, bias, *_ = inputs
    state = h_0.to(_computed_in(h_0.dtype), copy=True)
    walk = _forward_walk(inputs, state, output)
    for first, count in _spans(inputs):
        walk(_project(input[first : first + count], kernel, bias), first)
    last.copy_(state)


def _backward(
    call: Call,
    grad_output: Tensor | None,
    grad_last: Tensor | None,
    output: Tensor,
    saved: Tensor,  # noqa: ARG001 - nothing is saved
    gradients: Gradients,
) -> None:
    if output.numel() == 0:
        for gradient in gradients.tensors:
            gradient.zero_()
        if grad_last is not None:
            gradients.states.copy_(grad_last)
        return
    grad_last = None if grad_last is None else grad_last[0]
    with torch.cuda.device_of(output):  # type: ignore[no-untyped-call]
        _write_gradients(_prepare(call), output.contiguous(), grad_output, grad_last, gradients)


def _states_before(inputs: _Inputs, output: Tensor, first: int, count: int) -> Tensor:
    """The states that the steps of a span start from, (count, B, H)."""
    h_0, lengths, reverse = inputs.h_0, inputs.lengths, inputs.reverse
    if reverse:
        states = output[first + 1 : first + 1 + count]
        if first + count == len(output):
            states = torch.cat((states, h_0.unsqueeze(0)))
        if lengths is not None:
            times = torch.arange(first, first + count, device=output.device)
            is_first = times.unsqueeze(1) == lengths - 1
            states = torch.where(is_first.unsqueeze(-1), h_0, states)
    elif first > 0:
        states = output[first - 1 : first - 1 + count]
    else:
        states = torch.cat((h_0.unsqueeze(0), output[: count - 1]))
    if inputs.anew is None:
        return states
    anew = inputs.anew[first : first + count].unsqueeze(-1) != 0
    return torch.where(anew, 0 if inputs.reset_state is None else inputs.reset_state, states)


def _backward_walk(
    inputs: _Inputs,
    output: Tensor,
    grad_output: Tensor | None,
    grad_state: Tensor,
    grad_reset: Tensor | None,
    sums: Tensor | None,
) -> Callable[[Tensor, Tensor | None, int], None]:
    """How this layer walks back over a span: from its arguments, states before and first time.

    The gradients of the gates' arguments take their place; ``sums`` are those of the BRC.
    """
    from brc_pytorch.ops.triton import kernels  # noqa: PLC0415 - where a GPU is in use

    _, _, h_0, _, memory, _, lengths, reverse, anew, reset_state = inputs
    steps, batch, hidden = output.shape
    cotangent = (grad_output, *((0, 0, 0) if grad_output is None else grad_output.stride()))
    if sums is not None:

        def walk_columns(arguments: Tensor, states: Tensor | None, first: int) -> None:  # noqa: ARG001 - it finds them in the output
            kernels.brc_backward[_columns_grid(output)](
                *(arguments, memory, h_0, output, *cotangent, grad_state, sums),
                *(lengths, anew, reset_state, grad_reset),
                *(first, len(arguments), steps, batch, hidden),
                **{"reverse": reverse, **_COLUMNS_OPTIONS},
            )

        return walk_columns

    block = _resident_block(hidden, batch, output.dtype)
    if block is not None:
        tiles = _tiles(memory, block, transposed=True)
        options = {"reverse": reverse, **_resident_options(block, output.dtype)}

        def walk_rows(arguments: Tensor, states: Tensor | None, first: int) -> None:
            kernels.nbrc_backward[batch,](
                *(arguments, tiles, states, *cotangent, grad_state, lengths, anew, grad_reset),
                *(first, len(arguments), steps, batch, hidden),
                **{"zero": 0, **options},
            )

        return walk_rows

    ends = _ends(inputs)

    def walk_steps(arguments: Tensor, states: Tensor | None, first: int) -> None:
        feedback = output.new_zeros(batch, hidden)
        order = range(len(arguments))
        for step in order if reverse else reversed(order):
            kernels.nbrc_backward_step[_columns_grid(output)](
                *(arguments, feedback, states, *cotangent, grad_state, lengths, ends, grad_reset),
                *(step, first, steps, batch, hidden),
                **_COLUMNS_OPTIONS,
            )
            torch.mm(arguments[step, :, : 2 * hidden], memory.t(), out=feedback)
        grad_state.add_(feedback)
        begins_sequence = first + len(arguments) == steps if reverse else first == 0
        if anew is not None and begins_sequence:
            is_anew = _first_anew(inputs)
            if grad_reset is not None:
                grad_reset.add_(torch.where(is_anew, grad_state, 0))
            grad_state.masked_fill_(is_anew, 0)

    return walk_steps


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total.add_(left @ right)


def _write_gradients(
    inputs: _Inputs,
    output: Tensor,
    grad_output: Tensor | None,
    grad_last: Tensor | None,
    gradients: Gradients,
) -> None:
    recurrence, input, h_0, kernel, memory, bias, lengths, *_ = inputs
    batch, hidden = h_0.shape
    zeros = partial(torch.zeros, dtype=_computed_in(input.dtype), device=input.device)
    grad_state = zeros(h_0.shape)
    if grad_last is not None:
        grad_state.copy_(grad_last)
    grad_reset = None if inputs.reset_state is None else zeros(h_0.shape)
    full = recurrence == "nbrc"  # a matrix of memory, not a vector
    sums = None if full else zeros((5, batch, hidden))
    total_kernel = zeros(kernel.shape)
    total_memory = zeros(memory.shape)
    total_bias = zeros((3 * hidden,))

    walk = _backward_walk(inputs, output, grad_output, grad_state, grad_reset, sums)
    for first, count in reversed(_spans(inputs)):
        part = input[first : first + count]
        if lengths is not None:
            part, _ = mask_padding(part, lengths - first)
        arguments = _project(part, kernel, bias)
        flat_arguments = arguments.flatten(0, 1)
        states = None
        if full:
            states = _states_before(inputs, output, first, count)
            flat_states = states.flatten(0, 1)
            flat_arguments[:, : 2 * hidden].addmm_(flat_states, memory)
        walk(arguments, states, first)  # from here on these are gradients
        if full:
            _add_product(total_memory, flat_states.t(), flat_arguments[:, : 2 * hidden])
            if bias is not None:
                total_bias += flat_arguments.sum(0, dtype=total_bias.dtype)
        flat_input = part.flatten(0, 1)
        _add_product(total_kernel, flat_input.t(), flat_arguments)
        if gradients.input.dim() == input.dim():  # otherwise nobody asks for it
            flat_grad = gradients.input[first : first + count].flatten(0, 1)
            torch.mm(flat_arguments, kernel.t(), out=flat_grad)

    if sums is not None:
        total = sums.sum(1)
        total_bias, total_memory = total[:3].flatten(), total[3:].flatten()
    totals = total_kernel, total_memory, total_bias
    _write_narrow(gradients, grad_state, grad_reset, totals)


def _write_narrow(
    gradients: Gradients,
    grad_state: Tensor,
    grad_reset: Tensor | None,
    totals: tuple[Tensor, Tensor, Tensor],
) -> None:
    """Write, in the tensors' own dtype, what was added up in a wider one."""
    gradients.states[0].copy_(grad_state)
    if grad_reset is not None:
        gradients.reset_states[0].copy_(grad_reset)
    # The bias, if there is one, may have fewer gates.
    for gradient, total in zip(gradients.parameters, totals, strict=False):
        gradient.copy_(total[: gradient.shape[0]])


if importlib.util.find_spec("triton") is not None:
    BACKEND = Backend(
        device_type="cuda",
        dtypes=frozenset((torch.float16, torch.bfloat16, torch.float32, torch.float64)),
        recurrences=frozenset(("brc", "nbrc")),
        forward=_forward,
        backward=_backward,
        saved_shape=lambda *_: (0,),
        knows_resets=True,
    )
    register_backend("cuda", BACKEND)
