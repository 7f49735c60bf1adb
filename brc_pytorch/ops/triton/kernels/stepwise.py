"""The nBRC of large layers: a product of all rows, then one kernel, step by step."""

# mypy: ignore-errors
# Triton compiles the functions below: their arguments' types are those of each launch.

import triton
import triton.language as tl

from brc_pytorch.ops.triton.kernels.arithmetic import (
    add_bias,
    columns_of,
    differentiate,
    divert,
    gates_of,
    load_arguments,
    load_begins,
    load_bias,
    load_length,
    load_reset,
    store_arguments,
)


@triton.jit(do_not_specialize=["biases", "step", "first", "steps"])
def nbrc_forward_step(
    arguments,
    bias,
    biases,
    feedback,
    state,
    narrow,
    output,
    lengths,
    ends,
    reset_state,
    step,
    first,
    steps,
    batch,
    hidden,
    block: tl.constexpr,
):
    """One step of the nBRC of large layers, for which ``feedback`` (B, 2H) is computed: h @ W.

    The state is also written to ``narrow``, of the tensors' own type, for the next product. Where
    a segment ends with this step, as ``ends`` (T, B) says, it is the reset state.
    """
    batch = tl.cast(batch, tl.int64)
    element, row, unit, column, exists = columns_of(batch, hidden, block)
    length = load_length(lengths, row, steps, exists)
    time = first + tl.cast(step, tl.int64)
    h = tl.load(state + element, mask=exists, other=0)
    x = load_arguments(arguments, tl.cast(step, tl.int64), column, batch, hidden, exists)
    at = feedback + row * 2 * hidden + unit
    feedback_c = tl.load(at, mask=exists, other=0).to(h.dtype)
    feedback_a = tl.load(at + hidden, mask=exists, other=0).to(h.dtype)
    of_gates = load_bias(bias, biases, unit, hidden, exists, h.dtype)
    c, a, u = add_bias(x, of_gates, h.dtype)
    c, _, g = gates_of(c, a, u, feedback_c, feedback_a, h)
    valid = time < length
    h = tl.where(valid, c * h + (1 - c) * g, h)
    tl.store(output + time * (batch * hidden) + element, tl.where(valid, h, 0), mask=exists)
    if ends is not None:
        reset = load_reset(reset_state, element, exists).to(h.dtype)
        h = tl.where(load_begins(ends, time * batch + row, exists), reset, h)
    tl.store(state + element, h, mask=exists)
    tl.store(narrow + element, h, mask=exists)


@triton.jit(do_not_specialize=["biases", "step", "first", "steps"])
def nbrc_backward_step(
    arguments,
    bias,
    biases,
    feedback,
    states,
    grad_output,
    stride_t,
    stride_b,
    stride_h,
    grad_state,
    lengths,
    ends,
    grad_reset,
    step,
    first,
    steps,
    batch,
    hidden,
    block: tl.constexpr,
):
    """The way back of :func:`nbrc_forward_step`.

    ``feedback`` (B, H) is what the step after this one adds to D through W: its own gradients of
    the arguments of c and a times W transposed. Where a segment ends with this step, as ``ends``
    (T, B) says, that is added to ``grad_reset`` (B, H) instead.
    """
    batch = tl.cast(batch, tl.int64)
    element, row, unit, column, exists = columns_of(batch, hidden, block)
    length = load_length(lengths, row, steps, exists)
    step = tl.cast(step, tl.int64)
    time = first + step
    valid = exists & (time < length)
    grad = tl.load(grad_state + element, mask=exists, other=0)
    grad += tl.load(feedback + element, mask=exists, other=0).to(grad.dtype)
    if ends is not None:
        begins = load_begins(ends, time * batch + row, exists)
        grad = divert(grad, begins, grad_reset, element, exists)
    total = grad
    if grad_output is not None:
        at = row * stride_b + unit * stride_h
        at_time = grad_output + time * stride_t + at
        total += tl.load(at_time, mask=valid, other=0).to(grad.dtype)
    h = tl.load(states + step * (batch * hidden) + element, mask=exists, other=0).to(grad.dtype)
    x = load_arguments(arguments, step, column, batch, hidden, exists)
    of_gates = load_bias(bias, biases, unit, hidden, exists, h.dtype)
    c, a, u = add_bias(x, of_gates, h.dtype)
    c, a_less_1, g = gates_of(c, a, u, 0, 0, h)
    grad_c, grad_a, grad_u, before = differentiate(total, h, c, a_less_1, g)
    grad_c = tl.where(valid, grad_c, 0)
    grad_a = tl.where(valid, grad_a, 0)
    grad_u = tl.where(valid, grad_u, 0)
    store_arguments((grad_c, grad_a, grad_u), arguments, step, column, batch, hidden, exists)
    tl.store(grad_state + element, tl.where(valid, before, grad), mask=exists)
