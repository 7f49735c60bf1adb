"""The BRC: units see only themselves, so that a thread walks one column of (B, H) alone."""

# mypy: ignore-errors
# Triton compiles the functions below: their arguments' types are those of each launch.

import triton
import triton.language as tl

from brc_pytorch.ops.triton.kernels.arithmetic import (
    add_bias,
    below,
    columns_of,
    differentiate,
    divert,
    gates_of,
    load_arguments,
    load_begins,
    load_bias,
    load_length,
    load_reset,
    step_at,
    store_arguments,
)


@triton.jit
def _own_columns(lengths, steps, batch, hidden, block: tl.constexpr):
    """A program's columns, and the lengths of their rows."""
    columns = columns_of(tl.cast(batch, tl.int64), hidden, block)
    _, row, _, _, exists = columns
    return columns, load_length(lengths, row, steps, exists)


@triton.jit
def _load_weights(memory, bias, biases, unit, exists, hidden, dtype: tl.constexpr):
    """w_c, w_a, b_c, b_a and the candidate's bias of some units."""
    w_c = tl.load(memory + unit, mask=exists, other=0).to(dtype)
    w_a = tl.load(memory + hidden + unit, mask=exists, other=0).to(dtype)
    b_c, b_a, b_u = load_bias(bias, biases, unit, hidden, exists, dtype)
    return w_c, w_a, b_c, b_a, b_u


@triton.jit
def _gates(arguments, weights, h):
    w_c, w_a, b_c, b_a, b_u = weights
    c, a, u = add_bias(arguments, (b_c, b_a, b_u), h.dtype)
    return gates_of(c, a, u, w_c * h, w_a * h, h)


@triton.jit
def _fetch(sources, position, span, columns, reverse: tl.constexpr):
    arguments, anew = sources
    first, count, batch, hidden = span
    element, row, _, column, _ = columns
    step = step_at(position, count, reverse)
    mask = below(position < count, element, batch * hidden)
    begins = load_begins(anew, (first + step) * batch + row, mask)
    return load_arguments(arguments, step, column, batch, hidden, mask), begins


@triton.jit
def _forward_step(
    h, fetched, weights, output, position, span, rows, columns, reverse: tl.constexpr
):
    parts, begins = fetched  # Triton 3.7 takes no tuple within a tuple here
    first, count, batch, hidden = span
    length, reset = rows
    element, _, _, _, _ = columns
    size = batch * hidden
    h = tl.where(begins, reset, h)
    time = first + step_at(position, count, reverse)
    c, _, g = _gates(parts, weights, h)
    inside = below(position < count, element, size)
    valid = inside & (time < length)
    h = tl.where(valid, c * h + (1 - c) * g, h)
    tl.store(output + time * size + element, tl.where(valid, h, 0), mask=inside)
    return h


@triton.jit(do_not_specialize=["biases", "first", "count", "steps"])
def brc_forward(
    arguments,
    bias,
    biases,
    memory,
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
    reverse: tl.constexpr,
    block: tl.constexpr,
):
    """The BRC; a program walks ``block`` columns of (B, H), their states in registers."""
    batch = tl.cast(batch, tl.int64)
    columns, length = _own_columns(lengths, steps, batch, hidden, block)
    element, _, unit, _, exists = columns
    h = tl.load(state + element, mask=exists, other=0)
    rows = (length, load_reset(reset_state, element, exists).to(h.dtype))
    span = (first, count, batch, hidden)
    sources = (arguments, anew)
    weights = _load_weights(memory, bias, biases, unit, exists, hidden, h.dtype)

    # Four steps are on their way from memory while one is computed. The loop is written out, since
    # to pass a value on to the next variable would be to wait for it.
    x0 = _fetch(sources, 0, span, columns, reverse)
    x1 = _fetch(sources, 1, span, columns, reverse)
    x2 = _fetch(sources, 2, span, columns, reverse)
    x3 = _fetch(sources, 3, span, columns, reverse)
    for p in range(0, count, 4):
        h = _forward_step(h, x0, weights, output, p, span, rows, columns, reverse)
        x0 = _fetch(sources, p + 4, span, columns, reverse)
        h = _forward_step(h, x1, weights, output, p + 1, span, rows, columns, reverse)
        x1 = _fetch(sources, p + 5, span, columns, reverse)
        h = _forward_step(h, x2, weights, output, p + 2, span, rows, columns, reverse)
        x2 = _fetch(sources, p + 6, span, columns, reverse)
        h = _forward_step(h, x3, weights, output, p + 3, span, rows, columns, reverse)
        x3 = _fetch(sources, p + 7, span, columns, reverse)
    tl.store(state + element, h, mask=exists)


@triton.jit
def _fetch_back(sources, position, span, rows, reverse: tl.constexpr):
    """What one step of the backward pass reads: arguments, h_{t-1} and the output's gradient."""
    arguments, output, grad_output, stride_t, at_grad, anew = sources
    first, count, batch, hidden = span
    columns, length, h_0, reset = rows
    element, row, _, column, _ = columns
    step = step_at(position, count, reverse)
    time = first + step
    mask = below(position >= 0, element, batch * hidden)
    x = load_arguments(arguments, step, column, batch, hidden, mask)
    # A row's data begins with its h_0: at its end where the time runs backwards.
    if reverse:
        is_first = time == length - 1
        before = time + 1
    else:
        is_first = tl.zeros_like(element) == time
        before = time - 1
    mask = mask & (time < length)
    begins = load_begins(anew, time * batch + row, mask)
    at = output + before * (batch * hidden) + element
    h = tl.load(at, mask=mask & ~is_first & ~begins, other=0)
    h = tl.where(begins, reset, tl.where(is_first, h_0, h))
    grad = tl.zeros_like(h)
    if grad_output is not None:
        grad = tl.load(grad_output + time * stride_t + at_grad, mask=mask, other=0)
    return x, h, grad, begins


@triton.jit
def _backward_step(carried, fetched, weights, results, position, span, rows, reverse: tl.constexpr):
    grad, sum_c, sum_a, sum_u, sum_w_c, sum_w_a = carried
    x, h, grad_output, begins = fetched
    arguments, grad_reset = results
    w_c, w_a, _, _, _ = weights
    first, count, batch, hidden = span
    columns, length, _, _ = rows
    element, _, _, column, _ = columns
    step = step_at(position, count, reverse)
    mask = below(position >= 0, element, batch * hidden)
    valid = mask & (first + step < length)
    h = h.to(grad.dtype)
    c, a_less_1, g = _gates(x, weights, h)
    grad_c, grad_a, grad_u, before = differentiate(
        grad + grad_output.to(grad.dtype), h, c, a_less_1, g
    )
    # Padding may hold anything: what it gives is dropped, not multiplied by zero.
    h = tl.where(valid, h, 0)
    grad_c = tl.where(valid, grad_c, 0)
    grad_a = tl.where(valid, grad_a, 0)
    grad_u = tl.where(valid, grad_u, 0)
    store_arguments((grad_c, grad_a, grad_u), arguments, step, column, batch, hidden, mask)
    grad = tl.where(valid, before + w_c * grad_c + w_a * grad_a, grad)
    grad = divert(grad, begins, grad_reset, element, mask)
    return (
        grad,
        sum_c + grad_c,
        sum_a + grad_a,
        sum_u + grad_u,
        sum_w_c + grad_c * h,
        sum_w_a + grad_a * h,
    )


@triton.jit(do_not_specialize=["biases", "first", "count", "steps"])
def brc_backward(
    arguments,
    bias,
    biases,
    memory,
    h_0,
    output,
    grad_output,
    stride_t,
    stride_b,
    stride_h,
    grad_state,
    sums,
    lengths,
    anew,
    reset_state,
    grad_reset,
    first,
    count,
    steps,
    batch,
    hidden,
    reverse: tl.constexpr,
    block: tl.constexpr,
):
    """The BRC's way back.

    To ``sums`` (5, B, H), of the type that is computed in, it adds over time what makes up the
    gradients of b_c, b_a, the candidate's bias, w_c and w_a, and to ``grad_reset`` (B, H) that of
    the reset state.
    """
    batch = tl.cast(batch, tl.int64)
    columns, length = _own_columns(lengths, steps, batch, hidden, block)
    element, row, unit, _, exists = columns
    size = batch * hidden
    grad = tl.load(grad_state + element, mask=exists, other=0)
    weights = _load_weights(memory, bias, biases, unit, exists, hidden, grad.dtype)
    h_0 = tl.load(h_0 + element, mask=exists, other=0)
    rows = (columns, length, h_0, load_reset(reset_state, element, exists).to(h_0.dtype))
    results = (arguments, grad_reset)
    span = (first, count, batch, hidden)
    at_grad = row * stride_b + unit * stride_h
    sources = (arguments, output, grad_output, tl.cast(stride_t, tl.int64), at_grad, anew)
    at_sum = sums + element
    carried = (
        grad,
        tl.load(at_sum, mask=exists, other=0),
        tl.load(at_sum + size, mask=exists, other=0),
        tl.load(at_sum + 2 * size, mask=exists, other=0),
        tl.load(at_sum + 3 * size, mask=exists, other=0),
        tl.load(at_sum + 4 * size, mask=exists, other=0),
    )

    last = count - 1
    x0 = _fetch_back(sources, last, span, rows, reverse)
    x1 = _fetch_back(sources, last - 1, span, rows, reverse)
    x2 = _fetch_back(sources, last - 2, span, rows, reverse)
    x3 = _fetch_back(sources, last - 3, span, rows, reverse)
    for done in range(0, count, 4):
        p = last - done
        carried = _backward_step(carried, x0, weights, results, p, span, rows, reverse)
        x0 = _fetch_back(sources, p - 4, span, rows, reverse)
        carried = _backward_step(carried, x1, weights, results, p - 1, span, rows, reverse)
        x1 = _fetch_back(sources, p - 5, span, rows, reverse)
        carried = _backward_step(carried, x2, weights, results, p - 2, span, rows, reverse)
        x2 = _fetch_back(sources, p - 6, span, rows, reverse)
        carried = _backward_step(carried, x3, weights, results, p - 3, span, rows, reverse)
        x3 = _fetch_back(sources, p - 7, span, rows, reverse)

    grad, sum_c, sum_a, sum_u, sum_w_c, sum_w_a = carried
    tl.store(grad_state + element, grad, mask=exists)
    tl.store(at_sum, sum_c, mask=exists)
    tl.store(at_sum + size, sum_a, mask=exists)
    tl.store(at_sum + 2 * size, sum_u, mask=exists)
    tl.store(at_sum + 3 * size, sum_w_c, mask=exists)
    tl.store(at_sum + 4 * size, sum_w_a, mask=exists)
