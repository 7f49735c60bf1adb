"""A program written for brc-pytorch 0.1.3: trains networks, saves them, loads what was saved.

try_install.py runs it with 0.1.3, then with what has replaced it, and compares what it prints.
"""

import sys
from pathlib import Path

import torch
from torch import nn

from brc_pytorch.layers import BistableRecurrentCell, MultiLayerBase, SelectItem
from brc_pytorch.layers.neuromodulated_brc_layer import NeuromodulatedBistableRecurrentCell

CELLS = {"BRC": BistableRecurrentCell, "nBRC": NeuromodulatedBistableRecurrentCell}


def main(folder: Path) -> None:
    """Train with each cell, and print the losses; the last is that of the network saved first."""
    for mode, cell in CELLS.items():
        torch.manual_seed(7)
        rnn = MultiLayerBase(mode, [cell(1, 16), cell(16, 16)], 16, return_sequences=True)
        model = nn.Sequential(rnn, SelectItem(0, -1), nn.Linear(16, 1))
        inputs = torch.randn(8, 20, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(5):
            loss = nn.functional.mse_loss(model(inputs), inputs[:, :1])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            print(f"{mode} {loss.item():.4f}")
        saved = folder / f"{mode}.pt"
        if not saved.exists():
            torch.save(model.state_dict(), saved)
        model.load_state_dict(torch.load(saved))
        print(f"{mode} {nn.functional.mse_loss(model(inputs), inputs[:, :1]).item():.4f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
