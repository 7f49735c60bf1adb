"""The nBRC of middling layers: a program walks a few rows, the weights come anew at each step.

They come from the second-level cache, which holds them all, in parts of ``chunk`` rows, two of
which are on their way while a third is multiplied.
"""

# mypy: ignore-errors
# Triton compiles the functions below: their arguments' types are those of each launch.

import triton
import triton.language as tl

from brc_pytorch.ops.triton.kernels.arithmetic import (
    add_bias,
    differentiate,
    divert,
    gates_of,
    halves,
    load_arguments,
    load_begins,
    load_bias,
    load_length,
    load_reset,
    load_wide_bias,
    sigmoid,
    step_at,
    store_arguments,
    tanh,
    wide_units,
)


@triton.jit
def _rows_of(batch, hidden, rows: tl.constexpr, block: tl.constexpr):
    """A program's rows, (rows, 1), which exist, their elements of (B, H), which exist."""
    row = tl.cast(tl.program_id(0), tl.int64) * rows + tl.arange(0, rows)[:, None]
    unit = tl.arange(0, block)[None, :]
    present = row < batch
    return row, present, row * hidden + unit, present & (unit < hidden)


@triton.jit
def _load_part(weights, first, column, exists, dtype: tl.constexpr, chunk: tl.constexpr):
    """Rows of weights from ``first`` on, (chunk, columns)."""
    width: tl.constexpr = column.shape[0]
    at = weights + first * width + tl.arange(0, chunk)[:, None] * width + column[None, :]
    return tl.load(at, mask=exists[None, :], other=0).to(dtype)


@triton.jit
def _add_part(sums, x, first, part, chunk: tl.constexpr):
    """Add the terms of one part to the sums, (rows, columns)."""
    factors = tl.load(x + first + tl.arange(0, chunk)[None, :])
    return sums + tl.sum(factors[:, :, None] * part[None, :, :], axis=1)


@triton.jit
def _product(x, weights, height, sums, exists, zero, chunk: tl.constexpr, vector: tl.constexpr):
    """X @ W, added to ``sums`` (rows, columns); ``x`` points to rows in memory, (rows, 1).

    Both go on for two parts below the height, the weights with zeros. ``zero`` is 0, which the
    compiler cannot know: so it gives a thread no more columns than ``vector``.
    """
    dtype: tl.constexpr = sums.dtype
    column = tl.multiple_of(zero, vector) + tl.arange(0, sums.shape[1])
    part_0 = _load_part(weights, 0, column, exists, dtype, chunk)
    part_1 = _load_part(weights, chunk, column, exists, dtype, chunk)
    for first in range(0, height, 2 * chunk):
        ahead = first + 2 * chunk
        sums = _add_part(sums, x, first, part_0, chunk)
        part_0 = _load_part(weights, ahead, column, exists, dtype, chunk)
        sums = _add_part(sums, x, first + chunk, part_1, chunk)
        part_1 = _load_part(weights, ahead + chunk, column, exists, dtype, chunk)
    return sums


@triton.jit(do_not_specialize=["biases", "first", "count", "steps", "hidden", "zero"])
def nbrc_forward_streamed(
    arguments,
    bias,
    biases,
    weights,
    shared,
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
    rows: tl.constexpr,
    chunk: tl.constexpr,
    vector: tl.constexpr,
):
    """The nBRC of middling layers.

    ``weights`` are W_c and W_a side by side, (more than H, 2 block), zero beyond H. Through
    ``shared``, (programs * rows, more than H) and zero, threads pass on the states.
    """
    batch = tl.cast(batch, tl.int64)
    row, present, element, exists = _rows_of(batch, hidden, rows, block)
    length = load_length(lengths, row, steps, present)
    unit = tl.arange(0, block)[None, :]
    _, column, is_column = wide_units(hidden, block, 2 * block)
    of_c = (tl.arange(0, 2 * block) < block)[None, :]
    shared += row * (block + 2 * chunk)
    h = tl.load(state + element, mask=exists, other=0)
    reset = load_reset(reset_state, element, exists).to(h.dtype)
    _, _, b_u = load_bias(bias, biases, unit, hidden, unit < hidden, h.dtype)
    b_gates = load_wide_bias(bias, column[None, :], is_column[None, :], h.dtype)
    for p in range(count):
        step = step_at(p, count, reverse)
        time = first + step
        at = arguments + step * (3 * batch * hidden) + row * (3 * hidden)
        gates = tl.load(at + column[None, :], mask=present & is_column[None, :], other=0)
        u = tl.load(at + 2 * hidden + unit, mask=exists, other=0)
        if anew is not None:
            h = tl.where(load_begins(anew, time * batch + row, present), reset, h)
        tl.store(shared + unit, h)
        tl.debug_barrier()  # all have written h
        none = tl.zeros((rows, 2 * block), h.dtype)
        feedback = _product(shared, weights, hidden, none, is_column, zero, chunk, vector)
        tl.debug_barrier()  # all have read h
        gates = (gates.to(h.dtype) + b_gates) + feedback
        gates = tl.where(of_c, sigmoid(gates), tanh(gates))
        c, a_less_1 = halves(gates, of_c, (rows, 2, block), 1)
        g = tanh((u.to(h.dtype) + b_u) + (h + a_less_1 * h))
        # Padding stays zero, or the products of an infinite state with its zeros would be NaN.
        valid = exists & (time < length)
        h = tl.where(valid, c * h + (1 - c) * g, h)
        tl.store(output + time * (batch * hidden) + element, tl.where(valid, h, 0), mask=exists)
    tl.store(state + element, h, mask=exists)


@triton.jit(do_not_specialize=["biases", "first", "count", "steps", "hidden", "zero"])
def nbrc_backward_streamed(
    arguments,
    bias,
    biases,
    weights,
    shared,
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
    rows: tl.constexpr,
    chunk: tl.constexpr,
    vector: tl.constexpr,
):
    """The way back of :func:`nbrc_forward_streamed`.

    ``weights`` are W_c and W_a transposed, one upon the other, (more than 2H, block). ``states``
    (count, B, H) are the states before each step. Through ``shared``, (programs * rows, more than
    2H) and zero, threads pass on the gradients of the gates' arguments. To ``grad_reset`` (B, H)
    it adds the gradient of the reset state.
    """
    batch = tl.cast(batch, tl.int64)
    row, present, element, exists = _rows_of(batch, hidden, rows, block)
    length = load_length(lengths, row, steps, present)
    unit = tl.arange(0, block)
    column = row * (3 * hidden) + unit[None, :]
    at_grad = row * stride_b + unit[None, :].to(tl.int64) * stride_h
    shared += row * (2 * block + 4 * chunk)
    grad = tl.load(grad_state + element, mask=exists, other=0)
    bias_at = tl.arange(0, block)[None, :]
    of_gates = load_bias(bias, biases, bias_at, hidden, bias_at < hidden, grad.dtype)
    for done in range(count):
        step = step_at(count - 1 - done, count, reverse)
        time = first + step
        valid = exists & (time < length)
        h = tl.load(states + step * (batch * hidden) + element, mask=exists, other=0)
        x = load_arguments(arguments, step, column, batch, hidden, exists)
        total = grad
        if grad_output is not None:
            at_time = grad_output + time * stride_t + at_grad
            total += tl.load(at_time, mask=valid, other=0).to(grad.dtype)
        h = h.to(grad.dtype)
        c, a, u = add_bias(x, of_gates, h.dtype)
        c, a_less_1, g = gates_of(c, a, u, 0, 0, h)
        grad_c, grad_a, grad_u, before = differentiate(total, h, c, a_less_1, g)
        grad_c = tl.where(valid, grad_c, 0)
        grad_a = tl.where(valid, grad_a, 0)
        grad_u = tl.where(valid, grad_u, 0)
        tl.debug_barrier()  # all have read the arguments that one of them writes over
        store_arguments((grad_c, grad_a, grad_u), arguments, step, column, batch, hidden, exists)
        tl.store(shared + unit[None, :], grad_c, mask=exists)
        tl.store(shared + hidden + unit[None, :], grad_a, mask=exists)
        tl.debug_barrier()  # all have written their gradients
        none = tl.zeros((rows, block), grad.dtype)
        height = 2 * hidden
        through_gates = _product(
            shared, weights, height, none, unit < hidden, zero, 2 * chunk, vector
        )
        tl.debug_barrier()  # all have read them
        grad = tl.where(valid, before + through_gates, grad)
        if anew is not None:
            begins = load_begins(anew, time * batch + row, present) & exists
            grad = divert(grad, begins, grad_reset, element, exists)
    tl.store(grad_state + element, grad, mask=exists)
