"""SelectItem hands on one item, or its last steps."""

import pytest
import torch

from brc_pytorch.layers import SelectItem

ITEMS = (torch.arange(24.0).reshape(2, 4, 3), torch.zeros(1))


def test_an_item_as_it_is():
    assert SelectItem(0)(ITEMS) is ITEMS[0]
    assert SelectItem(-1)([*ITEMS]) is ITEMS[1]


@pytest.mark.parametrize("start", [0, 1, -1, -4])
def test_from_a_step_on(start):
    torch.testing.assert_close(SelectItem(0, start)(ITEMS), ITEMS[0][:, start:])
    torch.testing.assert_close(SelectItem(0, start, batch_first=False)(ITEMS), ITEMS[0][start:])


def test_zero_is_an_index():
    assert SelectItem(0, 0)(ITEMS) is not ITEMS[0]
    assert repr(SelectItem(0, 0)) == "SelectItem(0, elem_idx=0)"
    assert repr(SelectItem(1, batch_first=False)) == "SelectItem(1, batch_first=False)"


def test_items_of_two_dimensions():
    torch.testing.assert_close(SelectItem(0, -1)((ITEMS[0][..., 0],)), ITEMS[0][:, -1:, 0])
