"""Draw what a GRU and a BRC hold of a number that was shown once, step by step.

These commands train the two networks, alike in all but their cells, and draw them. They take less
than half an hour on two cores:

    brc copy-first-input --lengths 300 --cells GRU,BRC --hidden-size 64 --train-size 20000 \
        --test-size 1000 --batch-size 50 --learning-rate 0.005 --epochs 8 --jobs 2 \
        --output results/holding
    python docs/results/held_value.py results/holding/GRU-length300-layers2-seed0 \
        results/holding/BRC-length300-layers2-seed0 docs/held-value.png

Whatever networks of Copy-First-Input are given are drawn, one beside the other.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from brc_pytorch.experiments.networks import load_network
from brc_pytorch.experiments.show.networks import task_of
from brc_pytorch.experiments.show.results import RunFiles, read_run
from brc_pytorch.experiments.tasks.cells import recurrent_part

TITLES = {"GRU": "Shown once, and lost by a GRU", "BRC": "Shown once, and held by a BRC"}
"""What is to be seen of these cells; of others their names stand there."""
NUMBERS = torch.linspace(-2, 2, 9)
COLOURS = ScalarMappable(Normalize(-2, 2), "turbo")


@torch.no_grad()
def draw_run(axis: Axes, run: RunFiles) -> None:
    """Draw the readout of a network at every step, of held-out numbers near to -2, -1.5, ... 2."""
    task = task_of(run)
    _, data = task.data(run.settings["seed"], task.length_at(0))
    inputs, targets = data[torch.arange(len(data))]
    chosen = (targets - NUMBERS).abs().argmin(0)
    network = load_network(run.directory)
    states = recurrent_part(network).cell_passes(inputs[chosen])[-1].output
    readout = network[-1](states).squeeze(-1)  # which was trained at the last step alone
    steps = len(readout)
    for number, told in zip(targets[chosen, 0].tolist(), readout.T, strict=True):
        colour = COLOURS.to_rgba(number)
        axis.plot(range(1, steps + 1), told, color=colour, linewidth=1.8)
        axis.plot(1.03 * steps, number, "<", color=colour, markersize=8, clip_on=False)
    axis.text(1.0 * steps, 2.45, "shown", color="#555555", ha="left", clip_on=False)
    axis.set_xlabel("steps since the number was shown")
    axis.set(xlim=(0, steps), ylim=(-2.5, 2.5))
    axis.grid(color="#E5E5E5")
    axis.spines[["top", "right"]].set_visible(False)


def draw(runs: Sequence[Path]) -> Figure:
    """Draw some runs beside each other."""
    figure = Figure(figsize=(4.8 * len(runs), 3.9), layout="constrained")
    figure.get_layout_engine().set(wspace=0.08)
    axes = figure.subplots(1, len(runs), sharey=True, squeeze=False)[0]
    for axis, run in zip(axes, map(read_run, runs), strict=True):
        draw_run(axis, run)
        cell = run.settings["cell"]
        axis.set_title(TITLES.get(cell, cell), loc="left", weight="bold")
    axes[0].set_ylabel("what the network says it was")
    return figure


if __name__ == "__main__":
    *directories, output = map(Path, sys.argv[1:])
    draw(directories).savefig(output, dpi=160)
