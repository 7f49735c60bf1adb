"""Layers x directions of any cells: chooses how a sequence goes through them, and runs it.

There are three ways. Where the type of all cells has ``scan_layers(cells, input, state, lengths)``,
it may run them all, each on the outputs of the one before. Otherwise the cells run one by one, each
by its own scan; torch's cells have both from :class:`TorchCell`. Or they run step by step, where
there is neither, and where someone watches the steps (hooks) or has replaced them (a ``forward`` of
one's own). Where segments of the sequence start anew, a way is only taken that knows of it. The
results do not depend on the way.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from brc_pytorch.layers.form import (
    Expected,
    Input,
    State,
    Words,
    enter,
    joined,
    leave_gates,
    leave_sequence,
    leave_state,
    parts,
)
from brc_pytorch.layers.scan import KNOWN_CELLS, scan_by_steps, takes_resets
from brc_pytorch.layers.torch_cells import TorchCell, torch_cell
from brc_pytorch.ops.backends import kernels_compute


class CellPass(NamedTuple):
    """What one cell of a network took and gave, in the form that runs.

    Attributes:
        cell: the cell.
        input: x_1 to x_T, (T, B, I); in layers above the first the outputs of the one below.
        output: its hidden states, (T, B, H), zero where a row has ended.
        state: the state before its first step, (B, H) or a pair of these.
        lengths: how many steps of each row are data, (B) integers, or None for all T.
        reverse: whether it goes from each row's last step to its first.
        resets: where segments begin, (T, B) booleans, or None for one of all steps.
        reset_state: the state that segments start from, (B, H), None for zero.
    """

    cell: nn.Module
    input: Tensor
    output: Tensor
    state: State
    lengths: Tensor | None
    reverse: bool
    resets: Tensor | None = None
    reset_state: Tensor | None = None


class Stack(nn.Module):
    """A network of cells, seen from inside; a face makes it and documents it.

    Attributes:
        cells: layer 0 forward, layer 0 backward, layer 1 forward, ...
        layers: how many there are.
        num_directions: 1 or 2.
        learn_initial_state: whether rows start from ``initial_state`` (cells, H) by default.
    """

    cells: nn.ModuleList
    layers: int
    num_directions: int
    mode: str
    batch_first: bool
    input_size: int | None
    hidden_size: int
    dropout: float
    return_seq: bool
    learn_initial_state: bool = False
    initial_state: nn.Parameter
    _words: Words  # what the face says of input that does not fit

    def _run(self, input: Input, state: State | None, resets: Input | None) -> Any:  # noqa: ANN401 - see MultiLayerBase
        """Return what a face returns for these arguments."""
        own = self._modules.get("cells")  # nn.Module's look-up takes microseconds of a single step
        cells: list[Any] = [*(self.cells if own is None else own._modules.values())]  # noqa: SLF001 - the same
        expected = self._expected(cells)
        together = None
        if self.num_directions == 1 and not (self.dropout and self.training):
            together = _cells_that_scan_layers(cells)
        sequence, state, lengths, begins = enter(input, state, resets, expected)
        found = None
        given = sequence, state, lengths
        if begins is None:
            if together is not None:
                found = type(together[0]).scan_layers(together, *given)
                cells = [*together]
        elif together is not None and _takes_resets(together[0], "scan_layers"):
            reset_states = self._reset_states(sequence.shape[1])
            found = type(together[0]).scan_layers(together, *given, begins, reset_states)
        output, last = found or self._run_one_by_one(cells, *given, begins)
        last = leave_state(last, input)
        if self.return_seq:
            return leave_sequence(output, input, lengths, self.batch_first), last
        return joined(tuple(part[-self.num_directions :] for part in parts(last)))

    def _gates(self, input: Input, state: State | None, resets: Input | None) -> tuple[Tensor, ...]:
        """The gates of all cells at every step, each (cells, T, B, H) in the form of the input."""
        cells = [*self.cells]
        for index, cell in enumerate(cells):
            if not callable(getattr(cell, "gates", None)):
                raise TypeError(
                    f"cells[{index}]: expected a cell with gates, a method gates(input, output, "
                    f"state, lengths, reverse), got a {type(cell).__name__}, which has none"
                )
            if resets is not None and not _takes_resets(cell, "gates"):
                raise TypeError(
                    f"cells[{index}]: expected gates that take resets, "
                    f"got a {type(cell).__name__}, whose do not"
                )
        gates = [
            tuple(of.cell.gates(*(of[1:-2] if resets is None else of[1:])))  # type: ignore[operator]
            for of in self.cell_passes(input, state, resets)
        ]
        for index, of_cell in enumerate(gates):
            if len(of_cell) != len(gates[0]):
                raise ValueError(
                    f"cells[{index}]: expected {len(gates[0])} gates, as cells[0] has, "
                    f"got {len(of_cell)}"
                )
        return tuple(
            leave_gates(torch.stack(gate), input, self.batch_first)
            for gate in zip(*gates, strict=True)
        )

    def cell_passes(
        self, input: Input, state: State | None = None, resets: Input | None = None
    ) -> list[CellPass]:
        """What every cell of the network takes and gives, for whoever looks inside.

        Args:
            input: as the network takes it.
            state: the same.
            resets: the same.

        Returns:
            One for each layer and direction, in the order of ``cells``. The rows of a packed
            sequence are in its own order, longest first.
        """
        cells = [*self.cells]
        sequence, state, lengths, begins = enter(input, state, resets, self._expected(cells))
        passes: list[CellPass] = []
        self._run_one_by_one(cells, sequence, state, lengths, begins, passes)
        return passes

    def _expected(self, cells: Sequence[nn.Module]) -> Expected:
        weight: Tensor | None = None
        if isinstance(cells[0], KNOWN_CELLS):
            own = cells[0]._parameters.values()  # noqa: SLF001 - cell.parameters() takes 10 us
            there = [parameter for parameter in own if parameter is not None]
            weight = there[0] if there else next(cells[0].parameters(), None)
        elif isinstance(cells[0], TorchCell):
            weight = cells[0].weights[0]
        return Expected(
            type(self).__name__,
            self.mode,
            self._words,
            self.batch_first,
            self.input_size,
            self.hidden_size,
            len(cells),
            weight,
            self.initial_state if self.learn_initial_state else None,
        )

    def _run_one_by_one(
        self,
        cells: Sequence[Any],
        input: Tensor,
        state: State,
        lengths: Tensor | None,
        resets: Tensor | None,
        passes: list[CellPass] | None = None,
    ) -> tuple[Tensor, State]:
        """Run cell after cell.

        Args:
            cells: the cells.
            input: x_1 to x_T, (T, B, I).
            state: the states before the first step, (cells, B, H) or a pair of these.
            lengths: how many steps of each row are data, (B) integers, or None for all T.
            resets: where segments begin, (T, B) booleans, or None for one of all steps.
            passes: a list to which what each cell took and gave is added.

        Returns:
            The last layer's hidden states, (T, B, directions * H), and the last states of all.
        """
        initial = [*map(joined, zip(*(part.unbind() for part in parts(state)), strict=True))]
        reset_states = None if resets is None else self._reset_states(input.shape[1])
        last = []
        for layer in range(self.layers):
            outputs = []
            for direction in range(self.num_directions):
                index = layer * self.num_directions + direction
                arguments: tuple[Any, ...] = lengths, direction == 1
                if resets is not None:
                    arguments += resets, None if reset_states is None else reset_states[index]
                output, last_of_cell = scan_cell(cells[index], input, initial[index], *arguments)
                last.append(parts(last_of_cell))
                self._check_last(index, last[-1], input.shape[1])
                if passes is not None:
                    passes.append(CellPass(cells[index], input, output, initial[index], *arguments))
                outputs.append(output)
            input = torch.cat(outputs, dim=-1) if len(outputs) > 1 else outputs[0]
            if self.dropout and layer < self.layers - 1:
                input = F.dropout(input, self.dropout, self.training)
        return input, joined(tuple(torch.stack(part) for part in zip(*last, strict=True)))

    def _reset_states(self, batch: int) -> Tensor | None:
        """The states that segments start from, (cells, B, H), None for zero."""
        if not self.learn_initial_state:
            return None
        return self.initial_state.unsqueeze(1).expand(-1, batch, -1)

    def _check_last(self, index: int, last: tuple[Tensor, ...], batch: int) -> None:
        shape = (batch, self.hidden_size)
        for part in last:
            if part.shape != shape:
                raise ValueError(
                    f"cells[{index}]: expected to return states of shape {shape}, (B, H), "
                    f"got {tuple(part.shape)}"
                )


def scan_cell(
    cell: nn.Module,
    input: Tensor,
    state: State,
    lengths: Tensor | None,
    reverse: bool,
    *resets: Any,  # noqa: ANN401 - resets and reset state, where there are resets
) -> tuple[Tensor, State]:
    """Run one cell, by its own scan, torch's kernels or single steps.

    Args:
        cell: any cell.
        input: x_1 to x_T, (T, B, I).
        state: the state before the first step.
        lengths: how many steps of each row are data.
        reverse: whether to go backwards.
        resets: where segments begin, and the state that they begin from, if there are any.

    Returns:
        The hidden states (T, B, H) and the last state.
    """
    arguments = (input, state, lengths, reverse)
    if not _is_stepwise(cell):
        if defines(type(cell), "scan", "forward"):
            if not resets or _takes_resets(cell, "scan"):
                return cell.scan(*arguments, *resets)  # type: ignore[operator, no-any-return]
        elif (of_torch := torch_cell(cell)) is not None:
            recurrence = of_torch.recurrence
            if not resets or (recurrence is not None and kernels_compute(recurrence, input)):
                return of_torch.scan(*arguments, *resets)
    return scan_by_steps(cell, *arguments, *resets)


def _cells_that_scan_layers(cells: Sequence[Any]) -> Sequence[Any] | None:
    """These cells, if they are of one type that has a ``scan_layers`` that may run them all.

    Of torch's cells it is :class:`TorchCell` that has one.
    """
    kind = type(cells[0])
    for cell in cells:
        if type(cell) is not kind or "scan" in cell.__dict__:
            return None
    if _is_stepwise(*cells):
        return None
    if defines(kind, "scan_layers", "scan", "forward"):
        return cells
    if defines(kind, "scan", "forward"):
        return None
    of_torch = [torch_cell(cell) for cell in cells]
    return None if None in of_torch else of_torch


def _is_stepwise(*cells: nn.Module) -> bool:
    """Whether someone watches the single steps of one of these cells, or has replaced them."""
    for cell in cells:
        own = cell.__dict__
        if (
            "forward" in own
            or own.get("_forward_hooks")  # a TorchCell is no module
            or own.get("_forward_pre_hooks")
            or own.get("_backward_hooks")
            or own.get("_backward_pre_hooks")
        ):
            return True
    return False


def _takes_resets(cell: object, name: str) -> bool:
    """Whether a cell's method of this name has an argument ``resets``."""
    # Into a TorchCell torch.compile cannot look.
    return isinstance(cell, TorchCell) or takes_resets(getattr(cell, name))


def defines(kind: type, name: str, *others: str) -> bool:
    """Whether a type has a method of this name that is at least as specific as the others."""
    # Not vars(): before torch 2.9 torch.compile could not trace it.
    for base in kind.__mro__:
        own = base.__dict__
        if name in own:
            return True
        for other in others:
            if other in own:
                return False
    return False
