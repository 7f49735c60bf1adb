"""An LSTM cell whose gates see the cell state."""

import math

import torch
from torch import Tensor, nn

from brc_pytorch import ops
from brc_pytorch.layers.checks import (
    check_broadcast,
    check_features,
    check_like,
    check_size,
)


class PeepholeLSTMCell(nn.Module):
    r"""An LSTM cell with peephole connections, in the place of :class:`torch.nn.LSTMCell`.

    .. math::
        f_t &= \sigma(x_t K_f + h_{t-1} M_f + c_{t-1} P_f + b_f) \\
        i_t &= \sigma(x_t K_i + h_{t-1} M_i + c_{t-1} P_i + b_i) \\
        g_t &= \tanh(x_t K_g + h_{t-1} M_g + b_g) \\
        c_t &= f_t \odot c_{t-1} + i_t \odot g_t \\
        o_t &= \sigma(x_t K_o + h_{t-1} M_o + c_t P_o + b_o) \\
        h_t &= o_t \odot \tanh(c_t)

    Source: Gers and Schmidhuber, "Recurrent nets that time and count", IJCNN 2000, section 3.
    There a gate sees only its own cell; here the peepholes are full matrices, as in brc-pytorch
    0.1.3.

    Args:
        input_size: I, the number of features of an input.
        hidden_size: H, the number of units.
        bias: False fixes b at zero. Default: True.
        device: where the parameters live. Default: torch's default device.
        dtype: their dtype. Default: torch's default dtype.

    Shapes:
        - data_t: (*, I), * any leading dimensions, none included.
        - hidden_state, cell_state: (*, H), zeros when not given; the leading dimensions broadcast.
        - output: h_t and c_t, each (*, H).

    Attributes:
        weights_x: K_f, K_i, K_g, K_o side by side, (I, 4H).
        weights_h: M_f, M_i, M_g, M_o side by side, (H, 4H).
        weights_c: P_f, P_i, P_o side by side, (H, 3H).
        bias: b_f, b_i, b_g, b_o side by side, (4H); with ``bias=False`` zeros that are neither
            trained nor saved. All parameters are drawn uniform in ±1/sqrt(H).

    Raises:
        TypeError: a size is no integer.
        ValueError: a size is below 1.

    Example:
        >>> import torch
        >>> from brc_pytorch import PeepholeLSTMCell
        >>> cell = PeepholeLSTMCell(10, 20)
        >>> h, c = cell(torch.randn(3, 10))
        >>> h, c = cell(torch.randn(3, 10), (h, c))
        >>> h, c = cell(torch.randn(3, 10), h, c)
        >>> h.shape
        torch.Size([3, 20])
    """

    bias: Tensor

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.input_size = check_size("input_size", input_size)
        self.hidden_size = check_size("hidden_size", hidden_size)

        def empty(*shape: int) -> Tensor:
            return torch.empty(shape, device=device, dtype=dtype)

        self.weights_x = nn.Parameter(empty(input_size, 4 * hidden_size))
        self.weights_h = nn.Parameter(empty(hidden_size, 4 * hidden_size))
        self.weights_c = nn.Parameter(empty(hidden_size, 3 * hidden_size))
        if bias:
            self.bias = nn.Parameter(empty(4 * hidden_size))
        else:
            self.register_buffer("bias", empty(4 * hidden_size).zero_(), persistent=False)
        self.reset_parameters()

    @property
    def state_size(self) -> tuple[int, int]:
        """(H, H): the state is a pair of tensors (B, H)."""
        return self.hidden_size, self.hidden_size

    def reset_parameters(self) -> None:
        """Draw all parameters anew, uniform in ±1/sqrt(H)."""
        bound = 1 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def init_hidden(self, batch_size: int) -> tuple[Tensor, Tensor]:
        """Zeros for h_0 and c_0, each (B, H), with the dtype and device of the parameters."""
        zeros = self.weights_h.new_zeros(batch_size, self.hidden_size)
        return zeros, zeros.clone()

    def forward(
        self,
        data_t: Tensor,
        hidden_state: Tensor | tuple[Tensor, Tensor] | None = None,
        cell_state: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """One step, as ``cell(x, (h, c))`` like torch's, or as ``cell(x, h, c)``.

        Args:
            data_t: x_t, (*, I).
            hidden_state: h_{t-1}, (*, H), or the pair (h_{t-1}, c_{t-1}). Default: zeros.
            cell_state: c_{t-1}, (*, H), where ``hidden_state`` is not a pair. Default: zeros.

        Returns:
            h_t and c_t, each (*, H).

        Raises:
            ValueError: an argument has the wrong shape, dtype or device, or the cell state comes
                twice or without the hidden state, or the hidden state without it.
        """
        check_features("data_t", data_t, self.input_size)
        check_like("data_t", data_t, "the parameters", self.weights_x)
        if isinstance(hidden_state, tuple | list):
            if cell_state is not None:
                raise ValueError("cell_state: expected none beside the pair (h, c), got a second")
            hidden, cell = hidden_state
        elif hidden_state is not None and cell_state is not None:
            hidden, cell = hidden_state, cell_state
        elif hidden_state is None and cell_state is None:
            hidden = cell = data_t.new_zeros(*data_t.shape[:-1], self.hidden_size)
        else:
            missing = "hidden_state" if hidden_state is None else "cell_state"
            raise ValueError(f"{missing}: expected both states or neither, got one alone")
        for name, state in (("hidden_state", hidden), ("cell_state", cell)):
            check_features(name, state, self.hidden_size)
            check_like(name, state, "data_t", data_t)
            check_broadcast(name, state, "data_t", data_t)
        return ops.peephole_lstm_step(
            data_t, (hidden, cell), self.weights_x, self.weights_h, self.weights_c, self.bias
        )

    def extra_repr(self) -> str:
        """Sizes, as torch's cells show them."""
        bias = "" if isinstance(self.bias, nn.Parameter) else ", bias=False"
        return f"{self.input_size}, {self.hidden_size}{bias}"
