"""The recurrences as functions of tensors, one each."""

from torch import Tensor

from brc_pytorch.ops.entry import scan


def _of_one_state(
    recurrence: str,
    input: Tensor,
    h_0: Tensor,
    kernel: Tensor,
    memory: Tensor,
    bias: Tensor | None,
    lengths: Tensor | None,
    reverse: bool,
    resets: Tensor | None,
    reset_state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    parameters = (kernel, memory) if bias is None else (kernel, memory, bias)
    options = lengths, reverse, resets, None if reset_state is None else (reset_state,)
    output, (last,) = scan(recurrence, input, (h_0,), parameters, *options)
    return output, last


def brc(
    input: Tensor,
    h_0: Tensor,
    kernel: Tensor,
    memory: Tensor,
    bias: Tensor | None = None,
    *,
    lengths: Tensor | None = None,
    reverse: bool = False,
    resets: Tensor | None = None,
    reset_state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    r"""The bistable recurrent cell (BRC) over a sequence.

    .. math::
        a_t &= 1 + \tanh(U_a x_t + w_a \odot h_{t-1} + b_a) \\
        c_t &= \sigma(U_c x_t + w_c \odot h_{t-1} + b_c) \\
        h_t &= c_t \odot h_{t-1} + (1 - c_t) \odot \tanh(U x_t + a_t \odot h_{t-1})

    Args:
        input: x_1 to x_T, (T, B, I), T > 0.
        h_0: the state before the first step, (B, H).
        kernel: U_c, U_a, U side by side, (I, 3H).
        memory: w_c, w_a side by side, (2H).
        bias: b_c, b_a side by side, (2H), or with a candidate's (3H). Default: none.
        lengths: how many steps of each row are data, (B), integers from 0 to T; a value outside
            counts as the nearest of these. Default: all T.
        reverse: go from each row's last step to its first. Default: False.
        resets: where segments begin that know nothing of the steps before, (T, B) booleans: True at
            step t starts it from ``reset_state`` instead of from h_{t-1}. In reverse it is step
            t - 1 that starts so, the last of its segment. Default: one segment of all steps.
        reset_state: the state that such segments start from, (B, H). Default: zero.

    Returns:
        The output sequence (T, B, H), h_t standing where x_t stood, zero where a row has ended; and
        the last states (B, H), each row's own (its h_0 where it has no steps).

    Raises:
        ValueError: a tensor has the wrong shape, dtype (outside autocast) or device.
        RuntimeError: the backend asked for by name cannot run on this device.

    Source: Vecoven, Ernst and Drion, PLOS ONE 2021, section "Bistable recurrent cells".
    """
    options = lengths, reverse, resets, reset_state
    return _of_one_state("brc", input, h_0, kernel, memory, bias, *options)


def nbrc(
    input: Tensor,
    h_0: Tensor,
    kernel: Tensor,
    memory: Tensor,
    bias: Tensor | None = None,
    *,
    lengths: Tensor | None = None,
    reverse: bool = False,
    resets: Tensor | None = None,
    reset_state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    r"""The neuromodulated bistable recurrent cell (nBRC) over a sequence.

    .. math::
        a_t &= 1 + \tanh(U_a x_t + h_{t-1} W_a + b_a) \\
        c_t &= \sigma(U_c x_t + h_{t-1} W_c + b_c) \\
        h_t &= c_t \odot h_{t-1} + (1 - c_t) \odot \tanh(U x_t + a_t \odot h_{t-1})

    Args:
        input: x_1 to x_T, (T, B, I), T > 0.
        h_0: the state before the first step, (B, H).
        kernel: U_c, U_a, U side by side, (I, 3H).
        memory: W_c, W_a side by side, (H, 2H), used as h @ W.
        bias: b_c, b_a side by side, (2H), or with a candidate's (3H). Default: none.
        lengths: how many steps of each row are data, (B), integers from 0 to T; a value outside
            counts as the nearest of these. Default: all T.
        reverse: go from each row's last step to its first. Default: False.
        resets: where segments begin that know nothing of the steps before, (T, B) booleans: True at
            step t starts it from ``reset_state`` instead of from h_{t-1}. In reverse it is step
            t - 1 that starts so, the last of its segment. Default: one segment of all steps.
        reset_state: the state that such segments start from, (B, H). Default: zero.

    Returns:
        The output sequence (T, B, H), h_t standing where x_t stood, zero where a row has ended; and
        the last states (B, H), each row's own (its h_0 where it has no steps).

    Raises:
        ValueError: a tensor has the wrong shape, dtype (outside autocast) or device.
        RuntimeError: the backend asked for by name cannot run on this device.

    Source: Vecoven, Ernst and Drion, PLOS ONE 2021, section "Bistable recurrent cells".
    """
    options = lengths, reverse, resets, reset_state
    return _of_one_state("nbrc", input, h_0, kernel, memory, bias, *options)


def gru(
    input: Tensor,
    h_0: Tensor,
    kernel: Tensor,
    memory: Tensor,
    bias: Tensor | None = None,
    *,
    lengths: Tensor | None = None,
    reverse: bool = False,
    resets: Tensor | None = None,
    reset_state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    r"""The gated recurrent unit (GRU) over a sequence, with the equations of :class:`torch.nn.GRU`.

    .. math::
        r_t &= \sigma(W_{ir} x_t + b_{ir} + W_{hr} h_{t-1} + b_{hr}) \\
        z_t &= \sigma(W_{iz} x_t + b_{iz} + W_{hz} h_{t-1} + b_{hz}) \\
        n_t &= \tanh(W_{in} x_t + b_{in} + r_t \odot (W_{hn} h_{t-1} + b_{hn})) \\
        h_t &= (1 - z_t) \odot n_t + z_t \odot h_{t-1}

    Args:
        input: x_1 to x_T, (T, B, I), T > 0.
        h_0: the state before the first step, (B, H).
        kernel: W_ir, W_iz, W_in, transposed, side by side, (I, 3H): torch's ``weight_ih.T``.
        memory: W_hr, W_hz, W_hn, transposed, side by side, (H, 3H): torch's ``weight_hh.T``.
        bias: b_ir, b_iz, b_in, b_hr, b_hz, b_hn side by side, (6H). Default: none.
        lengths: as for :func:`brc`.
        reverse: as for :func:`brc`.
        resets: as for :func:`brc`.
        reset_state: as for :func:`brc`.

    Returns:
        As :func:`brc` does.

    Raises:
        ValueError: a tensor has the wrong shape, dtype (outside autocast) or device.
        RuntimeError: the backend asked for by name cannot run on this device.

    Source: Cho et al., EMNLP 2014, section 2.3; with torch's place of r_t, behind the product.
    """
    options = lengths, reverse, resets, reset_state
    return _of_one_state("gru", input, h_0, kernel, memory, bias, *options)


def lstm(
    input: Tensor,
    states: tuple[Tensor, Tensor],
    kernel: Tensor,
    memory: Tensor,
    bias: Tensor | None = None,
    *,
    lengths: Tensor | None = None,
    reverse: bool = False,
    resets: Tensor | None = None,
    reset_states: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    r"""The long short-term memory (LSTM) over a sequence, with :class:`torch.nn.LSTM`'s equations.

    .. math::
        i_t &= \sigma(W_{ii} x_t + b_{ii} + W_{hi} h_{t-1} + b_{hi}) \\
        f_t &= \sigma(W_{if} x_t + b_{if} + W_{hf} h_{t-1} + b_{hf}) \\
        g_t &= \tanh(W_{ig} x_t + b_{ig} + W_{hg} h_{t-1} + b_{hg}) \\
        o_t &= \sigma(W_{io} x_t + b_{io} + W_{ho} h_{t-1} + b_{ho}) \\
        c_t &= f_t \odot c_{t-1} + i_t \odot g_t \\
        h_t &= o_t \odot \tanh(c_t)

    Args:
        input: x_1 to x_T, (T, B, I), T > 0.
        states: h_0 and c_0, the states before the first step, each (B, H).
        kernel: W_ii, W_if, W_ig, W_io, transposed, side by side, (I, 4H): torch's ``weight_ih.T``.
        memory: W_hi, W_hf, W_hg, W_ho, transposed, side by side, (H, 4H): ``weight_hh.T``.
        bias: b_ii, b_if, b_ig, b_io, b_hi, b_hf, b_hg, b_ho side by side, (8H). Default: none.
        lengths: as for :func:`brc`.
        reverse: as for :func:`brc`.
        resets: as for :func:`brc`.
        reset_states: the h and c that segments start from, each (B, H). Default: zero.

    Returns:
        The output sequence (T, B, H), as :func:`brc` returns it; and the last states h and c, each
        (B, H), each row's own.

    Raises:
        ValueError: a tensor has the wrong shape, dtype (outside autocast) or device.
        RuntimeError: the backend asked for by name cannot run on this device.

    Source: Hochreiter and Schmidhuber, Neural Computation 9(8), 1997, with the forget gate of
    Gers, Schmidhuber and Cummins, Neural Computation 12(10), 2000.
    """
    parameters = (kernel, memory) if bias is None else (kernel, memory, bias)
    options = lengths, reverse, resets, reset_states
    output, (h_n, c_n) = scan("lstm", input, states, parameters, *options)
    return output, (h_n, c_n)
