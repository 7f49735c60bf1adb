"""What a network says of input and states that do not fit."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from brc_pytorch.layers import (
    MultiLayerBase,
    NeuromodulatedBistableRecurrentCell,
    PeepholeLSTMCell,
)

CELLS = {
    "GRU": ("GRU", nn.GRUCell),
    "LSTM": ("LSTM", nn.LSTMCell),
    "nBRC": ("nBRC", NeuromodulatedBistableRecurrentCell),
    "PeepholeLSTM": ("LSTM", PeepholeLSTMCell),
}


def network(name):
    mode, cell = CELLS[name]
    return MultiLayerBase(mode, [cell(3, 5), cell(5, 5)], 5, return_sequences=True)


@pytest.mark.parametrize("name", ["GRU", "nBRC", "PeepholeLSTM"])
@pytest.mark.parametrize(
    ("x", "error", "expected"),
    [
        (torch.zeros(2, 4, 7), ValueError, r"input: expected shape \(\*, 3\), got"),
        (torch.zeros(2, 4, 3, 1), ValueError, r"3, \(B, T, I\), got \(2, 4, 3, 1\)"),
        (torch.zeros(3), ValueError, "input: expected 2 dimensions"),
        (torch.zeros(2, 0, 3), RuntimeError, "sequence of at least one step, got none"),
        (torch.zeros(2, 4, 3, dtype=torch.float64), ValueError, "input: expected dtype"),
        (torch.zeros(2, 4, 3, device="meta"), ValueError, "input: expected device cpu"),
    ],
)
def test_bad_input_is_named(name, x, error, expected):
    with pytest.raises(error, match=expected):
        network(name)(x)


@pytest.mark.parametrize("name", ["GRU", "LSTM", "nBRC", "PeepholeLSTM"])
@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (torch.zeros(1, 2, 5), r"expected shape \(2, 2, 5\), .*, got \(1, 2, 5\)"),
        (torch.zeros(2, 2, 5, dtype=torch.float64), "expected dtype torch.float32"),
        (torch.zeros(2, 2, 5, device="meta"), "expected device cpu"),
    ],
)
def test_bad_states_are_named(name, state, expected):
    rnn = network(name)
    with pytest.raises(ValueError, match=f"state: {expected}"):
        rnn(torch.zeros(2, 4, 3), (state, state) if rnn.mode == "LSTM" else state)


def test_a_state_of_the_wrong_kind_is_named():
    state = torch.zeros(2, 2, 5)
    with pytest.raises(
        ValueError, match="state: expected one tensor h_0 for mode 'GRU', got a tuple"
    ):
        network("GRU")(torch.zeros(2, 4, 3), (state, state))
    with pytest.raises(ValueError, match=r"expected a pair \(h_0, c_0\) for mode 'LSTM', got one"):
        network("LSTM")(torch.zeros(2, 4, 3), state)
    with pytest.raises(ValueError, match=r"expected a pair .* for mode 'LSTM', got a list of 3"):
        network("LSTM")(torch.zeros(2, 4, 3), [state] * 3)
    with pytest.raises(ValueError, match="hidden_state: is another name of state, got both"):
        network("GRU")(torch.zeros(2, 4, 3), state, hidden_state=state)


@pytest.mark.parametrize("name", ["GRU", "nBRC"])
def test_what_is_no_sequence_or_no_state_is_named(name):
    rnn, x = network(name), torch.zeros(2, 4, 3)
    with pytest.raises(TypeError, match="input: expected a tensor or a PackedSequence, got a list"):
        rnn([[1.0, 2.0, 3.0]])
    with pytest.raises(ValueError, match=r"state: expected one tensor h_0 .*, got a float"):
        rnn(x, 1.0)
    with pytest.raises(
        ValueError, match=r"state: expected 2 dimensions, .*sequence \(T, I\), got \(2, 1, 5\)"
    ):
        rnn(x[0], torch.zeros(2, 1, 5))
    packed = pack_padded_sequence(x[..., 0], [4, 2], batch_first=True)  # without features
    with pytest.raises(ValueError, match=r"input: expected packed data of .* got \(6,\)"):
        rnn(packed)
    packed = pack_padded_sequence(x, [4, 2], batch_first=True, enforce_sorted=False)
    with pytest.raises(ValueError, match=r"state: expected shape \(2, 2, 5\), .* got \(2, 5\)"):
        rnn(packed, torch.zeros(2, 5))
