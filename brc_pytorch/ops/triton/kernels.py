"""The recurrences as Triton kernels; :mod:`brc_pytorch.ops.triton.backend` launches them.

Each kernel walks over ``count`` steps of the sequence, from time ``first`` on. Tensors of these
steps alone lie densely from their first row on; those of the whole sequence are addressed by time.

- ``drive`` (count, B, 3H): U_c x + b_c, U_a x + b_a and U x side by side. A backward pass of the
  BRC reads it, that of the nBRC reads the arguments of all gates there, R_c(h) and R_a(h) included;
  both leave the gradients of these arguments in its place.
- ``state`` (B, H), ``grad_state`` (B, H): h, and its gradient, where the walk begins; after it,
  where it ends. They are of the type that is computed in; all others are of the tensors' own type.
- ``output`` (T, B, H), ``grad_output`` (T, B, H) of any strides or None.
- ``lengths`` (B): int32 from 0 to T, or None for T in every row.

Offsets into tensors are of 64 bits: a tensor may span more than 2**31 elements.

A program of one warp has one thread for each column of (B, H), which alone reads and writes it.
The programs that walk whole rows have several warps, and copies of a column in many threads.

Symbols: T time, B batch, H hidden size; D the gradient of h_t, g the candidate.
"""

# mypy: ignore-errors
# Triton compiles the functions below: their arguments' types are those of each launch.

import triton
import triton.language as tl


@triton.jit
def _sigmoid(x):
    return 1 / (1 + tl.exp(-x))


@triton.jit
def _tanh(x):
    """-e / (2 + e) with e = exp(-2|x|) - 1, but near 0, where e would lose its digits."""
    magnitude = tl.abs(x)
    power = tl.exp(-2 * magnitude)
    far = (1 - power) / (1 + power)
    if x.dtype == tl.float64:
        # Kahan's e: what rounding did to the power, its logarithm undoes.
        e = (power - 1) * (-2 * magnitude / tl.log(power))
        near = -e / (2 + e)
        near = tl.where(power == 1, magnitude, near)
        near = tl.where(x < 0, -near, near)
    else:
        # The polynomial of Cephes' tanhf (S. Moshier).
        z = x * x
        p = -5.70498872745e-3 * z + 2.06390887954e-2
        p = p * z - 5.37397155531e-2
        p = p * z + 1.33314422036e-1
        p = p * z - 3.33332819422e-1
        near = x + x * z * p
    return tl.where(magnitude < 0.625, near, tl.where(x < 0, -far, far))


@triton.jit
def _open(drive_c, drive_a, drive_u, feedback_c, feedback_a, h):
    """The gates c and a - 1, and the candidate."""
    c = _sigmoid(drive_c + feedback_c)
    a_less_1 = _tanh(drive_a + feedback_a)
    return c, a_less_1, _tanh(drive_u + (h + a_less_1 * h))


@triton.jit
def _close(grad, h, c, a_less_1, g):
    """D's way back: the gradients of the arguments of c, a and g, and of h but for R's part."""
    grad_u = grad * (1 - c) * (1 - g * g)
    grad_a = grad_u * h * (1 - a_less_1 * a_less_1)
    grad_c = grad * c * (1 - c) * (h - g)
    return grad_c, grad_a, grad_u, grad * c + (grad_u + grad_u * a_less_1)


@triton.jit
def _step_at(position, count, reverse: tl.constexpr):
    """Which of the steps is walked at a position."""
    step = position
    if reverse:
        step = count - 1 - position
    return tl.cast(step, tl.int64)


@triton.jit
def _load_gates(gates, step, column, batch, hidden, mask):
    """The three gates' values of a step, at the columns ``row * 3 * hidden + unit``."""
    at = gates + step * (3 * batch * hidden) + column
    c = tl.load(at, mask=mask, other=0)
    a = tl.load(at + hidden, mask=mask, other=0)
    return c, a, tl.load(at + 2 * hidden, mask=mask, other=0)


@triton.jit
def _store_gates(values, gates, step, column, batch, hidden, mask):
    c, a, u = values
    at = gates + step * (3 * batch * hidden) + column
    tl.store(at, c, mask=mask)
    tl.store(at + hidden, a, mask=mask)
    tl.store(at + 2 * hidden, u, mask=mask)


@triton.jit
def _load_length(lengths, row, steps, mask):
    """The rows' lengths, of the type that a time is compared with."""
    if lengths is None:
        length = steps + tl.zeros_like(row)
    else:
        length = tl.load(lengths + row, mask=mask, other=0)
    return length


@triton.jit
def _if(condition, element, count):
    """Which elements are below ``count``, all of it under a condition on the whole program."""
    return element < tl.where(condition, count, 0)


@triton.jit
def _columns(batch, hidden, block: tl.constexpr):
    """A program's columns of (B, H): rows, units, where they begin in (B, 3H), which exist."""
    element = tl.cast(tl.program_id(0), tl.int64) * block + tl.arange(0, block)
    row = element // hidden
    unit = element % hidden
    return element, row, unit, row * 3 * hidden + unit, element < batch * hidden


@triton.jit
def _brc_fetch(drive, position, count, columns, batch, hidden, reverse: tl.constexpr):
    element, _, _, column, _ = columns
    mask = _if(position < count, element, batch * hidden)
    return _load_gates(drive, _step_at(position, count, reverse), column, batch, hidden, mask)


@triton.jit
def _brc_forward_step(
    h, drive, weights, output, position, count, first, length, columns, size, reverse: tl.constexpr
):
    c, a, u = drive
    w_c, w_a = weights
    element, _, _, _, _ = columns
    time = first + _step_at(position, count, reverse)
    c, _, g = _open(c.to(h.dtype), a.to(h.dtype), u.to(h.dtype), w_c * h, w_a * h, h)
    inside = _if(position < count, element, size)
    valid = inside & (time < length)
    h = tl.where(valid, c * h + (1 - c) * g, h)
    tl.store(output + time * size + element, tl.where(valid, h, 0), mask=inside)
    return h


@triton.jit(do_not_specialize=["first", "count", "steps"])
def brc_forward(
    drive,
    memory,
    state,
    output,
    lengths,
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
    columns = _columns(batch, hidden, block)
    element, row, unit, _, exists = columns
    size = batch * hidden
    length = _load_length(lengths, row, steps, exists)
    h = tl.load(state + element, mask=exists, other=0)
    w_c = tl.load(memory + unit, mask=exists, other=0).to(h.dtype)
    w_a = tl.load(memory + hidden + unit, mask=exists, other=0).to(h.dtype)
    weights = (w_c, w_a)

    # Four steps are on their way from memory while one is computed. The loop is written out, since
    # to pass a value on to the next variable would be to wait for it.
    x0 = _brc_fetch(drive, 0, count, columns, batch, hidden, reverse)
    x1 = _brc_fetch(drive, 1, count, columns, batch, hidden, reverse)
    x2 = _brc_fetch(drive, 2, count, columns, batch, hidden, reverse)
    x3 = _brc_fetch(drive, 3, count, columns, batch, hidden, reverse)
    for p in range(0, count, 4):
        h = _brc_forward_step(
            h, x0, weights, output, p, count, first, length, columns, size, reverse
        )
        x0 = _brc_fetch(drive, p + 4, count, columns, batch, hidden, reverse)
        h = _brc_forward_step(
            h, x1, weights, output, p + 1, count, first, length, columns, size, reverse
        )
        x1 = _brc_fetch(drive, p + 5, count, columns, batch, hidden, reverse)
        h = _brc_forward_step(
            h, x2, weights, output, p + 2, count, first, length, columns, size, reverse
        )
        x2 = _brc_fetch(drive, p + 6, count, columns, batch, hidden, reverse)
        h = _brc_forward_step(
            h, x3, weights, output, p + 3, count, first, length, columns, size, reverse
        )
        x3 = _brc_fetch(drive, p + 7, count, columns, batch, hidden, reverse)
    tl.store(state + element, h, mask=exists)


@triton.jit
def _brc_fetch_back(sources, position, span, rows, reverse: tl.constexpr):
    """What one step of the backward pass reads: its drive, h_{t-1} and the output's gradient."""
    drive, output, grad_output, stride_t, at_grad = sources
    first, count, batch, hidden = span
    columns, length, h_0 = rows
    element, _, _, column, _ = columns
    step = _step_at(position, count, reverse)
    time = first + step
    mask = _if(position >= 0, element, batch * hidden)
    x = _load_gates(drive, step, column, batch, hidden, mask)
    # A row's data begins with its h_0: at its end where the time runs backwards.
    if reverse:
        begins = time == length - 1
        before = time + 1
    else:
        begins = tl.zeros_like(element) == time
        before = time - 1
    mask = mask & (time < length)
    at = output + before * (batch * hidden) + element
    h = tl.load(at, mask=mask & ~begins, other=0)
    h = tl.where(begins, h_0, h)
    grad = tl.zeros_like(h)
    if grad_output is not None:
        grad = tl.load(grad_output + time * stride_t + at_grad, mask=mask, other=0)
    return x, h, grad


@triton.jit
def _brc_backward_step(
    carried, fetched, weights, drive, position, span, rows, reverse: tl.constexpr
):
    grad, sum_c, sum_a, sum_u, sum_w_c, sum_w_a = carried
    x, h, grad_output = fetched
    x_c, x_a, x_u = x
    w_c, w_a = weights
    first, count, batch, hidden = span
    columns, length, _ = rows
    element, _, _, column, _ = columns
    step = _step_at(position, count, reverse)
    mask = _if(position >= 0, element, batch * hidden)
    valid = mask & (first + step < length)
    h = h.to(grad.dtype)
    c, a_less_1, g = _open(
        x_c.to(grad.dtype), x_a.to(grad.dtype), x_u.to(grad.dtype), w_c * h, w_a * h, h
    )
    grad_c, grad_a, grad_u, before = _close(grad + grad_output.to(grad.dtype), h, c, a_less_1, g)
    # Padding may hold anything: what it gives is dropped, not multiplied by zero.
    h = tl.where(valid, h, 0)
    grad_c = tl.where(valid, grad_c, 0)
    grad_a = tl.where(valid, grad_a, 0)
    grad_u = tl.where(valid, grad_u, 0)
    _store_gates((grad_c, grad_a, grad_u), drive, step, column, batch, hidden, mask)
    grad = tl.where(valid, before + w_c * grad_c + w_a * grad_a, grad)
    return (
        grad,
        sum_c + grad_c,
        sum_a + grad_a,
        sum_u + grad_u,
        sum_w_c + grad_c * h,
        sum_w_a + grad_a * h,
    )


@triton.jit(do_not_specialize=["first", "count", "steps"])
def brc_backward(
    drive,
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
    gradients of b_c, b_a, the candidate's bias, w_c and w_a.
    """
    batch = tl.cast(batch, tl.int64)
    columns = _columns(batch, hidden, block)
    element, row, unit, _, exists = columns
    size = batch * hidden
    length = _load_length(lengths, row, steps, exists)
    grad = tl.load(grad_state + element, mask=exists, other=0)
    w_c = tl.load(memory + unit, mask=exists, other=0).to(grad.dtype)
    w_a = tl.load(memory + hidden + unit, mask=exists, other=0).to(grad.dtype)
    weights = (w_c, w_a)
    rows = (columns, length, tl.load(h_0 + element, mask=exists, other=0))
    span = (first, count, batch, hidden)
    at_grad = row * stride_b + unit * stride_h
    sources = (drive, output, grad_output, tl.cast(stride_t, tl.int64), at_grad)
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
    x0 = _brc_fetch_back(sources, last, span, rows, reverse)
    x1 = _brc_fetch_back(sources, last - 1, span, rows, reverse)
    x2 = _brc_fetch_back(sources, last - 2, span, rows, reverse)
    x3 = _brc_fetch_back(sources, last - 3, span, rows, reverse)
    for done in range(0, count, 4):
        p = last - done
        carried = _brc_backward_step(carried, x0, weights, drive, p, span, rows, reverse)
        x0 = _brc_fetch_back(sources, p - 4, span, rows, reverse)
        carried = _brc_backward_step(carried, x1, weights, drive, p - 1, span, rows, reverse)
        x1 = _brc_fetch_back(sources, p - 5, span, rows, reverse)
        carried = _brc_backward_step(carried, x2, weights, drive, p - 2, span, rows, reverse)
        x2 = _brc_fetch_back(sources, p - 6, span, rows, reverse)
        carried = _brc_backward_step(carried, x3, weights, drive, p - 3, span, rows, reverse)
        x3 = _brc_fetch_back(sources, p - 7, span, rows, reverse)

    grad, sum_c, sum_a, sum_u, sum_w_c, sum_w_a = carried
    tl.store(grad_state + element, grad, mask=exists)
    tl.store(at_sum, sum_c, mask=exists)
    tl.store(at_sum + size, sum_a, mask=exists)
    tl.store(at_sum + 2 * size, sum_u, mask=exists)
    tl.store(at_sum + 3 * size, sum_w_c, mask=exists)
    tl.store(at_sum + 4 * size, sum_w_a, mask=exists)


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
    drive,
    tiles,
    state,
    output,
    lengths,
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
    batch = tl.cast(batch, tl.int64)
    unit = tl.arange(0, block)
    exists = unit < hidden
    length = steps
    if lengths is not None:
        length = tl.load(lengths + row)
    drive += row * 3 * hidden
    state += row * hidden
    output += row * hidden
    h = tl.load(state + unit, mask=exists, other=0)
    if packed:
        kept_c = _load_kept(tiles, 0, block)
        weight: tl.constexpr = drive.dtype.element_ty
    else:
        tile_c = _load_tile(tiles, 0, block).to(h.dtype)
        tile_a = _load_tile(tiles, 1, block).to(h.dtype)
    # ``zero`` is 0, which the compiler cannot know: else it would unpack the weights before the
    # loop, into registers that are not there.
    shift = zero
    for p in range(count):
        step = _step_at(p, count, reverse)
        # On their way from memory during the products.
        c, a, u = _load_gates(drive, step, unit, batch, hidden, exists)
        if packed:
            shift = shift ^ zero
            tl.store(state + unit, h, mask=exists)
            tl.debug_barrier()  # all have written h
            none = tl.zeros((16, block), h.dtype)
            sums_c = _add_kept(none, state, kept_c, hidden, shift, weight)
            sums_c = _add_streamed(sums_c, state, tiles, 5, 0, hidden, shift, weight, block)
            feedback_c = tl.sum(sums_c, axis=0)
            sums_a = _add_streamed(none, state, tiles, 0, 1, hidden, shift, weight, block)
            feedback_a = tl.sum(sums_a, axis=0)
            tl.debug_barrier()  # all have read h
        else:
            feedback_c = tl.sum(h[:, None] * tile_c, axis=0)
            feedback_a = tl.sum(h[:, None] * tile_a, axis=0)
        c, _, g = _open(c.to(h.dtype), a.to(h.dtype), u.to(h.dtype), feedback_c, feedback_a, h)
        # Padding stays zero, or the products of an infinite state with its zeros would be NaN.
        valid = _if(first + step < length, unit, hidden)
        h = tl.where(valid, c * h + (1 - c) * g, h)
        to = output + (first + step) * (batch * hidden) + unit
        tl.store(to, tl.where(valid, h, 0), mask=exists)
    tl.store(state + unit, h, mask=exists)


@triton.jit(do_not_specialize=["first", "count", "steps", "zero"])
def nbrc_backward(
    gates,
    tiles,
    states,
    grad_output,
    stride_t,
    stride_b,
    stride_h,
    grad_state,
    lengths,
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

    ``tiles`` are W_c and W_a transposed, ``states`` (count, B, H) the states before each step.
    """
    row = tl.cast(tl.program_id(0), tl.int64)
    batch = tl.cast(batch, tl.int64)
    unit = tl.arange(0, block)
    exists = unit < hidden
    at_grad = row * stride_b + unit.to(tl.int64) * stride_h
    length = steps
    if lengths is not None:
        length = tl.load(lengths + row)
    gates += row * 3 * hidden
    states += row * hidden
    grad_state += row * hidden
    grad = tl.load(grad_state + unit, mask=exists, other=0)
    if packed:
        kept_c = _load_kept(tiles, 0, block)
        weight: tl.constexpr = gates.dtype.element_ty
    else:
        tile_c = _load_tile(tiles, 0, block).to(grad.dtype)
        tile_a = _load_tile(tiles, 1, block).to(grad.dtype)
    shift = zero
    x = _load_gates(gates, _step_at(count - 1, count, reverse), unit, batch, hidden, exists)
    for done in range(count):
        p = count - 1 - done
        step = _step_at(p, count, reverse)
        time = first + step
        valid = _if(time < length, unit, hidden)
        tl.debug_barrier()  # all have read the gates that one of them writes over
        h = tl.load(states + step * (batch * hidden) + unit, mask=exists, other=0).to(grad.dtype)
        c, a, u = x
        following = _step_at(tl.maximum(p - 1, 0), count, reverse)
        x = _load_gates(gates, following, unit, batch, hidden, exists)
        total = grad
        if grad_output is not None:
            at_time = grad_output + time * stride_t + at_grad
            total += tl.load(at_time, mask=valid, other=0).to(grad.dtype)
        c, a_less_1, g = _open(c.to(grad.dtype), a.to(grad.dtype), u.to(grad.dtype), 0, 0, h)
        grad_c, grad_a, grad_u, before = _close(total, h, c, a_less_1, g)
        grad_c = tl.where(valid, grad_c, 0)
        grad_a = tl.where(valid, grad_a, 0)
        grad_u = tl.where(valid, grad_u, 0)
        _store_gates((grad_c, grad_a, grad_u), gates, step, unit, batch, hidden, exists)
        if packed:
            shift = shift ^ zero
            tl.debug_barrier()  # all have written their gradients
            x_c = gates + step * (3 * batch * hidden)
            terms = tl.zeros((16, block), grad.dtype)
            terms = _add_kept(terms, x_c, kept_c, hidden, shift, weight)
            terms = _add_streamed(terms, x_c, tiles, 5, 0, hidden, shift, weight, block)
            terms = _add_streamed(terms, x_c + hidden, tiles, 0, 1, hidden, shift, weight, block)
        else:
            terms = grad_c[:, None] * tile_c + grad_a[:, None] * tile_a
        grad = tl.where(valid, before + tl.sum(terms, axis=0), grad)
    tl.store(grad_state + unit, grad, mask=exists)


@triton.jit(do_not_specialize=["step", "first", "steps"])
def nbrc_forward_step(
    drive,
    feedback,
    state,
    narrow,
    output,
    lengths,
    step,
    first,
    steps,
    batch,
    hidden,
    block: tl.constexpr,
):
    """One step of the nBRC of large layers, for which ``feedback`` (B, 2H) is computed: h @ W.

    The state is also written to ``narrow``, of the tensors' own type, for the next product.
    """
    batch = tl.cast(batch, tl.int64)
    element, row, unit, column, exists = _columns(batch, hidden, block)
    length = _load_length(lengths, row, steps, exists)
    time = first + tl.cast(step, tl.int64)
    h = tl.load(state + element, mask=exists, other=0)
    c, a, u = _load_gates(drive, tl.cast(step, tl.int64), column, batch, hidden, exists)
    at = feedback + row * 2 * hidden + unit
    feedback_c = tl.load(at, mask=exists, other=0).to(h.dtype)
    feedback_a = tl.load(at + hidden, mask=exists, other=0).to(h.dtype)
    c, _, g = _open(c.to(h.dtype), a.to(h.dtype), u.to(h.dtype), feedback_c, feedback_a, h)
    valid = time < length
    h = tl.where(valid, c * h + (1 - c) * g, h)
    tl.store(state + element, h, mask=exists)
    tl.store(narrow + element, h, mask=exists)
    tl.store(output + time * (batch * hidden) + element, tl.where(valid, h, 0), mask=exists)


@triton.jit(do_not_specialize=["step", "first", "steps"])
def nbrc_backward_step(
    gates,
    feedback,
    states,
    grad_output,
    stride_t,
    stride_b,
    stride_h,
    grad_state,
    lengths,
    step,
    first,
    steps,
    batch,
    hidden,
    block: tl.constexpr,
):
    """The way back of :func:`nbrc_forward_step`.

    ``feedback`` (B, H) is what the step after this one adds to D through W: its own gradients of
    the arguments of c and a times W transposed.
    """
    batch = tl.cast(batch, tl.int64)
    element, row, unit, column, exists = _columns(batch, hidden, block)
    length = _load_length(lengths, row, steps, exists)
    step = tl.cast(step, tl.int64)
    time = first + step
    valid = exists & (time < length)
    grad = tl.load(grad_state + element, mask=exists, other=0)
    grad += tl.load(feedback + element, mask=exists, other=0).to(grad.dtype)
    total = grad
    if grad_output is not None:
        at = row * stride_b + unit * stride_h
        at_time = grad_output + time * stride_t + at
        total += tl.load(at_time, mask=valid, other=0).to(grad.dtype)
    h = tl.load(states + step * (batch * hidden) + element, mask=exists, other=0).to(grad.dtype)
    c, a, u = _load_gates(gates, step, column, batch, hidden, exists)
    c, a_less_1, g = _open(c.to(grad.dtype), a.to(grad.dtype), u.to(grad.dtype), 0, 0, h)
    grad_c, grad_a, grad_u, before = _close(total, h, c, a_less_1, g)
    grad_c = tl.where(valid, grad_c, 0)
    grad_a = tl.where(valid, grad_a, 0)
    grad_u = tl.where(valid, grad_u, 0)
    _store_gates((grad_c, grad_a, grad_u), gates, step, column, batch, hidden, exists)
    tl.store(grad_state + element, tl.where(valid, before, grad), mask=exists)
