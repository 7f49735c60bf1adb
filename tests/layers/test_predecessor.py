"""Code and saved models written for brc-pytorch 0.1.3 go on working."""

from pathlib import Path

import pytest
import torch
from torch import nn

from brc_pytorch.layers import (
    BistableRecurrentCell,
    MultiLayerBase,
    NeuromodulatedBistableRecurrentCell,
    PeepholeLSTMCell,
    SelectItem,
)

SAVED = torch.load(Path(__file__).parents[1] / "data" / "brc_pytorch_0_1_3.pt", weights_only=True)
OUR_CELLS = {
    cell.__name__: cell
    for cell in (BistableRecurrentCell, NeuromodulatedBistableRecurrentCell, PeepholeLSTMCell)
}
CELLS = {
    "GRU": nn.GRUCell,
    "LSTM": nn.LSTMCell,
    "RNN": nn.RNNCell,
    "BRC": BistableRecurrentCell,
    "nBRC": NeuromodulatedBistableRecurrentCell,
}


def name_of(network):
    direction = "bidirectional" if network["bidirectional"] else "forward"
    return f"{network['mode']}-{direction}-{'all' if network['return_sequences'] else 'last'}"


@pytest.mark.parametrize("name", OUR_CELLS)
def test_a_saved_cell_loads_and_gives_what_it_gave(name):
    saved = SAVED["cells"][name]
    cell = OUR_CELLS[name](3, 5)
    cell.load_state_dict(saved["state_dict"])
    torch.testing.assert_close(cell(*saved["args"]), saved["output"])


@pytest.mark.parametrize("name", OUR_CELLS)
def test_a_seed_gives_the_weights_it_gave(name):
    """To rounding: with or without FMA a uniform number differs by an ulp, LAPACK's QR by more."""
    torch.manual_seed(11)
    weights = dict(OUR_CELLS[name](3, 5).state_dict())
    torch.testing.assert_close(weights, SAVED["initial_weights"][name])
    if name == "NeuromodulatedBistableRecurrentCell":
        for memory in (weights["memoryz"], weights["memoryr"]):
            torch.testing.assert_close(memory @ memory.T, torch.eye(5))


@pytest.mark.parametrize("saved", SAVED["networks"], ids=name_of)
def test_a_saved_network_loads_and_gives_what_it_gave(saved):
    mode = saved["mode"]
    directions = 2 if saved["bidirectional"] else 1
    rnn = MultiLayerBase(
        mode,
        [CELLS[mode](3, 5), CELLS[mode](5 * directions, 5)],
        5,
        saved["batch_first"],
        saved["bidirectional"],
        saved["return_sequences"],
        torch.device("cpu"),
    )
    rnn.load_state_dict(saved["state_dict"])
    inputs, state = saved["args"]
    torch.testing.assert_close(rnn(inputs, state), saved["output"])
    torch.testing.assert_close(rnn(inputs, hidden_state=state), saved["output"])


@pytest.mark.parametrize("prefix", ["", "0."])
def test_a_network_saved_from_a_module_list_loads(prefix):
    saved = SAVED["module_list"]
    assert any(name.startswith("cells_forward.") for name in saved["state_dict"])
    cells = nn.ModuleList([NeuromodulatedBistableRecurrentCell(3, 5)])
    rnn = MultiLayerBase("nBRC", cells, 5)
    model = nn.Sequential(rnn) if prefix else rnn
    model.load_state_dict({prefix + name: value for name, value in saved["state_dict"].items()})
    torch.testing.assert_close(rnn(*saved["args"]), saved["output"])


def test_an_unknown_weight_is_still_refused():
    rnn = MultiLayerBase("nBRC", [NeuromodulatedBistableRecurrentCell(3, 5)], 5)
    with pytest.raises(RuntimeError, match="cells_sideways"):
        rnn.load_state_dict({**rnn.state_dict(), "cells_sideways.0.br": torch.zeros(5)})


def test_the_binary_addition_network_of_its_scripts():
    cells = [BistableRecurrentCell(2, 7), BistableRecurrentCell(7, 7)]
    rnn = MultiLayerBase(
        "BRC", cells, 7, batch_first=True, bidirectional=False, return_sequences=True, device="cpu"
    )
    model = nn.Sequential(rnn, SelectItem(0), nn.Linear(7, 1), nn.Sigmoid())
    assert model(torch.ones(4, 6, 2)).shape == (4, 6, 1)


def test_old_names_of_a_cell():
    cell = BistableRecurrentCell(3, output_dim=5)
    assert (cell.input_size, cell.output_dim, cell.state_size) == (3, 5, 5)
    state = cell.get_initial_state(batch_size=2, dtype=torch.float64)
    assert state.shape == (2, 5)
    assert state.dtype == torch.float64


def test_three_argument_call_of_the_peephole_cell():
    cell = PeepholeLSTMCell(2, 20, False)
    h, c = cell.init_hidden(5)
    h, c = cell(torch.rand(5, 2), h, c)
    assert h.shape == c.shape == (5, 20)
    assert cell.bias.shape == (80,)
