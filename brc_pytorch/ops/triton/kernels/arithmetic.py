"""What the kernels share: the gates, their derivatives, and where things lie in memory."""

# mypy: ignore-errors
# Triton compiles the functions below: their arguments' types are those of each launch.

import triton
import triton.language as tl


@triton.jit
def sigmoid(x):
    """1 / (1 + e^-x)."""
    return 1 / (1 + tl.exp(-x))


@triton.jit
def tanh(x):
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
def gates_of(argument_c, argument_a, argument_u, feedback_c, feedback_a, h):
    """The gates c and a - 1, and the candidate."""
    c = sigmoid(argument_c + feedback_c)
    a_less_1 = tanh(argument_a + feedback_a)
    return c, a_less_1, tanh(argument_u + (h + a_less_1 * h))


@triton.jit
def differentiate(grad, h, c, a_less_1, g):
    """D's way back: the gradients of the arguments of c, a and g, and of h but for R's part."""
    grad_u = grad * (1 - c) * (1 - g * g)
    grad_a = grad_u * h * (1 - a_less_1 * a_less_1)
    grad_c = grad * c * (1 - c) * (h - g)
    return grad_c, grad_a, grad_u, grad * c + (grad_u + grad_u * a_less_1)


@triton.jit
def step_at(position, count, reverse: tl.constexpr):
    """Which of the steps is walked at a position."""
    step = position
    if reverse:
        step = count - 1 - position
    return tl.cast(step, tl.int64)


@triton.jit
def load_arguments(arguments, step, column, batch, hidden, mask):
    """The three gates' arguments at a step, at the columns ``row * 3 * hidden + unit``."""
    at = arguments + step * (3 * batch * hidden) + column
    c = tl.load(at, mask=mask, other=0)
    a = tl.load(at + hidden, mask=mask, other=0)
    return c, a, tl.load(at + 2 * hidden, mask=mask, other=0)


@triton.jit
def load_bias(bias, biases, unit, hidden, mask, dtype: tl.constexpr):
    """The biases of the three gates: of all, of c and a, or of none."""
    if bias is None:
        c = tl.zeros(unit.shape, dtype)
        a = c
        u = c
    else:
        c = tl.load(bias + unit, mask=mask, other=0).to(dtype)
        a = tl.load(bias + hidden + unit, mask=mask, other=0).to(dtype)
        at = 2 * hidden + unit
        u = tl.load(bias + at, mask=mask & (at < biases), other=0).to(dtype)
    return c, a, u


@triton.jit
def load_wide_bias(bias, column, mask, dtype: tl.constexpr):
    """The biases of c and a side by side, at columns of 2H."""
    if bias is None:
        both = tl.zeros(column.shape, dtype)
    else:
        both = tl.load(bias + column, mask=mask, other=0).to(dtype)
    return both


@triton.jit
def add_bias(arguments, biases, dtype: tl.constexpr):
    """The three gates' arguments with their biases, in the type that is computed in."""
    c, a, u = arguments
    b_c, b_a, b_u = biases
    return c.to(dtype) + b_c, a.to(dtype) + b_a, u.to(dtype) + b_u


@triton.jit
def store_arguments(values, arguments, step, column, batch, hidden, mask):
    """The reverse of :func:`load_arguments`."""
    c, a, u = values
    at = arguments + step * (3 * batch * hidden) + column
    tl.store(at, c, mask=mask)
    tl.store(at + hidden, a, mask=mask)
    tl.store(at + 2 * hidden, u, mask=mask)


@triton.jit
def load_length(lengths, row, steps, mask):
    """The rows' lengths, of the type that a time is compared with."""
    if lengths is None:
        length = steps + tl.zeros_like(row)
    else:
        length = tl.load(lengths + row, mask=mask, other=0)
    return length


@triton.jit
def load_reset(reset_state, element, mask):
    """The state that segments start from, of the type that it has, or zero."""
    if reset_state is None:
        state = tl.zeros(element.shape, tl.float32)
    else:
        state = tl.load(reset_state + element, mask=mask, other=0)
    return state


@triton.jit
def load_begins(anew, at, mask):
    """Which of the rows start from the reset state; ``at`` are their places in (T, B)."""
    return mask & False if anew is None else tl.load(anew + at, mask=mask, other=0) != 0


@triton.jit
def divert(grad, begins, grad_reset, element, once):
    """Add to the reset state's gradient what has come back to it, and take that from ``grad``.

    ``once`` is one of the places of each element, if it has several.
    """
    if grad_reset is not None:
        at = grad_reset + element
        adds = begins & once
        tl.store(at, tl.load(at, mask=adds, other=0) + grad, mask=adds)
    return tl.where(begins, 0, grad)


@triton.jit
def below(condition, element, count):
    """Which elements are below ``count``, all of it under a condition on the whole program."""
    return element < tl.where(condition, count, 0)


@triton.jit
def columns_of(batch, hidden, block: tl.constexpr):
    """A program's columns of (B, H): rows, units, where they begin in (B, 3H), which exist."""
    element = tl.cast(tl.program_id(0), tl.int64) * block + tl.arange(0, block)
    row = element // hidden
    unit = element % hidden
    return element, row, unit, row * 3 * hidden + unit, element < batch * hidden


@triton.jit
def wide_units(hidden, block: tl.constexpr, wide: tl.constexpr):
    """The units of a vector of both gates, its places among 2H columns, which exist."""
    place = tl.arange(0, wide)
    unit = place % block
    return unit, (place // block) * hidden + unit, unit < hidden


@triton.jit
def _add_pairs(left_0, left_1, right_0, right_1):
    return left_0 + right_0, left_1 + right_1


@triton.jit
def halves(x, is_first, shape: tl.constexpr, axis: tl.constexpr):
    """What belongs to each of two gates that lie side by side, which ``shape`` has at ``axis``.

    A sum of one value and of zero: the compiler would let each thread repeat what leads to a mere
    choice, all that follows it included.
    """
    first = tl.reshape(tl.where(is_first, x, 0), shape)
    second = tl.reshape(tl.where(is_first, 0, x), shape)
    return tl.reduce((first, second), axis, _add_pairs)
