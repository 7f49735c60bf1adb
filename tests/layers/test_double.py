"""Two cells side by side beside the two alone."""

import pytest
import torch
from torch import nn

from brc_pytorch import BistableRecurrentCell, DoubleCell, MultiLayerBase, check_cell
from brc_pytorch.layers.form import parts

CELLS = {
    "GRU": (nn.GRUCell, nn.GRUCell),
    "LSTM": (nn.LSTMCell, nn.LSTMCell),
    "RNN": (BistableRecurrentCell, nn.RNNCell),
}


@pytest.mark.parametrize("mode", CELLS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_layer_is_two_layers_that_do_not_see_each_other(mode, bidirectional):
    first, second = CELLS[mode]
    sizes = (3, 5), (3, 4)
    double = DoubleCell(first(*sizes[0]), second(*sizes[1]))
    options = {"batch_first": False, "bidirectional": bidirectional, "return_sequences": True}
    rnn = MultiLayerBase(mode, [double], 9, **options)
    x = torch.randn(7, 2, 3)
    resets = torch.rand(7, 2) < 0.3
    states = [torch.randn(len(rnn.cells), 2, 9) for _ in range(2 if mode == "LSTM" else 1)]
    state = tuple(states) if mode == "LSTM" else states[0]
    output, last = rnn(x, state, resets=resets)
    for place, units in (("first", slice(0, 5)), ("second", slice(5, 9))):
        cells = [getattr(cell, place) for cell in rnn.cells]
        alone = MultiLayerBase(mode, [cells[0]], cells[0].hidden_size, **options)
        alone.cells = nn.ModuleList(cells)
        half = tuple(part[..., units] for part in parts(state))
        expected, expected_last = alone(x, half if mode == "LSTM" else half[0], resets=resets)
        for direction, found in enumerate(output.split(9, -1)):
            size = cells[0].hidden_size
            part = expected[..., direction * size : (direction + 1) * size]
            torch.testing.assert_close(found[..., units], part)
        for found, part in zip(parts(last), parts(expected_last), strict=True):
            torch.testing.assert_close(found[..., units], part)


def test_a_step_is_that_of_both_cells():
    double = DoubleCell(nn.LSTMCell(3, 5), nn.LSTMCell(3, 4))
    assert (double.input_size, double.hidden_size, double.state_size) == (3, 9, (9, 9))
    x, h, c = torch.randn(2, 3), torch.randn(2, 9), torch.randn(2, 9)
    found = double(x, (h, c))
    first, second = double.first(x, (h[:, :5], c[:, :5])), double.second(x, (h[:, 5:], c[:, 5:]))
    for part, a, b in zip(found, first, second, strict=True):
        assert (part == torch.cat((a, b), -1)).all()


@pytest.mark.parametrize("mode", CELLS)
def test_it_keeps_the_contract_of_cells(mode):
    first, second = CELLS[mode]
    check_cell(DoubleCell(first(3, 5), second(3, 4)))


def test_cells_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"^second: expected 3 inputs, as first has, got 2"):
        DoubleCell(nn.GRUCell(3, 4), nn.GRUCell(2, 4))
    with pytest.raises(ValueError, match=r"^second: expected the same kind of state"):
        DoubleCell(nn.GRUCell(3, 4), nn.LSTMCell(3, 4))
