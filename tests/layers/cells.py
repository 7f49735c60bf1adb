"""Cells of a user's own, for the tests of networks."""

import torch
from torch import Tensor, nn


class LeakyCell(nn.Module):
    """It says nothing of itself and has parameters of its own."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(input_size + hidden_size, hidden_size)

    def forward(self, input_t: Tensor, state: Tensor) -> Tensor:
        return 0.9 * state + 0.1 * torch.tanh(self.linear(torch.cat((input_t, state), -1)))


class LeakyPairCell(LeakyCell):
    """The same with a second state, that sums the first."""

    def forward(  # type: ignore[override]
        self, input_t: Tensor, state: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        hidden, total = state
        hidden = super().forward(input_t, hidden)
        return hidden, total + hidden
