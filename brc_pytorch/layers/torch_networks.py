"""GRU and LSTM: torch's networks, run by the kernels that run the bistable ones."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from brc_pytorch.layers.form import Input, State
from brc_pytorch.layers.rnn import WORDS
from brc_pytorch.layers.stack import CellPass, Stack
from brc_pytorch.layers.torch_cells import TorchCell, run_by_torch
from brc_pytorch.ops.backends import kernels_compute


class TorchNetwork(Stack, nn.RNNBase):
    """What GRU and LSTM share: torch's parameters, and the way of all networks of cells."""

    _mode: str
    _recurrence: str
    _kernel: Callable[..., Any]
    input_size: int

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if proj_size != 0:
            raise ValueError(
                f"proj_size: expected 0, got {proj_size}; nn.LSTM has projections, these kernels "
                "have none"
            )
        nn.RNNBase.__init__(
            self,
            self._mode,
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            device=device,
            dtype=dtype,
        )
        self.layers = num_layers
        self.num_directions = 2 if bidirectional else 1
        self.return_seq = True

    @property
    def cells(self) -> list[TorchCell]:  # type: ignore[override]  # seen so, from the parameters
        """Layer 0 forward, layer 0 backward, layer 1 forward, ..."""
        own: dict[str, Any] = self._parameters  # for getattr looks here last
        return [
            TorchCell(
                self._kernel,
                self._recurrence,
                [own[name] if name in own else getattr(self, name) for name in names],
                self.training,
            )
            for names in self._all_weights
        ]

    def forward(
        self, input: Input, hx: State | None = None, *, resets: Input | None = None
    ) -> tuple[Any, Any]:
        """Run the network.

        Args:
            input: (T, B, I), or (B, T, I) with ``batch_first=True``, or (T, I) for one sequence, or
                a packed sequence.
            hx: the states before the first step, each (num_layers * directions, B, H), without B
                for one sequence: a GRU's h_0, an LSTM's pair (h_0, c_0). Default: zeros.
            resets: where segments begin that know nothing of the steps before, booleans in the form
                of the input without its features, as for :meth:`brc_pytorch.NBRC.forward`. Torch's
                kernels know none: where ours cannot run, the network goes step by step. Default:
                one segment of all steps.

        Returns:
            The output, in the form of the input: the last layer's hidden states at every step,
            (T, B, directions * H); and the last states of all layers and directions, like ``hx``.

        Raises:
            TypeError: the resets are not of the input's form.
            ValueError: the input has the wrong rank or dtype, or the resets do not fit it.
            RuntimeError: an argument has the wrong shape.
        """
        output, last = self._run(input, hx, resets)
        return output, last

    def _run_one_by_one(
        self,
        cells: Sequence[Any],
        input: Tensor,
        state: State,
        lengths: Tensor | None,
        resets: Tensor | None,
        passes: list[CellPass] | None = None,
    ) -> tuple[Tensor, State]:
        """Run all cells by one of torch's kernels where ours cannot."""
        is_known_to_torch = passes is None and resets is None
        if not is_known_to_torch or kernels_compute(self._recurrence, input):
            return super()._run_one_by_one(cells, input, state, lengths, resets, passes)
        weights = [weight for cell in cells for weight in cell.weights]
        options = self.bias, self.layers, self.dropout, self.training, self.bidirectional
        return run_by_torch(self._kernel, weights, options, input, state, lengths)


class GRU(TorchNetwork):
    r"""Gated recurrent units (GRU): :class:`torch.nn.GRU` by the kernels of the bistable cells.

    .. math::
        r_t &= \sigma(W_{ir} x_t + b_{ir} + W_{hr} h_{t-1} + b_{hr}) \\
        z_t &= \sigma(W_{iz} x_t + b_{iz} + W_{hz} h_{t-1} + b_{hz}) \\
        n_t &= \tanh(W_{in} x_t + b_{in} + r_t \odot (W_{hn} h_{t-1} + b_{hn})) \\
        h_t &= (1 - z_t) \odot n_t + z_t \odot h_{t-1}

    In layers above the first, x_t is the output of the layer below. Parameters, their names and
    initial values are torch's: each of the two loads what the other has saved, and their results
    agree to rounding. On a CPU, float32 and float64 run in the kernels that run
    :class:`~brc_pytorch.NBRC`; other devices and dtypes in torch's own.

    Source: Cho et al., EMNLP 2014, section 2.3, with torch's place of r_t, behind the product.

    Args:
        input_size: I, the number of features of an input.
        hidden_size: H, the number of units of a layer and direction.
        num_layers: how many layers. Default: 1.
        bias: False leaves out b_ih and b_hh. Default: True.
        batch_first: input and output are (B, T, *) instead of (T, B, *). Default: False.
        dropout: in training, zero each output of every layer but the last with this probability.
            Default: 0.
        bidirectional: add a backward direction to each layer. Default: False.
        proj_size: 0; projections are torch's alone. Default: 0.
        device: where the parameters live. Default: torch's default device.
        dtype: their dtype. Default: torch's default dtype.

    Attributes:
        weight_ih_l[k]: the input's weights of layer k, W_ir, W_iz, W_in, one below the other,
            (3H, I), above the first layer (3H, directions * H); with the suffix ``_reverse`` those
            of the backward direction, here and below.
        weight_hh_l[k]: the state's, (3H, H).
        bias_ih_l[k], bias_hh_l[k]: the biases beside them, each (3H).

    Raises:
        TypeError: a size is no integer, or a flag no bool.
        ValueError: a size is below 1, ``dropout`` is no probability, or ``proj_size`` is not 0.

    Example:
        >>> import torch
        >>> from brc_pytorch import GRU
        >>> rnn = GRU(10, 20, num_layers=2)
        >>> output, h_n = rnn(torch.randn(5, 3, 10))
        >>> output.shape, h_n.shape
        (torch.Size([5, 3, 20]), torch.Size([2, 3, 20]))
    """

    _mode = "GRU"
    _recurrence = "gru"
    _kernel = staticmethod(torch.gru)
    _words = WORDS


class LSTM(TorchNetwork):
    r"""Long short-term memory (LSTM): :class:`torch.nn.LSTM` by the kernels of the bistable cells.

    .. math::
        i_t &= \sigma(W_{ii} x_t + b_{ii} + W_{hi} h_{t-1} + b_{hi}) \\
        f_t &= \sigma(W_{if} x_t + b_{if} + W_{hf} h_{t-1} + b_{hf}) \\
        g_t &= \tanh(W_{ig} x_t + b_{ig} + W_{hg} h_{t-1} + b_{hg}) \\
        o_t &= \sigma(W_{io} x_t + b_{io} + W_{ho} h_{t-1} + b_{ho}) \\
        c_t &= f_t \odot c_{t-1} + i_t \odot g_t \\
        h_t &= o_t \odot \tanh(c_t)

    In layers above the first, x_t is the output of the layer below. Parameters, their names and
    initial values are torch's: each of the two loads what the other has saved, and their results
    agree to rounding. On a CPU, float32 and float64 run in the kernels that run
    :class:`~brc_pytorch.NBRC`; other devices and dtypes in torch's own.

    Source: Hochreiter and Schmidhuber, Neural Computation 9(8), 1997, with the forget gate of
    Gers, Schmidhuber and Cummins, Neural Computation 12(10), 2000.

    Args:
        input_size: I, the number of features of an input.
        hidden_size: H, the number of units of a layer and direction.
        num_layers: how many layers. Default: 1.
        bias: False leaves out b_ih and b_hh. Default: True.
        batch_first: input and output are (B, T, *) instead of (T, B, *). Default: False.
        dropout: in training, zero each output of every layer but the last with this probability.
            Default: 0.
        bidirectional: add a backward direction to each layer. Default: False.
        proj_size: 0; projections are torch's alone. Default: 0.
        device: where the parameters live. Default: torch's default device.
        dtype: their dtype. Default: torch's default dtype.

    Attributes:
        weight_ih_l[k]: the input's weights of layer k, W_ii, W_if, W_ig, W_io, one below the other,
            (4H, I), above the first layer (4H, directions * H); with the suffix ``_reverse`` those
            of the backward direction, here and below.
        weight_hh_l[k]: the state's, (4H, H).
        bias_ih_l[k], bias_hh_l[k]: the biases beside them, each (4H).

    Raises:
        TypeError: a size is no integer, or a flag no bool.
        ValueError: a size is below 1, ``dropout`` is no probability, or ``proj_size`` is not 0.

    Example:
        >>> import torch
        >>> from brc_pytorch import LSTM
        >>> rnn = LSTM(10, 20, num_layers=2)
        >>> output, (h_n, c_n) = rnn(torch.randn(5, 3, 10))
        >>> output.shape, h_n.shape, c_n.shape
        (torch.Size([5, 3, 20]), torch.Size([2, 3, 20]), torch.Size([2, 3, 20]))
    """

    _mode = "LSTM"
    _recurrence = "lstm"
    _kernel = staticmethod(torch.lstm)
    _words = WORDS
