"""The cells that are compared, and networks of them."""

import copy
import functools
import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from brc_pytorch.experiments.tasks.settings import nearest
from brc_pytorch.layers import (
    BistableRecurrentCell,
    DoubleCell,
    MultiLayerBase,
    NeuromodulatedBistableRecurrentCell,
    PeepholeLSTMCell,
)
from brc_pytorch.layers.scan import has_pair_state

CellType = Callable[[int, int], nn.Module]


def _remember_at_first(cell: nn.LSTMCell, steps: int) -> None:  # noqa: ARG001 - as the next one's
    """Set an LSTM's forget bias to 1: Jozefowicz, Zaremba and Sutskever, ICML 2015."""
    _set_gate_biases(cell, input_bias=None, forget_bias=torch.ones(cell.hidden_size))


def _chrono(cell: nn.LSTMCell, steps: int) -> None:
    """Let an LSTM's units remember for 1 to T - 1 steps at first: Tallec and Ollivier, ICLR 2018.

    The forget bias is log(u), u uniform from 1 to T - 1, and the input bias its negative.
    """
    spans = torch.empty(cell.hidden_size).uniform_(1, max(2, steps) - 1)
    _set_gate_biases(cell, input_bias=-spans.log(), forget_bias=spans.log())


def _set_gate_biases(cell: nn.LSTMCell, input_bias: Tensor | None, forget_bias: Tensor) -> None:
    """Set the sums of torch's two biases of the gates i and f, the first of i, f, g, o."""
    size = cell.hidden_size
    with torch.no_grad():
        for place, value in enumerate((input_bias, forget_bias)):
            if value is not None:
                gate = slice(place * size, (place + 1) * size)
                cell.bias_ih[gate] = value
                cell.bias_hh[gate] = 0


def _switch(cell: BistableRecurrentCell, steps: int) -> None:  # noqa: ARG001 - as the others
    """Let the feedback strength of a BRC's units be a switch at first, between almost 0 and 2.

    It falls, or rises, where the unit's own state passes a level: w_a is uniform from -40 to 40,
    b_a is -w_a times the level, which is uniform from 0 to 1. A unit whose feedback falls can go
    to and fro between two states; with w_a = 1, as the article starts, none can.
    """
    with torch.no_grad():
        cell.memoryr.uniform_(-40, 40)
        cell.br.copy_(-cell.memoryr * torch.rand_like(cell.memoryr))


class KnownCell(NamedTuple):
    """A cell that is compared by name.

    Attributes:
        mode: The mode of `MultiLayerBase`.
        kind: The class of the cell.
        initialise: Changes its first weights, knowing how many steps training sequences have.
    """

    mode: str
    kind: type[nn.Module]
    initialise: Callable[[Any, int], None] | None = None


CELLS: dict[str, KnownCell] = {
    "LSTM": KnownCell("LSTM", nn.LSTMCell),
    "LSTM-forget": KnownCell("LSTM", nn.LSTMCell, _remember_at_first),
    "LSTM-chrono": KnownCell("LSTM", nn.LSTMCell, _chrono),
    "GRU": KnownCell("GRU", nn.GRUCell),
    "RNN": KnownCell("RNN", nn.RNNCell),
    "BRC": KnownCell("BRC", BistableRecurrentCell),
    "BRC-switch": KnownCell("BRC", BistableRecurrentCell, _switch),
    "nBRC": KnownCell("nBRC", NeuromodulatedBistableRecurrentCell),
    "PeepholeLSTM": KnownCell("LSTM", PeepholeLSTMCell),
}
"""The cells by their names in the command, in the order of tables and plots."""

WARM, HALF_WARM = "warm-", "half-warm-"
"""Before the name of a cell: the network is warmed up; half of each layer is."""


def cell_type(name: str) -> CellType:
    """Find a cell by its name in `CELLS`, or by `module:Class`.

    Args:
        name: A name of `CELLS`, or a class that is called with `(input_size, hidden_size)`, given
            as its importable module, a colon and its name; `WARM` or `HALF_WARM` may stand before.

    Returns:
        The class, or what makes a double cell of two of its cells.

    Raises:
        ValueError: If there is no such cell; the message names the nearest one.
    """
    warmth, name = split_warmth(name)
    if warmth == HALF_WARM:
        return functools.partial(_double, cell_type(name))
    if name in CELLS:
        return CELLS[name].kind
    module_name, colon, class_name = name.partition(":")
    if not colon:
        raise ValueError(
            f"cell: expected a known name or module:Class, got {name!r}; {nearest(name, CELLS)}"
        )
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # An import that fails inside the user's module is their error to see in full.
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise ValueError(
            f"cell: expected an importable module before the colon of {name!r}, "
            f"got no module named {error.name!r}"
        ) from error
    found = getattr(module, class_name, None)
    if not callable(found):
        classes = [key for key, value in vars(module).items() if isinstance(value, type)]
        raise ValueError(  # noqa: TRY004 - the name is wrong, whatever it names
            f"cell: expected a class of {module_name} after the colon of {name!r}; "
            f"{nearest(class_name, classes)}"
        )
    return found  # type: ignore[no-any-return]  # what a user's module holds has no type here


def known_cell(name: str) -> str:
    """Return the name as it is spelt in `CELLS`, or of a cell that can be imported.

    Raises:
        ValueError: If there is none.
    """
    warmth, plain = split_warmth(name)
    spelt = warmth + {known.casefold(): known for known in CELLS}.get(plain.casefold(), plain)
    cell_type(spelt)
    return spelt


def split_warmth(name: str) -> tuple[str, str]:
    """Return `WARM`, `HALF_WARM` or nothing, and the name of the cell that it stands before."""
    for warmth in (HALF_WARM, WARM):
        if name.casefold().startswith(warmth):
            return warmth, name[len(warmth) :]
    return "", name


def _double(make: CellType, input_size: int, hidden_size: int) -> DoubleCell:
    """Two cells of the halves of the units side by side; the first takes the smaller half."""
    first = hidden_size // 2
    return DoubleCell(make(input_size, first), make(input_size, hidden_size - first))


def _keeps_pair(cell: nn.Module, input_size: int, hidden_size: int) -> bool:
    """Tell whether the state of a cell is a pair; one step shows where nothing else tells."""
    known = has_pair_state(cell)
    if known is not None:
        return known
    probe = copy.deepcopy(cell)  # a step may change a cell that keeps statistics
    input_t, h = torch.zeros(1, input_size), torch.zeros(1, hidden_size)
    with torch.no_grad():
        try:
            state = probe(input_t, h)
        except Exception:  # noqa: BLE001 - however a cell fails that unpacks a pair; the next line raises otherwise
            state = probe(input_t, (h, h))
    return isinstance(state, tuple)


def recurrent_network(
    cell: str,
    input_size: int,
    hidden_size: int,
    layers: int,
    *,
    steps: int,
    return_sequences: bool,
) -> MultiLayerBase:
    """Stack `layers` cells of the name `cell`, the first one over inputs of `input_size`.

    Args:
        cell: A name of `CELLS`, or `module:Class`, as in `cell_type`.
        input_size: Features of the input, I.
        hidden_size: Units of every layer, H.
        layers: Number of layers.
        steps: Steps of the longest training sequence, which some cells are initialised by.
        return_sequences: Whether the network gives every output, or its last states.

    Returns:
        The network over inputs (B, T, I).

    Raises:
        ValueError: If there is no such cell.
    """
    make = cell_type(cell)
    sizes = [input_size] + [hidden_size] * (layers - 1)
    cells = [make(size, hidden_size) for size in sizes]
    _, plain = split_warmth(cell)
    if plain in CELLS:
        known = CELLS[plain]
        mode = known.mode
        if known.initialise is not None:
            for module in nn.ModuleList(cells).modules():
                if isinstance(module, known.kind):  # a cell, or one of a double cell's two
                    known.initialise(module, steps)
    else:
        mode = "LSTM" if _keeps_pair(cells[0], input_size, hidden_size) else "RNN"
    return MultiLayerBase(mode, cells, hidden_size, return_sequences=return_sequences)


def recurrent_part(network: nn.Module) -> MultiLayerBase:
    """Return the recurrent layers of a task's network."""
    return next(part for part in network.modules() if isinstance(part, MultiLayerBase))


class LastState(nn.Module):
    """Pick h of the last layer's last step, whether the state is h or the pair (h, c)."""

    def forward(self, state: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        """Return h, (B, H), of the last states (1, B, H) of a network in one direction."""
        h = state[0] if isinstance(state, tuple) else state
        return h[-1]
