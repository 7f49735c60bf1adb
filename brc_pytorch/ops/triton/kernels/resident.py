"""The nBRC of small layers: a program walks one row, the weights on its multiprocessor."""

# mypy: ignore-errors
# Triton compiles the functions below: their arguments' types are those of each launch.

import triton
import triton.language as tl

from brc_pytorch.ops.triton.kernels.arithmetic import (
    below,
    differentiate,
    divert,
    gates_of,
    load_arguments,
    load_begins,
    load_reset,
    step_at,
    store_arguments,
)


@triton.jit
def _load_tile(tiles, gate: tl.constexpr, block: tl.constexpr):
    """One gate's square of weights, (block, block)."""
    at = tl.arange(0, block)[:, None] * block + tl.arange(0, block)[None, :]
    return tl.load(tiles + gate * block * block + at)


@triton.jit
def _load_words(tiles, gate: tl.constexpr, piece, block: tl.constexpr):
    """Weights of two bytes, two rows in a word: 16 of the block / 2 rows of words of one gate."""
    row = gate * (block // 2) + piece * 16 + tl.arange(0, 16)
    at = row[:, None] * block + tl.arange(0, block)[None, :]
    return tl.load(tiles + at, eviction_policy="evict_last")


@triton.jit
def _load_kept(tiles, gate: tl.constexpr, block: tl.constexpr):
    """The first words of one gate, as many as the registers hold without spilling others."""
    return (
        _load_words(tiles, gate, 0, block),
        _load_words(tiles, gate, 1, block),
        _load_words(tiles, gate, 2, block),
        _load_words(tiles, gate, 3, block),
        _load_words(tiles, gate, 4, block),
    )


@triton.jit
def _load_weights(tiles, packed: tl.constexpr, dtype: tl.constexpr, block: tl.constexpr):
    """What registers hold: the first words of W_c if they are packed, or both tiles."""
    if packed:
        weights = _load_kept(tiles, 0, block)
    else:  # a second ``return`` would have to be of the first one's type
        weights = _load_tile(tiles, 0, block).to(dtype), _load_tile(tiles, 1, block).to(dtype)
    return weights


@triton.jit
def _row_of(row, lengths, steps, batch, hidden, block: tl.constexpr):
    """What belongs to a row: the batch as a number that products fit in, units, its length."""
    unit = tl.arange(0, block)
    length = steps
    if lengths is not None:
        length = tl.load(lengths + row)
    return tl.cast(batch, tl.int64), unit, unit < hidden, length


@triton.jit
def _add_terms(total, x, words, piece, hidden, shift, weight: tl.constexpr):
    """Add the terms of x @ W of one piece; ``x`` points to a row of (B, H) in memory."""
    even = piece * 32 + 2 * tl.arange(0, 16)
    x_even = tl.load(x + even, mask=even < hidden, other=0).to(total.dtype)
    x_odd = tl.load(x + even + 1, mask=even + 1 < hidden, other=0).to(total.dtype)
    low = (words >> shift).to(tl.int16).to(weight, bitcast=True).to(total.dtype)
    high = (words >> (shift + 16)).to(tl.int16).to(weight, bitcast=True).to(total.dtype)
    total += x_even[:, None] * low
    total += x_odd[:, None] * high
    return total


@triton.jit
def _add_kept(total, x, words, hidden, shift, weight: tl.constexpr):
    w0, w1, w2, w3, w4 = words
    total = _add_terms(total, x, w0, 0, hidden, shift, weight)
    total = _add_terms(total, x, w1, 1, hidden, shift, weight)
    total = _add_terms(total, x, w2, 2, hidden, shift, weight)
    total = _add_terms(total, x, w3, 3, hidden, shift, weight)
    return _add_terms(total, x, w4, 4, hidden, shift, weight)


@triton.jit
def _add_streamed(
    total,
    x,
    tiles,
    first: tl.constexpr,
    gate: tl.constexpr,
    hidden,
    shift,
    weight: tl.constexpr,
    block: tl.constexpr,
):
    for piece in range(first, 8):
        words = _load_words(tiles, gate, piece, block)
        total = _add_terms(total, x, words, piece, hidden, shift, weight)
    return total


@triton.jit(do_not_specialize=["first", "count", "steps", "zero"])
def nbrc_forward(
    arguments,
    tiles,
    state,
    output,
    lengths,
    anew,
    reset_state,
    first,
    count,
    steps,
    batch,
    hidden,
    zero,
    reverse: tl.constexpr,
    block: tl.constexpr,
    packed: tl.constexpr,
):
    """The nBRC of small layers; a program walks one row, the weights on its multiprocessor.

    ``tiles`` are W_c and W_a, padded with zeros to (2, block, block). They stay in registers; if
    they are packed, two rows in a word, five parts of 16 do, and the others come from the
    first-level cache at each step.
    """
    row = tl.cast(tl.program_id(0), tl.int64)
    batch, unit, exists, length = _row_of(row, lengths, steps, batch, hidden, block)
    arguments += row * 3 * hidden
    state += row * hidden
    output += row * hidden
    h = tl.load(state + unit, mask=exists, other=0)
    reset = load_reset(reset_state, row * hidden + unit, exists).to(h.dtype)
    weights = _load_weights(tiles, packed, h.dtype, block)
    weight: tl.constexpr = arguments.dtype.element_ty
    # ``zero`` is 0, which the compiler cannot know: else it would unpack the weights before the
    # loop, into registers that are not there.
    shift = zero
    for p in range(count):
        step = step_at(p, count, reverse)
        # On their way from memory during the products.
        c, a, u = load_arguments(arguments, step, unit, batch, hidden, exists)
        if anew is not None:
            begins = load_begins(anew, (first + step) * batch + row + tl.zeros_like(unit), exists)
            h = tl.where(begins, reset, h)
        if packed:
            shift = shift ^ zero
            tl.store(state + unit, h, mask=exists)
            tl.debug_barrier()  # all have written h
            none = tl.zeros((16, block), h.dtype)
            sums_c = _add_kept(none, state, weights, hidden, shift, weight)
            sums_c = _add_streamed(sums_c, state, tiles, 5, 0, hidden, shift, weight, block)
            feedback_c = tl.sum(sums_c, axis=0)
            sums_a = _add_streamed(none, state, tiles, 0, 1, hidden, shift, weight, block)
            feedback_a = tl.sum(sums_a, axis=0)
            tl.debug_barrier()  # all have read h
        else:
            tile_c, tile_a = weights
            feedback_c = tl.sum(h[:, None] * tile_c, axis=0)
            feedback_a = tl.sum(h[:, None] * tile_a, axis=0)
        c, _, g = gates_of(c.to(h.dtype), a.to(h.dtype), u.to(h.dtype), feedback_c, feedback_a, h)
        # Padding stays zero, or the products of an infinite state with its zeros would be NaN.
        valid = below(first + step < length, unit, hidden)
        h = tl.where(valid, c * h + (1 - c) * g, h)
        to = output + (first + step) * (batch * hidden) + unit
        tl.store(to, tl.where(valid, h, 0), mask=exists)
    tl.store(state + unit, h, mask=exists)


@triton.jit(do_not_specialize=["first", "count", "steps", "zero"])
def nbrc_backward(
    arguments,
    tiles,
    states,
    grad_output,
    stride_t,
    stride_b,
    stride_h,
    grad_state,
    lengths,
    anew,
    grad_reset,
    first,
    count,
    steps,
    batch,
    hidden,
    zero,
    reverse: tl.constexpr,
    block: tl.constexpr,
    packed: tl.constexpr,
):
    """The way back of :func:`nbrc_forward`.

    ``tiles`` are W_c and W_a transposed, ``states`` (count, B, H) the states before each step. To
    ``grad_reset`` (B, H) it adds the gradient of the reset state.
    """
    row = tl.cast(tl.program_id(0), tl.int64)
    batch, unit, exists, length = _row_of(row, lengths, steps, batch, hidden, block)
    at_grad = row * stride_b + unit.to(tl.int64) * stride_h
    arguments += row * 3 * hidden
    states += row * hidden
    grad_state += row * hidden
    grad = tl.load(grad_state + unit, mask=exists, other=0)
    weights = _load_weights(tiles, packed, grad.dtype, block)
    weight: tl.constexpr = arguments.dtype.element_ty
    shift = zero
    x = load_arguments(arguments, step_at(count - 1, count, reverse), unit, batch, hidden, exists)
    for done in range(count):
        p = count - 1 - done
        step = step_at(p, count, reverse)
        time = first + step
        valid = below(time < length, unit, hidden)
        tl.debug_barrier()  # all have read the arguments that one of them writes over
        h = tl.load(states + step * (batch * hidden) + unit, mask=exists, other=0).to(grad.dtype)
        c, a, u = x
        following = step_at(tl.maximum(p - 1, 0), count, reverse)
        x = load_arguments(arguments, following, unit, batch, hidden, exists)
        total = grad
        if grad_output is not None:
            at_time = grad_output + time * stride_t + at_grad
            total += tl.load(at_time, mask=valid, other=0).to(grad.dtype)
        c, a_less_1, g = gates_of(c.to(grad.dtype), a.to(grad.dtype), u.to(grad.dtype), 0, 0, h)
        grad_c, grad_a, grad_u, before = differentiate(total, h, c, a_less_1, g)
        grad_c = tl.where(valid, grad_c, 0)
        grad_a = tl.where(valid, grad_a, 0)
        grad_u = tl.where(valid, grad_u, 0)
        store_arguments((grad_c, grad_a, grad_u), arguments, step, unit, batch, hidden, exists)
        if packed:
            shift = shift ^ zero
            tl.debug_barrier()  # all have written their gradients
            x_c = arguments + step * (3 * batch * hidden)
            terms = tl.zeros((16, block), grad.dtype)
            terms = _add_kept(terms, x_c, weights, hidden, shift, weight)
            terms = _add_streamed(terms, x_c, tiles, 5, 0, hidden, shift, weight, block)
            terms = _add_streamed(terms, x_c + hidden, tiles, 0, 1, hidden, shift, weight, block)
        else:
            tile_c, tile_a = weights
            terms = grad_c[:, None] * tile_c + grad_a[:, None] * tile_a
        grad = tl.where(valid, before + tl.sum(terms, axis=0), grad)
        if anew is not None:
            begins = load_begins(anew, time * batch + row + tl.zeros_like(unit), exists)
            grad = divert(grad, begins, grad_reset, row * hidden + unit)
    tl.store(grad_state + unit, grad, mask=exists)
