"""The recurrences, each defined once, in plain PyTorch.

Everything else in the package either calls these functions or is tested against them. They run on
any device and floating-point dtype and are differentiable as often as one likes.

Symbols: T time, B batch, I input size, H hidden size, ``*`` any leading dimensions that broadcast.
The parameters of one layer are stacked once a call, gates side by side along the last dimension in
the order c (update), a (feedback), candidate:

- ``kernel`` (I, 3H): U_c, U_a, U;
- ``memory`` (2H) in the BRC: w_c, w_a; (H, 2H) in the nBRC: W_c, W_a, used as h @ W;
- ``bias`` (2H): b_c, b_a. The paper's candidate has none; for comparison with implementations that
  have one, (3H) adds it.

Those of the GRU (gates r, z, n) and the LSTM (i, f, g, o) are torch's, transposed:

- ``kernel`` (I, 3H) or (I, 4H): ``weight_ih.T``;
- ``memory`` (H, 3H) or (H, 4H): ``weight_hh.T``, used as h @ W;
- ``bias`` (6H) or (8H): ``bias_ih`` and ``bias_hh`` side by side.

Source of the bistable cells: Vecoven, Ernst and Drion, "A bio-inspired bistable recurrent cell
allows for long-lasting memory", PLOS ONE 16(6), 2021, section "Bistable recurrent cells" (arXiv
2006.05252).
"""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's name for it

Feedback = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
StateT = TypeVar("StateT", Tensor, tuple[Tensor, ...])


def _brc_feedback(state: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    """R_c(h) and R_a(h) of the BRC: w * h, a unit sees only itself. Shapes (*, H), (2H)."""
    w_c, w_a = memory.chunk(2, dim=-1)
    return w_c * state, w_a * state


def _nbrc_feedback(state: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    """R_c(h) and R_a(h) of the nBRC: h @ W, a unit sees its layer. Shapes (*, H), (H, 2H)."""
    feedback_c, feedback_a = (state @ memory).chunk(2, dim=-1)
    return feedback_c, feedback_a


def project(
    input: Tensor,
    kernel: Tensor,
    memory: Tensor,  # noqa: ARG001 - takes all parameters of a bistable cell
    bias: Tensor | None = None,
) -> Tensor:
    """What the input contributes: U_c x + b_c, U_a x + b_a and U x side by side, (*, 3H)."""
    projected = input @ kernel
    if bias is None:
        return projected
    return projected + F.pad(bias, (0, kernel.shape[-1] - bias.shape[-1]))


def _gates(
    projected: Tensor, state: Tensor, memory: Tensor, feedback: Feedback
) -> tuple[Tensor, Tensor]:
    input_c, input_a, _ = projected.chunk(3, dim=-1)
    feedback_c, feedback_a = feedback(state, memory)
    return 1 + torch.tanh(input_a + feedback_a), torch.sigmoid(input_c + feedback_c)


def _update(projected: Tensor, state: Tensor, memory: Tensor, feedback: Feedback) -> Tensor:
    a, c = _gates(projected, state, memory, feedback)
    candidate = torch.tanh(projected.chunk(3, dim=-1)[2] + a * state)
    return c * state + (1 - c) * candidate


def brc_update(
    projected: Tensor,
    state: Tensor,
    kernel: Tensor,  # noqa: ARG001 - as for project
    memory: Tensor,
    bias: Tensor | None = None,  # noqa: ARG001
) -> Tensor:
    """The BRC's h_t from what :func:`project` made of x_t, and h_{t-1}."""
    return _update(projected, state, memory, _brc_feedback)


def nbrc_update(
    projected: Tensor,
    state: Tensor,
    kernel: Tensor,  # noqa: ARG001 - as for project
    memory: Tensor,
    bias: Tensor | None = None,  # noqa: ARG001
) -> Tensor:
    """The nBRC's h_t from what :func:`project` made of x_t, and h_{t-1}."""
    return _update(projected, state, memory, _nbrc_feedback)


def mask_padding(input: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Zero the padding, for it may hold anything, NaN included, and must not reach a gradient.

    Args:
        input: (T, B, *).
        lengths: how many steps of each row are data, (B) integers, or None for all.

    Returns:
        The input, zero from each row's end on, and which of its steps are data, (T, B, 1), or None
        for all.
    """
    if lengths is None:
        return input, None
    valid = are_data(input, lengths)
    return torch.where(valid, input, 0), valid


def are_data(input: Tensor, lengths: Tensor) -> Tensor:
    """Which steps of each row of an input (T, B, *) are data, (T, B, 1) booleans."""
    steps = torch.arange(input.shape[0], device=input.device)
    return (steps.unsqueeze(1) < lengths.to(input.device)).unsqueeze(-1)


def begin_anew(resets: Tensor, valid: Tensor | None, reverse: bool) -> Tensor:
    """Which steps start from the reset state, since they are their segment's first to be taken.

    Args:
        resets: where segments begin, (T, B) booleans.
        valid: which steps are data, (T, B, 1), or None for all.
        reverse: go from the last step to the first: a segment starts at its own last step.

    Returns:
        (T, B, 1) booleans.
    """
    begins = resets.unsqueeze(-1)
    if valid is not None:
        begins = begins & valid
    return torch.cat((begins[1:], torch.zeros_like(begins[:1]))) if reverse else begins


def states_before(
    output: Tensor,
    state: Tensor,
    valid: Tensor | None,
    reverse: bool,
    resets: Tensor | None = None,
    reset_state: Tensor | None = None,
) -> Tensor:
    """The state that every step of a sequence started from.

    Args:
        output: the states after the steps, (T, B, H).
        state: the one before the first, (B, H).
        valid: which steps are data, (T, B, 1), or None for all.
        reverse: whether the steps were taken from each row's last to its first.
        resets: where segments begin, (T, B) booleans, or None for one of all steps.
        reset_state: the state that segments start from, (B, H), None for zero.

    Returns:
        (T, B, H), anything where a row has ended.
    """
    if not reverse:
        before = torch.cat((state.unsqueeze(0), output[:-1]))
    else:
        before = torch.cat((output[1:], state.unsqueeze(0)))
        if valid is not None:
            # The step after a row's last is padding: the row came in there with h_0.
            going_on = torch.cat((valid[1:], valid.new_ones(1, *valid.shape[1:])))
            before = torch.where(going_on, before, state)
    if resets is None:
        return before
    anew = begin_anew(resets, valid, reverse)
    return torch.where(anew, 0 if reset_state is None else reset_state, before)


def loop(
    step: Callable[[Tensor, StateT], StateT],
    input: Tensor,
    state: StateT,
    valid: Tensor | None,
    reverse: bool,
    resets: Tensor | None = None,
    reset_state: StateT | None = None,
) -> tuple[Tensor, StateT]:
    """Run ``state = step(input[t], state)`` over time.

    Args:
        step: one step of a cell; its state is one tensor (B, H), or a tuple of these, hidden first.
        input: (T, B, *).
        state: the state before the first step.
        valid: which steps are data, (T, B, 1), or None for all; a state passes the others by.
        reverse: go from the last step to the first.
        resets: where segments begin, (T, B) booleans, or None for one of all steps.
        reset_state: the state that all segments but the first to be taken start from, None for
            zero.

    Returns:
        The hidden states (T, B, H), zero where a step is not data, and the last state.
    """
    # Indexing the tensor instead would make backward quadratic in T.
    inputs = input.unbind(0)
    outputs = list(inputs)
    order = range(len(inputs))
    goes_on = None if resets is None else ~begin_anew(resets, valid, reverse)
    for t in reversed(order) if reverse else order:
        if goes_on is not None:
            state = _where(goes_on[t], state, reset_state)
        if valid is None:
            state = step(inputs[t], state)
        else:
            # A row without data here steps from zero, and drops that: an infinite state of its own
            # would come back as NaN from the derivatives of a step that does not count.
            updated = step(inputs[t], _where(valid[t], state, None))
            state = _where(valid[t], updated, state)
        outputs[t] = state if isinstance(state, Tensor) else state[0]
    output = torch.stack(outputs)
    return output if valid is None else torch.where(valid, output, 0), state


def _where(valid: Tensor, updated: StateT, state: StateT | None) -> StateT:
    """The one or the other, row by row; None is zero."""
    if isinstance(updated, Tensor):
        return torch.where(valid, updated, 0 if state is None else state)
    if state is None:
        return tuple(torch.where(valid, new, 0) for new in updated)
    return tuple(torch.where(valid, new, old) for new, old in zip(updated, state, strict=True))


def brc_step(
    input: Tensor,
    state: Tensor,
    kernel: Tensor,
    memory: Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    r"""One step of the bistable recurrent cell (BRC).

    .. math::
        a_t &= 1 + \tanh(U_a x_t + w_a \odot h_{t-1} + b_a) \\
        c_t &= \sigma(U_c x_t + w_c \odot h_{t-1} + b_c) \\
        h_t &= c_t \odot h_{t-1} + (1 - c_t) \odot \tanh(U x_t + a_t \odot h_{t-1})

    Args:
        input: x_t, (*, I).
        state: h_{t-1}, (*, H).
        kernel: U_c, U_a, U side by side, (I, 3H).
        memory: w_c, w_a side by side, (2H).
        bias: b_c, b_a side by side, (2H), or with a candidate's (3H), or None for none.

    Returns:
        h_t, (*, H).
    """
    return _update(project(input, kernel, memory, bias), state, memory, _brc_feedback)


def nbrc_step(
    input: Tensor,
    state: Tensor,
    kernel: Tensor,
    memory: Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    r"""One step of the neuromodulated bistable recurrent cell (nBRC).

    .. math::
        a_t &= 1 + \tanh(U_a x_t + h_{t-1} W_a + b_a) \\
        c_t &= \sigma(U_c x_t + h_{t-1} W_c + b_c) \\
        h_t &= c_t \odot h_{t-1} + (1 - c_t) \odot \tanh(U x_t + a_t \odot h_{t-1})

    Args:
        input: x_t, (*, I).
        state: h_{t-1}, (*, H).
        kernel: U_c, U_a, U side by side, (I, 3H).
        memory: W_c, W_a side by side, (H, 2H).
        bias: b_c, b_a side by side, (2H), or with a candidate's (3H), or None for none.

    Returns:
        h_t, (*, H).
    """
    return _update(project(input, kernel, memory, bias), state, memory, _nbrc_feedback)


def brc_gates(
    input: Tensor,
    state: Tensor,
    kernel: Tensor,
    memory: Tensor,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The gates (a_t, c_t) of the BRC at the given inputs and previous states.

    Nothing is scanned again: for a whole sequence, give the inputs (T, B, I) and the outputs
    shifted by one step, h_0 to h_{T-1}, (T, B, H).

    Args:
        input: x_t, (*, I).
        state: h_{t-1}, (*, H).
        kernel: U_c, U_a, U side by side, (I, 3H).
        memory: w_c, w_a side by side, (2H).
        bias: b_c, b_a side by side, (2H), or with a candidate's (3H), or None for none.

    Returns:
        The feedback strength a_t in (0, 2), bistable above 1, and the update gate c_t in (0, 1),
        both (*, H).
    """
    return _gates(project(input, kernel, memory, bias), state, memory, _brc_feedback)


def nbrc_gates(
    input: Tensor,
    state: Tensor,
    kernel: Tensor,
    memory: Tensor,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The gates (a_t, c_t) of the nBRC: :func:`brc_gates` with memory W_c, W_a, (H, 2H)."""
    return _gates(project(input, kernel, memory, bias), state, memory, _nbrc_feedback)


def torch_project(
    input: Tensor,
    kernel: Tensor,
    memory: Tensor,  # noqa: ARG001 - as for project
    bias: Tensor | None = None,
) -> Tensor:
    """What the input contributes to a GRU or LSTM: W x + b_ih, gates side by side, (*, G * H)."""
    projected = input @ kernel
    return projected if bias is None else projected + bias.chunk(2)[0]


def _recalled(state: Tensor, memory: Tensor, bias: Tensor | None) -> Tensor:
    """What the state contributes to a GRU or LSTM: W h + b_hh, gates side by side, (*, G * H)."""
    recalled = state @ memory
    return recalled if bias is None else recalled + bias.chunk(2)[1]


def gru_update(
    projected: Tensor,
    state: Tensor,
    kernel: Tensor,  # noqa: ARG001 - as for project
    memory: Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    """The GRU's h_t from what :func:`torch_project` made of x_t, and h_{t-1}."""
    input_r, input_z, input_n = projected.chunk(3, dim=-1)
    state_r, state_z, state_n = _recalled(state, memory, bias).chunk(3, dim=-1)
    r, z = torch.sigmoid(input_r + state_r), torch.sigmoid(input_z + state_z)
    n = torch.tanh(input_n + r * state_n)
    return (1 - z) * n + z * state


def lstm_update(
    projected: Tensor,
    state: tuple[Tensor, Tensor],
    kernel: Tensor,  # noqa: ARG001 - as for project
    memory: Tensor,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The LSTM's h_t and c_t from what :func:`torch_project` made of x_t, h_{t-1} and c_{t-1}."""
    hidden, cell = state
    i, f, g, o = (projected + _recalled(hidden, memory, bias)).chunk(4, dim=-1)
    cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(cell), cell


def peephole_lstm_step(
    input: Tensor,
    state: tuple[Tensor, Tensor],
    kernel: Tensor,
    memory: Tensor,
    peephole: Tensor,
    bias: Tensor,
) -> tuple[Tensor, Tensor]:
    r"""One step of an LSTM whose gates see the cell state through full matrices.

    .. math::
        f_t &= \sigma(x_t K_f + h_{t-1} M_f + c_{t-1} P_f + b_f) \\
        i_t &= \sigma(x_t K_i + h_{t-1} M_i + c_{t-1} P_i + b_i) \\
        g_t &= \tanh(x_t K_g + h_{t-1} M_g + b_g) \\
        c_t &= f_t \odot c_{t-1} + i_t \odot g_t \\
        o_t &= \sigma(x_t K_o + h_{t-1} M_o + c_t P_o + b_o) \\
        h_t &= o_t \odot \tanh(c_t)

    Source: Gers and Schmidhuber, "Recurrent nets that time and count", IJCNN 2000, section 3;
    there a gate sees only its own cell (P diagonal), here all cells of the layer.

    Args:
        input: x_t, (*, I).
        state: h_{t-1} and c_{t-1}, each (*, H).
        kernel: K_f, K_i, K_g, K_o side by side, (I, 4H).
        memory: M_f, M_i, M_g, M_o side by side, (H, 4H).
        peephole: P_f, P_i, P_o side by side, (H, 3H).
        bias: b_f, b_i, b_g, b_o side by side, (4H).

    Returns:
        h_t and c_t, each (*, H).
    """
    hidden, cell = state
    size = memory.shape[0]
    sum_f, sum_i, sum_g, sum_o = (input @ kernel + hidden @ memory + bias).chunk(4, dim=-1)
    peephole_f, peephole_i = (cell @ peephole[:, : 2 * size]).chunk(2, dim=-1)
    forget = torch.sigmoid(sum_f + peephole_f)
    write = torch.sigmoid(sum_i + peephole_i)
    cell = forget * cell + write * torch.tanh(sum_g)
    out = torch.sigmoid(sum_o + cell @ peephole[:, 2 * size :])
    return out * torch.tanh(cell), cell
