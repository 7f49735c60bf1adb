"""A recurrent network out of any cell."""

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from brc_pytorch.layers.brc_layer import BistableRecurrentCell
from brc_pytorch.layers.checks import check_size
from brc_pytorch.layers.form import Input, State, Words
from brc_pytorch.layers.neuromodulated_brc_layer import NeuromodulatedBistableRecurrentCell
from brc_pytorch.layers.peephole_lstm import PeepholeLSTMCell
from brc_pytorch.layers.scan import KNOWN_CELLS, has_pair_state
from brc_pytorch.layers.stack import Stack

# What a mode says of the cells we know. "RNN" names the family as well as its plainest member, so
# it fits every cell whose state is one tensor.
_CELLS_OF_MODE: dict[str, tuple[type[nn.Module], ...]] = {
    "GRU": (nn.GRUCell,),
    "LSTM": (nn.LSTMCell, PeepholeLSTMCell),
    "RNN": (
        nn.RNNCell,
        nn.GRUCell,
        BistableRecurrentCell,
        NeuromodulatedBistableRecurrentCell,
    ),
    "BRC": (BistableRecurrentCell,),
    "nBRC": (NeuromodulatedBistableRecurrentCell,),
}
_WORDS: Words = {
    "state kind": (ValueError, "state: expected {expected} for mode {mode!r}, got {got}"),
    "rank": (
        ValueError,
        "input: expected 2 dimensions, (T, I), or 3, {form}, got {shape}",
    ),
    "packed rank": (ValueError, "input: expected packed data of shape (*, I), got {shape}"),
    "state rank": (
        ValueError,
        (
            "state: expected {rank} dimensions, (layers * directions, B, H), without B for one "
            "sequence (T, I), got {shape}"
        ),
    ),
    "dtype": (ValueError, "input: expected dtype {weight}, that of the parameters, got {dtype}"),
    "device": (ValueError, "input: expected device {weight}, that of the parameters, got {device}"),
    "features": (ValueError, "input: expected shape (*, {size}), got {shape}"),
    "steps": (RuntimeError, "input: expected a sequence of at least one step, got none"),
    "state shape": (
        ValueError,
        "state: expected shape {expected}, (layers * directions, B, H), got {shape}",
    ),
    "state dtype": (ValueError, "state: expected dtype {input}, that of input, got {dtype}"),
    "state device": (ValueError, "state: expected device {input}, that of input, got {device}"),
}


class MultiLayerBase(Stack):
    """A network of layers and directions out of any recurrent cell.

    The outputs are those of :class:`torch.nn.GRU`, or of :class:`torch.nn.LSTM` for cells whose
    state is a pair. Our cells and torch's GRU and LSTM run in our kernels, the latter in torch's
    where there are none, and so does its plain RNN; any other cell runs step by step.

    Args:
        mode: a label, one of ``"GRU"``, ``"LSTM"``, ``"RNN"``, ``"BRC"``, ``"nBRC"``. It must not
            contradict the cells. For a cell of your own: ``"LSTM"`` if its state is a pair of
            tensors, any other if it is one tensor.
        cells: one cell a layer, from the first layer on: modules with ``forward(input_t, state)``
            that returns the next state, (B, H), or a pair of these, hidden state first. In a
            bidirectional network cells from layer 2 on take ``2 * hidden_size`` inputs. A cell may
            offer ``scan`` and ``gates`` as :class:`BistableRecurrentCell` does;
            :func:`check_cell` tests one of your own.
        hidden_size: H, that of every cell.
        batch_first: input and output are (B, T, *) if True, (T, B, *) otherwise; the states are not
            concerned. Default: True.
        bidirectional: add a backward cell to each layer: a copy of the forward one, with weights
            of its own drawn by the ``reset_parameters`` of the cell and of the modules in it.
            Default: False.
        return_sequences: return what ``nn.GRU`` returns, not the last layer's last states alone.
            Default: False.
        device: move the cells there. Default: leave them where they are.
        dropout: in training, zero each output of every layer but the last with this probability.
            Default: 0.

    Shapes:
        - input: (B, T, I), or (T, B, I), or (T, I) for one sequence without a batch dimension; or a
          ``PackedSequence``.
        - state: (layers * directions, B, H), without B for one sequence, zeros when it is not
          given; a pair of these where the cells' states are pairs.
        - output: with ``return_sequences=True`` what ``nn.GRU`` returns, the last layer's hidden
          states at every step, (B, T, directions * H), and the last states of all layers and
          directions, like ``state``; with False the last layer's last states, (directions, B, H). A
          backward cell's last step is the first of the sequence.

    Attributes:
        cells: layer 0 forward, layer 0 backward, layer 1 forward, ..., the order of ``nn.GRU``'s
            parameters.
        input_size: I, that of the first cell, None if it has no such attribute.

    Raises:
        TypeError: ``cells`` is no list of modules, or ``hidden_size`` no integer.
        ValueError: the list is empty, the cells' sizes do not chain, ``mode`` is unknown or
            contradicts the cells, or ``dropout`` is no probability.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from brc_pytorch import MultiLayerBase, NeuromodulatedBistableRecurrentCell
        >>> cells = [
        ...     NeuromodulatedBistableRecurrentCell(3, 5),
        ...     NeuromodulatedBistableRecurrentCell(5, 5),
        ... ]
        >>> rnn = MultiLayerBase("nBRC", cells, hidden_size=5, return_sequences=True)
        >>> output, h_n = rnn(torch.randn(2, 7, 3))
        >>> output.shape, h_n.shape
        (torch.Size([2, 7, 5]), torch.Size([2, 2, 5]))
    """

    _words = _WORDS

    def __init__(
        self,
        mode: str,
        cells: Iterable[nn.Module],
        hidden_size: int,
        batch_first: bool = True,
        bidirectional: bool = False,
        return_sequences: bool = False,
        device: torch.device | str | None = None,
        *,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not isinstance(cells, Iterable):
            raise TypeError(
                f"cells: expected a list of cells, one a layer, got one {type(cells).__name__}"
            )
        forward_cells = list(cells)
        self.mode = mode
        self.layers = len(forward_cells)
        self.input_size = getattr(next(iter(forward_cells), None), "input_size", None)
        self.hidden_size = check_size("hidden_size", hidden_size)
        self.batch_first = batch_first
        self.bidirectional = bidirectional
        self.num_directions = 2 if bidirectional else 1
        self.return_seq = return_sequences
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout: expected a probability, from 0 to 1, got {dropout}")
        self.dropout = float(dropout)
        self._check_cells(forward_cells)
        self._check_mode(forward_cells)
        if bidirectional:
            forward_cells = [each for cell in forward_cells for each in (cell, _redrawn(cell))]
        self.cells = nn.ModuleList(forward_cells)
        if device is not None:
            self.to(device)

    def _check_cells(self, cells: list[nn.Module]) -> None:
        if not cells:
            raise ValueError("cells: expected one cell a layer, got an empty list")
        for layer, cell in enumerate(cells):
            if not isinstance(cell, nn.Module):
                raise TypeError(f"cells[{layer}]: expected a torch.nn.Module, got {cell!r}")
            hidden_size = getattr(cell, "hidden_size", self.hidden_size)
            if hidden_size != self.hidden_size:
                raise ValueError(
                    f"cells[{layer}]: expected hidden_size={self.hidden_size}, got {hidden_size}"
                )
            if layer == 0:
                continue
            width = self.num_directions * self.hidden_size
            input_size = getattr(cell, "input_size", width)
            if input_size != width:
                why = (
                    "2 * hidden_size, since a bidirectional layer hands on both directions"
                    if self.bidirectional
                    else "the hidden_size of the layer before"
                )
                raise ValueError(
                    f"cells[{layer}]: expected input_size={width} ({why}), got {input_size}"
                )

    def _check_mode(self, cells: list[nn.Module]) -> None:
        if self.mode not in _CELLS_OF_MODE:
            known = ", ".join(map(repr, _CELLS_OF_MODE))
            raise ValueError(f"mode: expected one of {known}, got {self.mode!r}")
        for layer, cell in enumerate(cells):
            if isinstance(cell, KNOWN_CELLS):
                fits = isinstance(cell, _CELLS_OF_MODE[self.mode])
            else:
                fits = has_pair_state(cell) in (None, self.mode == "LSTM")
            if not fits:
                raise ValueError(
                    f"mode: {self.mode!r} contradicts cells[{layer}], a {type(cell).__name__}"
                )

    def init_state(self, batch_size: int) -> Tensor:
        """Zeros of shape (layers * directions, B, H), with the first parameter's dtype and device.

        Args:
            batch_size: B.
        """
        like = next(self.parameters(), torch.empty(0))
        return like.new_zeros(len(self.cells), batch_size, self.hidden_size)

    def forward(
        self,
        input: Input,
        state: State | None = None,
        *,
        hidden_state: State | None = None,
        resets: Input | None = None,
    ) -> Any:  # noqa: ANN401 - what comes back depends on the cells and on return_sequences
        """Run the network.

        Args:
            input: (B, T, I), or (T, B, I), or (T, I), or a packed sequence.
            state: the states before the first step, (layers * directions, B, H), or a pair of
                these. Default: zeros.
            hidden_state: another name of ``state``, that of brc-pytorch 0.1.3.
            resets: where segments begin that know nothing of the steps before, booleans in the form
                of the input without its features, (B, T), (T, B), (T) or packed. True at step t
                starts it from zero instead of from step t - 1; in the backward direction step t - 1
                instead of from step t. ``state`` serves the steps before. Default: one segment of
                all steps.

        Returns:
            See the class.

        Raises:
            TypeError: the resets are not of the input's form.
            ValueError: an argument has the wrong shape, dtype or device.
            RuntimeError: the sequence has no steps.
        """
        if hidden_state is not None:
            if state is not None:
                raise ValueError("hidden_state: is another name of state, got both")
            state = hidden_state
        return self._run(input, state, resets)

    def gates(
        self, input: Input, state: State | None = None, *, resets: Input | None = None
    ) -> tuple[Tensor, ...]:
        """The gates of every layer and direction, at every step.

        The network runs once; the gates come from what its layers took and gave. Each cell gives
        its own by ``gates(input, output, state, lengths, reverse)``, see
        :meth:`BistableRecurrentCell.gates`; torch's cells have none.

        Args:
            input: as for :meth:`forward`.
            state: as for :meth:`forward`.
            resets: as for :meth:`forward`.

        Returns:
            What the cells return, each (layers * directions, B, T, H), with ``batch_first=False``
            (layers * directions, T, B, H), without B for one sequence. For the BRC and the nBRC
            that is the feedback strength a_t in (0, 2), above 1 in a bistable unit, and the update
            gate c_t in (0, 1). A packed sequence gives the padded form, zero where a row has ended.

        Raises:
            TypeError: a cell has no gates, or none that take resets.
            ValueError: cells have different numbers of gates, or as for :meth:`forward`.
            RuntimeError: as for :meth:`forward`.

        Example:
            >>> import torch
            >>> from brc_pytorch import BistableRecurrentCell, MultiLayerBase
            >>> cells = [BistableRecurrentCell(3, 5), BistableRecurrentCell(5, 5)]
            >>> rnn = MultiLayerBase("BRC", cells, hidden_size=5)
            >>> a, c = rnn.gates(torch.randn(2, 7, 3))
            >>> a.shape
            torch.Size([2, 2, 7, 5])
        """
        return self._gates(input, state, resets)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        *args: Any,  # noqa: ANN401 - handed on as they are
        **kwargs: Any,  # noqa: ANN401 - handed on as they are
    ) -> None:
        # brc-pytorch 0.1.3 saved a ModuleList of cells a second time under these names.
        for key in [*state_dict]:
            if key.startswith((f"{prefix}cells_forward.", f"{prefix}cells_backward.")):
                del state_dict[key]
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def extra_repr(self) -> str:
        """The arguments, those at their default left out."""
        options = {
            "batch_first": (self.batch_first, True),
            "bidirectional": (self.bidirectional, False),
            "return_sequences": (self.return_seq, False),
            "dropout": (self.dropout, 0.0),
        }
        return ", ".join([self.mode, str(self.hidden_size), *not_at_default(options)])


def not_at_default(options: Mapping[str, tuple[object, object]]) -> list[str]:
    """Show the options, each with its value and its default, whose values are other ones."""
    return [f"{name}={value}" for name, (value, default) in options.items() if value != default]


def _redrawn(cell: nn.Module) -> nn.Module:
    """A copy of a cell with weights of its own."""
    redrawn = copy.deepcopy(cell)
    for module in redrawn.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
    return redrawn
