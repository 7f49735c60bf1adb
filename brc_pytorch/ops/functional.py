"""The recurrences as functions of tensors, one each."""

from torch import Tensor

from brc_pytorch.ops.operator import scan


def _bistable(
    recurrence: str,
    input: Tensor,
    h_0: Tensor,
    kernel: Tensor,
    memory: Tensor,
    bias: Tensor | None,
    lengths: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    parameters = (kernel, memory) if bias is None else (kernel, memory, bias)
    output, (last,) = scan(recurrence, input, (h_0,), parameters, lengths, reverse)
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

    Returns:
        The output sequence (T, B, H), h_t standing where x_t stood, zero where a row has ended; and
        the last states (B, H), each row's own (its h_0 where it has no steps).

    Raises:
        ValueError: a tensor has the wrong shape, dtype (outside autocast) or device.
        RuntimeError: the backend asked for by name cannot run on this device.

    Source: Vecoven, Ernst and Drion, PLOS ONE 2021, section "Bistable recurrent cells".
    """
    return _bistable("brc", input, h_0, kernel, memory, bias, lengths, reverse)


def nbrc(
    input: Tensor,
    h_0: Tensor,
    kernel: Tensor,
    memory: Tensor,
    bias: Tensor | None = None,
    *,
    lengths: Tensor | None = None,
    reverse: bool = False,
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

    Returns:
        The output sequence (T, B, H), h_t standing where x_t stood, zero where a row has ended; and
        the last states (B, H), each row's own (its h_0 where it has no steps).

    Raises:
        ValueError: a tensor has the wrong shape, dtype (outside autocast) or device.
        RuntimeError: the backend asked for by name cannot run on this device.

    Source: Vecoven, Ernst and Drion, PLOS ONE 2021, section "Bistable recurrent cells".
    """
    return _bistable("nbrc", input, h_0, kernel, memory, bias, lengths, reverse)
