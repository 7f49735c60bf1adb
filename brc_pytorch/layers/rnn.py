"""BRC and NBRC: networks of bistable cells with the interface of :class:`torch.nn.GRU`."""

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from brc_pytorch.layers.bistable_cell import BistableCell, Initializer
from brc_pytorch.layers.brc_layer import BistableRecurrentCell
from brc_pytorch.layers.form import Input, Words
from brc_pytorch.layers.multilayer_rnnbase import MultiLayerBase, not_at_default
from brc_pytorch.layers.neuromodulated_brc_layer import NeuromodulatedBistableRecurrentCell

# What torch says, since nn.GRU's users know it.
WORDS: Words = {
    "state kind": (ValueError, "hx: expected {expected}, got {got}"),
    "rank": (ValueError, "{network}: Expected input to be 2D or 3D, got {rank}D instead"),
    "packed rank": (RuntimeError, "input must have 2 dimensions, got {rank}"),
    "state rank": (
        RuntimeError,
        "For {form} {rank}-D input, hx should also be {rank}-D but got {state_rank}-D tensor",
    ),
    "dtype": (
        ValueError,
        (
            "RNN input dtype ({dtype}) does not match weight dtype ({weight}). "
            "Convert input: input.to({weight}), or convert model: model.to({dtype})"
        ),
    ),
    "device": (
        RuntimeError,
        (
            "Input and parameter tensors are not at the same device, found input tensor at "
            "{device} and parameter tensor at {weight}"
        ),
    ),
    "features": (
        RuntimeError,
        "input.size(-1) must be equal to input_size. Expected {size}, got {features}",
    ),
    "steps": (RuntimeError, "Expected sequence length to be larger than 0 in RNN"),
    "state shape": (RuntimeError, "Expected hidden size {expected}, got {sizes}"),
    "state dtype": (ValueError, "RNN hx dtype ({dtype}) does not match input dtype ({input})"),
    "state device": (
        RuntimeError,
        (
            "Input and hidden tensors are not at the same device, found input tensor at "
            "{input} and hidden tensor at {device}"
        ),
    ),
}


class BistableRNN(MultiLayerBase):
    """What BRC and NBRC share: a :class:`MultiLayerBase` that makes its cells itself."""

    _cell: type[BistableCell]
    _mode: str
    _words = WORDS

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        candidate_bias: bool = False,
        learn_initial_state: bool = False,
    ) -> None:
        _check_arguments(input_size, hidden_size, num_layers, bias, batch_first, dropout)
        width = hidden_size * (2 if bidirectional else 1)
        cells = [
            self._cell(
                input_size if layer == 0 else width,
                hidden_size,
                bias,
                device,
                dtype,
                candidate_bias=candidate_bias,
            )
            for layer in range(num_layers)
        ]
        super().__init__(
            self._mode,
            cells,
            hidden_size,
            batch_first,
            bidirectional,
            return_sequences=True,
            dropout=dropout,
        )
        self.input_size: int = input_size
        self.num_layers = num_layers
        self.bias = bias
        self.candidate_bias = candidate_bias
        self.learn_initial_state = learn_initial_state
        if learn_initial_state:
            zeros = torch.zeros(len(self.cells), hidden_size, device=device, dtype=dtype)
            self.initial_state = nn.Parameter(zeros)

    def reset_parameters(
        self,
        kernel: Initializer = nn.init.xavier_uniform_,
        memory: Initializer | None = None,
        bias: Initializer = nn.init.zeros_,
    ) -> None:
        """Draw all parameters anew, gate by gate; a learnable initial state becomes zero.

        Args:
            kernel: fills U_c, U_a and U, each (I, H), in place. Default: Xavier uniform.
            memory: fills w_c and w_a, each (H), or W_c and W_a, each (H, H), in place.
                Default: ones in the BRC, orthogonal in the nBRC.
            bias: fills the biases, each (H), in place. Default: zeros.

        Example:
            >>> from torch import nn
            >>> from brc_pytorch import NBRC
            >>> rnn = NBRC(3, 5)
            >>> rnn.reset_parameters(memory=nn.init.xavier_uniform_)  # as in the authors' cell
        """
        for cell in self.cells:
            if isinstance(cell, BistableCell):
                cell.reset_parameters(kernel, memory, bias)
        if self.learn_initial_state:
            nn.init.zeros_(self.initial_state)

    def flatten_parameters(self) -> None:
        """Do nothing: code written for ``nn.GRU`` calls it, and here is nothing to flatten."""

    def forward(  # type: ignore[override]  # nn.GRU's names for the same arguments
        self, input: Input, hx: Tensor | None = None, *, resets: Input | None = None
    ) -> tuple[Any, Tensor]:
        """Run the network.

        Args:
            input: (T, B, I), or (B, T, I) with ``batch_first=True``, or (T, I) for one sequence, or
                a packed sequence.
            hx: h_0, (num_layers * directions, B, H), without B for one sequence. Default: zeros, or
                the learnable initial state.
            resets: where segments begin that know nothing of the steps before, booleans in the form
                of the input without its features, (T, B), (B, T), (T) or packed. True at step t
                starts it from the initial state, zero or the learnable one, instead of from step
                t - 1; in the backward direction step t - 1 instead of from step t. ``hx`` serves
                the steps before. Default: one segment of all steps.

        Returns:
            The output, in the form of the input: the last layer's hidden states at every step,
            (T, B, directions * H); and h_n, the last states of all layers and directions,
            (num_layers * directions, B, H).

        Raises:
            TypeError: the resets are not of the input's form.
            ValueError: the input has the wrong rank or dtype, or the resets do not fit it.
            RuntimeError: an argument has the wrong shape.
        """
        output, h_n = self._run(input, hx, resets)
        return output, h_n

    def gates(  # type: ignore[override]  # the same
        self, input: Input, hx: Tensor | None = None, *, resets: Input | None = None
    ) -> tuple[Tensor, Tensor]:
        """The gates of every layer and direction, at every step.

        The network runs once; the gates come from what its layers took and gave.

        Args:
            input: as for :meth:`forward`.
            hx: as for :meth:`forward`.
            resets: as for :meth:`forward`.

        Returns:
            The feedback strength a_t in (0, 2), above 1 in a bistable unit, and the update gate c_t
            in (0, 1), each (num_layers * directions, T, B, H), with ``batch_first=True``
            (num_layers * directions, B, T, H), without B for one sequence. A packed sequence gives
            the padded form, zero where a row has ended.

        Raises:
            ValueError: as for :meth:`forward`.
            RuntimeError: as for :meth:`forward`.

        Example:
            >>> import torch
            >>> from brc_pytorch import NBRC
            >>> rnn = NBRC(3, 5, num_layers=2)
            >>> a, c = rnn.gates(torch.randn(7, 2, 3))
            >>> a.shape
            torch.Size([2, 7, 2, 5])
            >>> share = (a > 1).float().mean()  # of the units that can be bistable
        """
        a, c = self._gates(input, hx, resets)
        return a, c

    def extra_repr(self) -> str:
        """The arguments, those at their default left out, as ``nn.GRU`` shows them."""
        options = {
            "num_layers": (self.num_layers, 1),
            "bias": (self.bias, True),
            "batch_first": (self.batch_first, False),
            "dropout": (self.dropout, 0.0),
            "bidirectional": (self.bidirectional, False),
            "candidate_bias": (self.candidate_bias, False),
            "learn_initial_state": (self.learn_initial_state, False),
        }
        shown = not_at_default(options)
        return ", ".join([str(self.input_size), str(self.hidden_size), *shown])

    def __repr__(self) -> str:
        """One line, as for ``nn.GRU``: the cells follow from it."""
        return f"{type(self).__name__}({self.extra_repr()})"


def _check_arguments(
    input_size: int,
    hidden_size: int,
    num_layers: int,
    bias: bool,
    batch_first: bool,
    dropout: float,
) -> None:
    """Say of bad arguments what ``nn.GRU`` says."""
    for name, flag in (("bias", bias), ("batch_first", batch_first)):
        if not isinstance(flag, bool):
            raise TypeError(f"{name} should be of type bool, got: {type(flag).__name__}")
    sizes = {"input_size": input_size, "hidden_size": hidden_size, "num_layers": num_layers}
    for name, size in sizes.items():
        if not isinstance(size, int):
            raise TypeError(f"{name} should be of type int, got: {type(size).__name__}")
        if size <= 0:
            raise ValueError(f"{name} must be greater than zero")
    if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout <= 1:
        raise ValueError(
            "dropout should be a number in range [0, 1] "
            "representing the probability of an element being zeroed"
        )
    if dropout > 0 and num_layers == 1:
        warnings.warn(
            "dropout option adds dropout after all but last recurrent layer, so non-zero dropout "
            f"expects num_layers greater than 1, but got dropout={dropout} and "
            f"num_layers={num_layers}",
            stacklevel=3,
        )


class BRC(BistableRNN):
    r"""A network of bistable recurrent cells (BRC), in the place of :class:`torch.nn.GRU`.

    .. math::
        a_t &= 1 + \tanh(U_a x_t + w_a \odot h_{t-1} + b_a) \\
        c_t &= \sigma(U_c x_t + w_c \odot h_{t-1} + b_c) \\
        h_t &= c_t \odot h_{t-1} + (1 - c_t) \odot \tanh(U x_t + a_t \odot h_{t-1})

    In layers above the first, x_t is the output of the layer below.

    Source: Vecoven, Ernst and Drion, PLOS ONE 2021, section "Bistable recurrent cells".

    Args:
        input_size: I, the number of features of an input.
        hidden_size: H, the number of units of a layer and direction.
        num_layers: how many layers. Default: 1.
        bias: False leaves out b_c and b_a. Default: True.
        batch_first: input and output are (B, T, *) instead of (T, B, *). Default: False.
        dropout: in training, zero each output of every layer but the last with this probability.
            Default: 0.
        bidirectional: add a backward direction to each layer. Default: False.
        device: where the parameters live. Default: torch's default device.
        dtype: their dtype. Default: torch's default dtype.
        candidate_bias: add a bias to the candidate, for comparison with implementations that have
            one. Default: False, as in the paper.
        learn_initial_state: start from trained states, zero at first, where ``hx`` is not given.
            Default: False.

    Attributes:
        cells: :class:`~brc_pytorch.BistableRecurrentCell`, layer 0 forward, layer 0 backward, layer
            1 forward, ...; their docstring lists the parameters.
        initial_state: (num_layers * directions, H), with ``learn_initial_state=True``.

    Raises:
        TypeError: a size is no integer, or a flag no bool.
        ValueError: a size is below 1, ``dropout`` is no probability, or ``candidate_bias=True``
            comes with ``bias=False``.

    Example:
        >>> import torch
        >>> from brc_pytorch import BRC
        >>> rnn = BRC(10, 20, num_layers=2)
        >>> output, h_n = rnn(torch.randn(5, 3, 10))
        >>> output.shape, h_n.shape
        (torch.Size([5, 3, 20]), torch.Size([2, 3, 20]))
    """

    _cell = BistableRecurrentCell
    _mode = "BRC"


class NBRC(BistableRNN):
    r"""A network of neuromodulated bistable cells (nBRC), in the place of :class:`torch.nn.GRU`.

    .. math::
        a_t &= 1 + \tanh(U_a x_t + h_{t-1} W_a + b_a) \\
        c_t &= \sigma(U_c x_t + h_{t-1} W_c + b_c) \\
        h_t &= c_t \odot h_{t-1} + (1 - c_t) \odot \tanh(U x_t + a_t \odot h_{t-1})

    In layers above the first, x_t is the output of the layer below.

    Source: Vecoven, Ernst and Drion, PLOS ONE 2021, section "Bistable recurrent cells".

    Args:
        input_size: I, the number of features of an input.
        hidden_size: H, the number of units of a layer and direction.
        num_layers: how many layers. Default: 1.
        bias: False leaves out b_c and b_a. Default: True.
        batch_first: input and output are (B, T, *) instead of (T, B, *). Default: False.
        dropout: in training, zero each output of every layer but the last with this probability.
            Default: 0.
        bidirectional: add a backward direction to each layer. Default: False.
        device: where the parameters live. Default: torch's default device.
        dtype: their dtype. Default: torch's default dtype.
        candidate_bias: add a bias to the candidate, for comparison with implementations that have
            one. Default: False, as in the paper.
        learn_initial_state: start from trained states, zero at first, where ``hx`` is not given.
            Default: False.

    Attributes:
        cells: :class:`~brc_pytorch.NeuromodulatedBistableRecurrentCell`, layer 0 forward, layer 0
            backward, layer 1 forward, ...; their docstring lists the parameters.
        initial_state: (num_layers * directions, H), with ``learn_initial_state=True``.

    Raises:
        TypeError: a size is no integer, or a flag no bool.
        ValueError: a size is below 1, ``dropout`` is no probability, or ``candidate_bias=True``
            comes with ``bias=False``.

    Example:
        >>> import torch
        >>> from brc_pytorch import NBRC
        >>> rnn = NBRC(10, 20, num_layers=2)
        >>> output, h_n = rnn(torch.randn(5, 3, 10))
        >>> output.shape, h_n.shape
        (torch.Size([5, 3, 20]), torch.Size([2, 3, 20]))
    """

    _cell = NeuromodulatedBistableRecurrentCell
    _mode = "nBRC"
