"""A recurrent network out of any cell."""

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from brc_pytorch.layers.brc_layer import BistableRecurrentCell
from brc_pytorch.layers.checks import check_features, check_like, check_size
from brc_pytorch.layers.neuromodulated_brc_layer import NeuromodulatedBistableRecurrentCell
from brc_pytorch.layers.peephole_lstm import PeepholeLSTMCell
from brc_pytorch.layers.scan import has_pair_state, scan, scan_layers

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
State = Tensor | tuple[Tensor, Tensor]

_UNBATCHED = 2  # dimensions of one sequence, (T, I)

_KNOWN_CELLS = tuple({cell for cells in _CELLS_OF_MODE.values() for cell in cells})


class MultiLayerBase(nn.Module):
    """A network of layers and directions out of any recurrent cell.

    The outputs are those of :class:`torch.nn.GRU`, or of :class:`torch.nn.LSTM` for cells whose
    state is a pair. Torch's own cells run in torch's fused kernels, ours in ours, any other step by
    step.

    Args:
        mode: a label, one of ``"GRU"``, ``"LSTM"``, ``"RNN"``, ``"BRC"``, ``"nBRC"``. It must not
            contradict the cells. For a cell of your own: ``"LSTM"`` if its state is a pair of
            tensors, any other if it is one tensor.
        cells: one cell a layer, from the first layer on: modules with ``forward(input_t, state)``
            that returns the next state, (B, H), or a pair of these, hidden state first. In a
            bidirectional network cells from layer 2 on take ``2 * hidden_size`` inputs.
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
        self.input_size: int | None = getattr(next(iter(forward_cells), None), "input_size", None)
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
            if isinstance(cell, _KNOWN_CELLS):
                fits = isinstance(cell, _CELLS_OF_MODE[self.mode])
            else:
                fits = has_pair_state(cell) in (None, self._has_pair_state)
            if not fits:
                raise ValueError(
                    f"mode: {self.mode!r} contradicts cells[{layer}], a {type(cell).__name__}"
                )

    @property
    def _has_pair_state(self) -> bool:
        return self.mode == "LSTM"

    def init_state(self, batch_size: int) -> Tensor:
        """Zeros of shape (layers * directions, B, H), with the first parameter's dtype and device.

        Args:
            batch_size: B.
        """
        like = next(self.parameters(), torch.empty(0))
        return like.new_zeros(len(self.cells), batch_size, self.hidden_size)

    def forward(
        self,
        input: Tensor | PackedSequence,
        state: State | None = None,
        *,
        hidden_state: State | None = None,
    ) -> Any:  # noqa: ANN401 - what comes back depends on the cells and on return_sequences
        """Run the network.

        Args:
            input: (B, T, I), or (T, B, I), or (T, I), or a packed sequence.
            state: the states before the first step, (layers * directions, B, H), or a pair of
                these. Default: zeros.
            hidden_state: another name of ``state``, that of brc-pytorch 0.1.3.

        Returns:
            See the class.

        Raises:
            ValueError: an argument has the wrong shape, dtype or device.
            RuntimeError: the sequence has no steps.
        """
        if hidden_state is not None:
            if state is not None:
                raise ValueError("hidden_state: is another name of state, got both")
            state = hidden_state
        sequence, states, lengths = self._enter(input, state)
        output, last = self._run(sequence, states, lengths)
        last = [self._leave_state(input, part) for part in last]
        if not self.return_seq:
            last = [part[-self.num_directions :] for part in last]
        last_state = tuple(last) if self._has_pair_state else last[0]
        if not self.return_seq:
            return last_state
        return self._leave_sequence(input, output, lengths), last_state

    def _enter(
        self, input: Tensor | PackedSequence, state: State | None
    ) -> tuple[Tensor, list[Tensor], Tensor | None]:
        """Bring arguments of any form to one: (T, B, I), the parts of the state, lengths."""
        states = self._split(state)
        if isinstance(input, PackedSequence):
            data, batch_sizes, order, _ = input
            # Inside the network rows stay in their packed order, longest first.
            sequence, lengths = pad_packed_sequence(PackedSequence(data, batch_sizes))
            if order is not None:
                states = [part.index_select(1, order) for part in states]
            return sequence, states, lengths
        self._check_rank(input, states)
        if input.dim() == _UNBATCHED:
            return input.unsqueeze(1), [part.unsqueeze(1) for part in states], None
        return input.transpose(0, 1) if self.batch_first else input, states, None

    def _leave_sequence(
        self, input: Tensor | PackedSequence, output: Tensor, lengths: Tensor | None
    ) -> Tensor | PackedSequence:
        """Give an output (T, B, *) the form that the input had."""
        if isinstance(input, PackedSequence):
            assert lengths is not None  # noqa: S101 - _enter made them
            data, batch_sizes, *_ = pack_padded_sequence(output, lengths)
            return PackedSequence(data, batch_sizes, input.sorted_indices, input.unsorted_indices)
        if input.dim() == _UNBATCHED:
            return output.squeeze(1)
        return output.transpose(0, 1) if self.batch_first else output

    def _leave_state(self, input: Tensor | PackedSequence, state: Tensor) -> Tensor:
        """Give a state (layers * directions, B, H) the form that the input had."""
        if isinstance(input, PackedSequence):
            inverse = input.unsorted_indices
            return state if inverse is None else state.index_select(1, inverse)
        return state.squeeze(1) if input.dim() == _UNBATCHED else state

    def _split(self, state: State | None) -> list[Tensor]:
        """The parts of a state: none where it is not given, else one or two tensors."""
        if state is None:
            return []
        single = isinstance(state, Tensor)
        if single == self._has_pair_state or not (single or len(state) == 2):  # noqa: PLR2004
            expected = "a pair (h_0, c_0)" if self._has_pair_state else "one tensor h_0"
            got = "one tensor" if single else f"a {type(state).__name__} of {len(state)}"
            raise ValueError(f"state: expected {expected} for mode {self.mode!r}, got {got}")
        return [state] if isinstance(state, Tensor) else [*state]

    def _run(
        self, input: Tensor, states: list[Tensor], lengths: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        """All layers over (T, B, I): the last layer's hidden states, and all last states."""
        states = self._first_states(input, states)
        if not self.bidirectional and not (self.dropout and self.training):
            found = scan_layers([*self.cells], input, states, lengths)
            if found is not None:
                return found
        initial = by_cell(states)
        last = []
        for layer in range(self.layers):
            outputs, last_of_layer = self._run_layer(layer, input, initial, lengths)
            last += last_of_layer
            input = self._hand_on(layer, outputs)
        return input, [torch.stack(part) for part in zip(*last, strict=True)]

    def _first_states(self, input: Tensor, states: list[Tensor]) -> list[Tensor]:
        """Check the input, and the parts of the state if given; return those to start from."""
        self._check_input(input)
        if not states:
            return self._initial_states(input)
        self._check_states(states, input)
        return states

    def _initial_states(self, input: Tensor) -> list[Tensor]:
        zeros = input.new_zeros(len(self.cells), input.shape[1], self.hidden_size)
        return [zeros] * (2 if self._has_pair_state else 1)

    def _run_layer(
        self,
        layer: int,
        input: Tensor,
        initial: list[tuple[Tensor, ...]],
        lengths: Tensor | None,
    ) -> tuple[list[Tensor], list[tuple[Tensor, ...]]]:
        """One layer: the hidden states and the last states of each direction."""
        cells = self.cells
        outputs, last = [], []
        for direction in range(self.num_directions):
            index = layer * self.num_directions + direction
            output, last_of_cell = scan(
                cells[index], input, initial[index], lengths, reverse=direction == 1
            )
            self._check_last(index, last_of_cell, input.shape[1])
            outputs.append(output)
            last.append(last_of_cell)
        return outputs, last

    def _hand_on(self, layer: int, outputs: list[Tensor]) -> Tensor:
        """What the next layer, or the user, sees of a layer's outputs."""
        output = torch.cat(outputs, dim=-1) if self.bidirectional else outputs[0]
        if self.dropout == 0 or layer == self.layers - 1:
            return output
        return F.dropout(output, self.dropout, self.training)

    def _check_rank(self, input: Tensor, states: list[Tensor]) -> None:  # noqa: ARG002 - see BRC
        if input.dim() not in (_UNBATCHED, _UNBATCHED + 1):
            raise ValueError(
                "input: expected 2 dimensions, (T, I), or 3, "
                f"{'(B, T, I)' if self.batch_first else '(T, B, I)'}, got {tuple(input.shape)}"
            )

    def _check_input(self, input: Tensor) -> None:
        if input.shape[0] == 0:
            raise RuntimeError("input: expected a sequence of at least one step, got none")
        if self.input_size is not None:
            check_features("input", input, self.input_size)
        if isinstance(self.cells[0], _KNOWN_CELLS):
            check_like("input", input, "the parameters", next(self.cells[0].parameters()))

    def _check_states(self, states: list[Tensor], input: Tensor) -> None:
        shape = (len(self.cells), input.shape[1], self.hidden_size)
        for part in states:
            if part.shape != shape:
                raise ValueError(
                    f"state: expected shape {shape}, (layers * directions, B, H), "
                    f"got {tuple(part.shape)}"
                )
            check_like("state", part, "input", input)

    def _check_last(self, index: int, last: tuple[Tensor, ...], batch: int) -> None:
        shape = (batch, self.hidden_size)
        for part in last:
            if part.shape != shape:
                raise ValueError(
                    f"cells[{index}]: expected to return states of shape {shape}, (B, H), "
                    f"got {tuple(part.shape)}"
                )

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


def by_cell(states: list[Tensor]) -> list[tuple[Tensor, ...]]:
    """Each cell's own part of states (layers * directions, B, H)."""
    return list(zip(*(part.unbind() for part in states), strict=True))


def _redrawn(cell: nn.Module) -> nn.Module:
    """A copy of a cell with weights of its own."""
    redrawn = copy.deepcopy(cell)
    for module in redrawn.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
    return redrawn
