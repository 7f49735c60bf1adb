"""Picks one of several results, for use in :class:`torch.nn.Sequential`."""

from collections.abc import Sequence
from typing import Any

from torch import nn


class SelectItem(nn.Module):
    """Hands on one item of a tuple or list, or its last steps.

    Args:
        item_index: which item.
        elem_idx: the time step from which on the item is kept; -5 keeps the last five, 0 all.
            Default: the item as it is.
        batch_first: the item is (B, T, *) if True, (T, B, *) otherwise. Default: True.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from brc_pytorch import SelectItem
        >>> gru = nn.GRU(3, 5, batch_first=True)
        >>> model = nn.Sequential(gru, SelectItem(0, -1), nn.Linear(5, 1))
        >>> model(torch.randn(2, 7, 3)).shape
        torch.Size([2, 1, 1])
    """

    def __init__(
        self, item_index: int, elem_idx: int | None = None, batch_first: bool = True
    ) -> None:
        super().__init__()
        self.item_index = item_index
        self.elem_idx = elem_idx
        self.batch_first = batch_first

    def forward(self, inputs: Sequence[Any]) -> Any:  # noqa: ANN401 - whatever the item is
        """Return item ``item_index`` of ``inputs``, from step ``elem_idx`` on."""
        item = inputs[self.item_index]
        if self.elem_idx is None:
            return item
        return item[:, self.elem_idx :] if self.batch_first else item[self.elem_idx :]

    def extra_repr(self) -> str:
        """The arguments, those at their default left out."""
        steps = "" if self.elem_idx is None else f", elem_idx={self.elem_idx}"
        order = "" if self.batch_first else ", batch_first=False"
        return f"{self.item_index}{steps}{order}"
