"""Networks that cannot be: a mode, a size or a state that the cells contradict."""

import pytest
import torch
from torch import nn

from brc_pytorch.layers import (
    BistableRecurrentCell,
    MultiLayerBase,
    NeuromodulatedBistableRecurrentCell,
    PeepholeLSTMCell,
)
from tests.layers.cells import LeakyCell, LeakyPairCell


def test_mixed_networks_are_labelled_rnn():
    cells = [nn.GRUCell(3, 5), BistableRecurrentCell(5, 5), LeakyCell(5, 5)]
    rnn = MultiLayerBase("RNN", cells, 5)
    assert rnn(torch.randn(2, 4, 3)).shape == (1, 2, 5)
    with pytest.raises(
        ValueError, match=r"mode: 'GRU' contradicts cells\[1\], a BistableRecurrent"
    ):
        MultiLayerBase("GRU", cells, 5)


@pytest.mark.parametrize(
    ("mode", "cell"),
    [
        ("LSTM", nn.GRUCell(3, 5)),
        ("GRU", nn.LSTMCell(3, 5)),
        ("GRU", PeepholeLSTMCell(3, 5)),
        ("BRC", NeuromodulatedBistableRecurrentCell(3, 5)),
        ("nBRC", BistableRecurrentCell(3, 5)),
        ("LSTM", NeuromodulatedBistableRecurrentCell(3, 5)),
        ("RNN", nn.LSTMCell(3, 5)),
    ],
)
def test_a_mode_that_contradicts_the_cells_is_refused(mode, cell):
    with pytest.raises(
        ValueError, match=rf"mode: '{mode}' contradicts cells\[0\], a {type(cell)._get_name(cell)}"
    ):
        MultiLayerBase(mode, [cell], 5)


def test_a_cell_of_ones_own_says_what_its_state_is():
    class Declared(LeakyPairCell):
        state_size = (5, 5)

    MultiLayerBase("LSTM", [Declared(3, 5)], 5)
    with pytest.raises(ValueError, match=r"mode: 'GRU' contradicts cells\[0\], a Declared"):
        MultiLayerBase("GRU", [Declared(3, 5)], 5)
    Declared.state_size = 5
    with pytest.raises(ValueError, match=r"mode: 'LSTM' contradicts cells\[0\], a Declared"):
        MultiLayerBase("LSTM", [Declared(3, 5)], 5)


class TupleCell(LeakyCell):
    """Takes one tensor and returns two."""

    def forward(self, input_t, state):
        hidden = super().forward(input_t, state)
        return hidden, hidden


class FirstOfPairCell(LeakyCell):
    """Takes two tensors and returns one."""

    def forward(self, input_t, state):
        return super().forward(input_t, state[0])


class TripleCell(LeakyCell):
    """Takes one tensor and returns three."""

    def forward(self, input_t, state):
        return (super().forward(input_t, state),) * 3


@pytest.mark.parametrize(
    ("mode", "cell", "expected"),
    [
        ("GRU", TripleCell, "expected its next state to be one tensor .* got a tuple of 3"),
        ("GRU", TupleCell, "expected its next state to be one tensor .* got a pair"),
        ("LSTM", FirstOfPairCell, "expected its next state to be a pair .* got one tensor"),
    ],
)
def test_a_state_that_changes_its_kind_is_refused_at_the_first_step(mode, cell, expected):
    rnn = MultiLayerBase(mode, [cell(3, 5)], 5)
    with pytest.raises(ValueError, match=expected):
        rnn(torch.randn(2, 4, 3))


def test_a_cell_of_another_size_than_it_was_said_to_have_is_refused():
    rnn = MultiLayerBase("RNN", [LeakyCell(3, 5)], 6)
    with pytest.raises(RuntimeError):  # the user's own product of matrices is the first to notice
        rnn(torch.randn(2, 4, 3))

    class Wide(LeakyCell):
        def forward(self, input_t, state):
            return super().forward(input_t, state).repeat(1, 2)

    class Stateless(nn.Module):
        def forward(self, input_t, state):
            return torch.cat((state, input_t), -1)

    with pytest.raises(
        ValueError, match=r"cells\[0\]: expected to return states of shape \(2, 5\)"
    ):
        MultiLayerBase("RNN", [Stateless()], 5)(torch.randn(2, 1, 3))


@pytest.mark.parametrize(
    ("arguments", "error", "expected"),
    [
        (("GRU", [], 5), ValueError, "cells: expected one cell a layer, got an empty list"),
        (("GRU", nn.GRUCell(3, 5), 5), TypeError, "cells: expected a list .* got one GRUCell"),
        (
            ("GRU", [nn.GRUCell], 5),
            TypeError,
            r"cells\[0\]: expected a torch.nn.Module, got <class",
        ),
        (("GRU", [nn.GRUCell(3, 5)], 6), ValueError, r"cells\[0\]: expected hidden_size=6, got 5"),
        (("GRU", [nn.GRUCell(3, 5)], [5, 5]), TypeError, "hidden_size: expected an int"),
        (
            ("GRU", [nn.GRUCell(3, 5), nn.GRUCell(3, 5)], 5),
            ValueError,
            r"cells\[1\]: expected input_size=5 \(the hidden_size of the layer before\), got 3",
        ),
        (
            ("GRU", [nn.GRUCell(3, 5), nn.GRUCell(5, 5)], 5, True, True),
            ValueError,
            r"cells\[1\]: expected input_size=10 \(2 \* hidden_size.*\), got 5",
        ),
        (("gru", [nn.GRUCell(3, 5)], 5), ValueError, "mode: expected one of 'GRU'.* got 'gru'"),
    ],
)
def test_bad_networks_are_refused(arguments, error, expected):
    with pytest.raises(error, match=expected):
        MultiLayerBase(*arguments)
