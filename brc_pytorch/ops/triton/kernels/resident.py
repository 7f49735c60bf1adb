"""The nBRC of small layers: a program walks one row, the weights in its registers.

A thread holds the weights of one column, so that the products' sums need no other thread. The
columns of two gates side by side, or the rows of two gates one upon the other, are called wide.
"""

# mypy: ignore-errors
# Triton compiles the functions below: their arguments' types are those of each launch.

import triton
import triton.language as tl

from brc_pytorch.ops.triton.kernels.arithmetic import (
    below,
    differentiate,
    divert,
    gates_of,
    halves,
    load_arguments,
    load_begins,
    load_bias,
    load_reset,
    load_wide_bias,
    sigmoid,
    step_at,
    tanh,
    wide_units,
)

# A sum's terms are added in as many chains as lie in a row of a tile: a chain of all of them would
# have to wait for each addition.
_CHAINS = tl.constexpr(4)


@triton.jit
def _length_of(lengths, row, steps):
    length = steps
    if lengths is not None:
        length = tl.load(lengths + row)
    return length


@triton.jit
def _load_forward(memory, hidden, dtype: tl.constexpr, block: tl.constexpr):
    """W_c and W_a side by side, (block, 2 block), in chains; ``memory`` is (H, 2H).

    That the width is not known to be a multiple of anything makes the compiler give a thread one
    column, and not four beside each other.
    """
    chains: tl.constexpr = _CHAINS
    at_row = tl.arange(0, block // chains)[:, None, None] * chains
    at_row += tl.arange(0, chains)[None, :, None]
    _, column, exists = wide_units(hidden, block, 2 * block)
    at = at_row * (2 * hidden) + column[None, None, :]
    mask = (at_row < hidden) & exists[None, None, :]
    return tl.load(memory + at, mask=mask, other=0).to(dtype)


@triton.jit
def _load_backward(memory, hidden, dtype: tl.constexpr, block: tl.constexpr):
    """W_c and W_a transposed, one upon the other, (2 block, block); ``memory`` is (2H, H)."""
    chains: tl.constexpr = 2 * _CHAINS  # two threads share a column
    place = tl.arange(0, 2 * block // chains)[:, None, None] * chains
    place += tl.arange(0, chains)[None, :, None]
    unit = place % block
    at_row = (place // block) * hidden + unit
    column = tl.arange(0, block)[None, None, :]
    mask = (unit < hidden) & (column < hidden)
    return tl.load(memory + at_row * hidden + column, mask=mask, other=0).to(dtype)


@triton.jit
def _product(x, weights):
    """X @ W; the weights' rows lie in two dimensions."""
    rows: tl.constexpr = weights.shape[0]
    chains: tl.constexpr = weights.shape[1]
    terms = tl.reshape(x, (rows, chains))[:, :, None] * weights
    return tl.sum(tl.sum(terms, axis=0), axis=0)


@triton.jit(do_not_specialize=["biases", "first", "count", "steps", "hidden"])
def nbrc_forward(
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
    """The nBRC of small layers; ``memory`` is W_c and W_a side by side, (H, 2H)."""
    row = tl.cast(tl.program_id(0), tl.int64)
    batch = tl.cast(batch, tl.int64)
    length = _length_of(lengths, row, steps)
    unit, _, exists = wide_units(hidden, block, block)
    _, wide_column, wide_exists = wide_units(hidden, block, 2 * block)
    of_c = tl.arange(0, 2 * block) < block
    at_argument = arguments + row * 3 * hidden
    state += row * hidden + unit
    h = tl.load(state, mask=exists, other=0)
    reset = load_reset(reset_state, row * hidden + unit, exists).to(h.dtype)
    weights = _load_forward(memory, hidden, h.dtype, block)
    _, _, b_u = load_bias(bias, biases, unit, hidden, exists, h.dtype)
    b_gates = load_wide_bias(bias, wide_column, wide_exists, h.dtype)

    # A step's arguments are on their way from memory while the one before is computed.
    at = at_argument + step_at(0, count, reverse) * (3 * batch * hidden)
    gates = tl.load(at + wide_column, mask=wide_exists, other=0)
    u = tl.load(at + 2 * hidden + unit, mask=exists, other=0)
    for p in range(count):
        time = first + step_at(p, count, reverse)
        following = step_at(tl.minimum(p + 1, count - 1), count, reverse)
        at = at_argument + following * (3 * batch * hidden)
        gates_next = tl.load(at + wide_column, mask=wide_exists, other=0)
        u_next = tl.load(at + 2 * hidden + unit, mask=exists, other=0)
        if anew is not None:
            begins = load_begins(anew, time * batch + row + tl.zeros_like(unit), exists)
            h = tl.where(begins, reset, h)
        gates = (gates.to(h.dtype) + b_gates) + _product(h, weights)
        gates = tl.where(of_c, sigmoid(gates), tanh(gates))
        c, a_less_1 = halves(gates, of_c, (2, block), 0)
        g = tanh((u.to(h.dtype) + b_u) + (h + a_less_1 * h))
        # Padding stays zero, or the products of an infinite state with its zeros would be NaN.
        valid = below(time < length, unit, hidden)
        h = tl.where(valid, c * h + (1 - c) * g, h)
        to = output + time * (batch * hidden) + row * hidden + unit
        tl.store(to, tl.where(valid, h, 0), mask=exists)
        gates = gates_next
        u = u_next
    tl.store(state, h, mask=exists)


@triton.jit
def _fetch_back(sources, position, span, at_row, dtype: tl.constexpr, reverse: tl.constexpr):
    """What a step of the way back reads: arguments, the state before, the output's gradient."""
    arguments, states, grad_output, stride_t = sources
    first, count, batch, hidden = span
    unit, length, exists, at_grad = at_row
    step = step_at(position, count, reverse)
    c, a, u = load_arguments(arguments, step, unit, batch, hidden, exists)
    h = tl.load(states + step * (batch * hidden) + unit, mask=exists, other=0).to(dtype)
    grad = tl.zeros_like(h)
    if grad_output is not None:
        time = first + step
        valid = below(time < length, unit, hidden)
        grad = tl.load(grad_output + time * stride_t + at_grad, mask=valid, other=0).to(dtype)
    return c.to(dtype), a.to(dtype), u.to(dtype), h, grad


@triton.jit(do_not_specialize=["biases", "first", "count", "steps", "hidden"])
def nbrc_backward(
    arguments,
    bias,
    biases,
    memory,
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
    reverse: tl.constexpr,
    block: tl.constexpr,
):
    """The way back of :func:`nbrc_forward`; vectors over units are wide, each unit twice in them.

    ``memory`` is W_c and W_a transposed, (2H, H), ``states`` (count, B, H) the states before each
    step. To ``grad_reset`` (B, H) it adds the gradient of the reset state.
    """
    row = tl.cast(tl.program_id(0), tl.int64)
    batch = tl.cast(batch, tl.int64)
    length = _length_of(lengths, row, steps)
    unit, column, exists = wide_units(hidden, block, 2 * block)
    of_c = tl.arange(0, 2 * block) < block
    once = exists & of_c  # one of a unit's two places
    at_grad = row * stride_b + unit.to(tl.int64) * stride_h
    arguments += row * 3 * hidden
    states += row * hidden
    grad_state += row * hidden + unit
    grad = tl.load(grad_state, mask=exists, other=0)
    weights = _load_backward(memory, hidden, grad.dtype, block)
    b_c, b_a, b_u = load_bias(bias, biases, unit, hidden, exists, grad.dtype)
    at_row = unit, length, exists, at_grad
    sources = arguments, states, grad_output, stride_t
    span = first, count, batch, hidden
    c, a, u, h, grad_out = _fetch_back(sources, count - 1, span, at_row, grad.dtype, reverse)
    c, a_less_1, g = gates_of(c, a, u + b_u, b_c, b_a, h)
    # The next step's gates need no gradient: they are made ready meanwhile, from what has been on
    # its way from memory since the step before.
    next_c, next_a, next_u, next_h, next_grad_out = _fetch_back(
        sources, tl.maximum(count - 2, 0), span, at_row, grad.dtype, reverse
    )
    for done in range(count):
        p = count - 1 - done
        step = step_at(p, count, reverse)
        time = first + step
        valid = below(time < length, unit, hidden)
        later_c, later_a, later_u, later_h, later_grad_out = _fetch_back(
            sources, tl.maximum(p - 2, 0), span, at_row, grad.dtype, reverse
        )
        grad_c, grad_a, grad_u, before = differentiate(grad + grad_out, h, c, a_less_1, g)
        grad_gates = tl.where(valid, tl.where(of_c, grad_c, grad_a), 0)
        grad_u = tl.where(valid, grad_u, 0)
        tl.debug_barrier()  # all have read the arguments that one of them writes over
        to = arguments + step * (3 * batch * hidden)
        tl.store(to + column, grad_gates, mask=exists)
        tl.store(to + 2 * hidden + unit, grad_u, mask=once)
        through_gates = _product(grad_gates, weights)
        through_gates = tl.broadcast_to(through_gates[None, :], (2, block))
        through_gates = tl.reshape(through_gates, (2 * block,))
        grad = tl.where(valid, before + through_gates, grad)
        if anew is not None:
            begins = load_begins(anew, time * batch + row + tl.zeros_like(unit), exists)
            grad = divert(grad, begins, grad_reset, row * hidden + unit, once)
        c, a_less_1, g = gates_of(next_c, next_a, next_u + b_u, b_c, b_a, next_h)
        h = next_h
        grad_out = next_grad_out
        next_c, next_a, next_u = later_c, later_a, later_u
        next_h, next_grad_out = later_h, later_grad_out
    tl.store(grad_state, grad, mask=once)
