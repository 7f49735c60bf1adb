"""Saves what brc-pytorch 0.1.3 computes: the data that tests/layers/test_predecessor.py reads.

It imports the predecessor, which has our name, so it needs a folder of its own:

    pip install --no-deps --target OLD brc-pytorch==0.1.3
    PYTHONPATH=OLD python tests/data/save_predecessor.py tests/data/brc_pytorch_0_1_3.pt
"""

import sys
from typing import Any

import torch
from torch import Tensor, nn

import brc_pytorch
from brc_pytorch.layers import (
    BistableRecurrentCell,
    MultiLayerBase,
    NeuromodulatedBistableRecurrentCell,
    PeepholeLSTMCell,
)

T, B, I, H = 6, 4, 3, 5  # noqa: E741 - I is the input size everywhere in this project
CELLS = {
    "GRU": nn.GRUCell,
    "LSTM": nn.LSTMCell,
    "RNN": nn.RNNCell,
    "BRC": BistableRecurrentCell,
    "nBRC": NeuromodulatedBistableRecurrentCell,
}


def plain(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else tuple(map(plain, value))


def record(module: nn.Module, *args: Any) -> dict[str, Any]:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    state_dict = {name: value.clone() for name, value in module.state_dict().items()}
    return {"state_dict": state_dict, "args": plain(args), "output": plain(module(*args))}


def initial_weights(cell: type[nn.Module]) -> dict[str, Tensor]:
    torch.manual_seed(11)
    return {name: value.clone() for name, value in cell(I, H).state_dict().items()}


def network(mode: str, bidirectional: bool, return_sequences: bool) -> dict[str, Any]:
    directions = 2 if bidirectional else 1
    cells = [CELLS[mode](I, H), CELLS[mode](directions * H, H)]
    batch_first = return_sequences
    inputs = torch.randn(B, T, I) if batch_first else torch.randn(T, B, I)
    states = [torch.randn(2 * directions, B, H) for _ in range(2 if mode == "LSTM" else 1)]
    state = tuple(states) if mode == "LSTM" else states[0]
    options = {"mode": mode, "bidirectional": bidirectional, "return_sequences": return_sequences}
    rnn = MultiLayerBase(mode, cells, H, batch_first, bidirectional, return_sequences, "cpu")
    return {**options, "batch_first": batch_first, **record(rnn, inputs, state)}


def main(path: str) -> None:
    assert brc_pytorch.__version__ == "0.1.3", brc_pytorch.__version__
    torch.manual_seed(2021)
    x, h, c = torch.randn(B, I), torch.randn(B, H), torch.randn(B, H)
    cells = (BistableRecurrentCell, NeuromodulatedBistableRecurrentCell, PeepholeLSTMCell)
    torch.save(
        {
            "cells": {
                cell.__name__: record(cell(I, H), x, h, *([c] if cell is PeepholeLSTMCell else []))
                for cell in cells
            },
            "initial_weights": {cell.__name__: initial_weights(cell) for cell in cells},
            "networks": [
                network(mode, bidirectional, return_sequences)
                for mode in CELLS
                for bidirectional in (False, True)
                for return_sequences in (False, True)
            ],
            "module_list": record(
                MultiLayerBase("nBRC", nn.ModuleList([cells[1](I, H)]), H, device="cpu"),
                torch.randn(B, T, I),
            ),
        },
        path,
    )


if __name__ == "__main__":
    main(sys.argv[1])
