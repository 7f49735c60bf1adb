"""Two cells side by side, as one layer."""

from typing import Any

import torch
from torch import Tensor, nn

from brc_pytorch.layers.form import State, joined, parts
from brc_pytorch.layers.scan import has_pair_state
from brc_pytorch.layers.stack import scan_cell


class DoubleCell(nn.Module):
    """Two cells that read the same input, neither the other's state, as one cell.

    With a first cell that has been warmed up (:func:`brc_pytorch.analysis.warmup`) and a second one
    that has not, the layer keeps values for long with the one, and computes precisely with the
    other. Source: the double layer of Lambrechts et al., "Warming up recurrent neural networks to
    maximise reachable multistability greatly improves learning", Neural Networks 2023 (arXiv
    2106.01001).

    Args:
        first: a cell of I inputs and H_1 units, as :class:`MultiLayerBase` takes it.
        second: a cell of I inputs and H_2 units. The states of both are tensors, or of both pairs.

    Attributes:
        input_size: I.
        hidden_size: H = H_1 + H_2; the first H_1 units are those of ``first``.
        state_size: H, or (H, H) where the state is a pair.

    Raises:
        ValueError: the cells differ in their inputs or in the kind of their states.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from brc_pytorch import DoubleCell, MultiLayerBase
        >>> cell = DoubleCell(nn.GRUCell(3, 4), nn.GRUCell(3, 4))
        >>> rnn = MultiLayerBase("GRU", [cell], hidden_size=8, return_sequences=True)
        >>> rnn(torch.randn(2, 7, 3))[0].shape
        torch.Size([2, 7, 8])
    """

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        if first.input_size != second.input_size:
            raise ValueError(
                f"second: expected {first.input_size} inputs, as first has, got {second.input_size}"
            )
        is_pair = has_pair_state(first)
        if is_pair != has_pair_state(second):
            raise ValueError("second: expected the same kind of state as first has, got another")
        self.first, self.second = first, second
        self.input_size = int(first.input_size)  # type: ignore[arg-type]
        self.hidden_size = int(first.hidden_size) + int(second.hidden_size)  # type: ignore[arg-type]
        self.state_size = (self.hidden_size,) * 2 if is_pair else self.hidden_size

    def forward(self, input_t: Tensor, state: State) -> State:
        """One step.

        Args:
            input_t: x_t, (B, I).
            state: h_{t-1}, (B, H), or a pair of these.

        Returns:
            h_t, (B, H), or a pair of these.
        """
        first, second = self._halves(state)
        return _beside(self.first(input_t, first), self.second(input_t, second))

    def scan(
        self,
        input: Tensor,
        state: State,
        lengths: Tensor | None = None,
        reverse: bool = False,
        resets: Tensor | None = None,
        reset_state: State | None = None,
    ) -> tuple[Tensor, State]:
        """All steps of a sequence, each cell in its own fastest way.

        Args:
            input: x_1 to x_T, (T, B, I).
            state: the state before the first step, (B, H), or a pair of these.
            lengths: how many steps of each row are data, (B) integers. Default: all.
            reverse: go from each row's last step to its first. Default: False.
            resets: where segments begin, (T, B) booleans. Default: one of all steps.
            reset_state: the state that segments start from, like ``state``. Default: zero.

        Returns:
            The hidden states (T, B, H) and the last state.
        """
        cells, halves = (self.first, self.second), self._halves(state)
        begins: list[list[Any]] = [[], []]
        if resets is not None:
            anew = [None, None] if reset_state is None else self._halves(reset_state)
            begins = [[resets, half] for half in anew]
        found = [
            scan_cell(cell, input, half, lengths, reverse, *begin)
            for cell, half, begin in zip(cells, halves, begins, strict=True)
        ]
        (first, last_of_first), (second, last_of_second) = found
        return torch.cat((first, second), dim=-1), _beside(last_of_first, last_of_second)

    def _halves(self, state: State) -> list[State]:
        sizes = [int(cell.hidden_size) for cell in (self.first, self.second)]  # type: ignore[arg-type]
        halves = zip(*(torch.split(part, sizes, -1) for part in parts(state)), strict=True)
        return [*map(joined, halves)]


def _beside(first: State, second: State) -> State:
    return joined(
        tuple(torch.cat(both, dim=-1) for both in zip(parts(first), parts(second), strict=True))
    )
