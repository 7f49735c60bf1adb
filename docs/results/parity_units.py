"""Find the units of trained networks whose state alone tells the parity of a sequence.

The first command trains the networks, some ten minutes on two cores, the second prints the units of
their first layers, as a table in Markdown:

    brc state-tracking --cells BRC-switch --problems Z2 --learning-rates 0.001,0.003,0.01 \
        --max-test-length 131072 --jobs 2 --output results/parity
    python docs/results/parity_units.py results/parity/BRC-switch-problemZ2-layers2-seed*
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from brc_pytorch.experiments.networks import load_network
from brc_pytorch.experiments.tasks.cells import recurrent_part

STEPS, FIRST = 2_000, 100  # the steps before are left out: a state may settle
HEAD = (
    "| seed | unit | w_a | state after an odd number of ones | state after an even one |",
    "|---|---|---|---|---|",
)


class ParityUnit(NamedTuple):
    """A unit whose states after an odd and after an even number of ones do not overlap.

    Attributes:
        unit: its place in the layer.
        feedback: w_a of its gate.
        odd: its lowest and its highest state after an odd number of ones.
        even: the same after an even one.
    """

    unit: int
    feedback: float
    odd: tuple[float, float]
    even: tuple[float, float]


def _range(states: Tensor) -> tuple[float, float]:
    return states.min().item(), states.max().item()


@torch.no_grad()
def parity_units(run: Path) -> Iterator[ParityUnit]:
    """Yield such units of the first layer of a BRC that was trained on Z2, by 32 sequences."""
    bits = torch.randint(2, (32, STEPS), generator=torch.Generator().manual_seed(0))
    is_odd = (bits.cumsum(1) % 2 == 1).T[FIRST:]
    layers = recurrent_part(load_network(run, "last"))
    (cell, *_), (first, *_) = layers.cells, layers.cell_passes(functional.one_hot(bits).float())
    for unit, states in enumerate(first.output[FIRST:].unbind(2)):
        odd, even = _range(states[is_odd]), _range(states[~is_odd])
        if odd[0] > even[1] or even[0] > odd[1]:
            yield ParityUnit(unit, cell.memoryr[unit].item(), odd, even)


def table(runs: Sequence[str]) -> Iterator[str]:
    """Yield the lines of a table of the units of some runs."""
    yield from HEAD
    for run in runs:
        seed = run.rpartition("seed")[2]
        for unit, feedback, odd, even in parity_units(Path(run)):
            odd_range, even_range = (f"{low:.2f} to {high:.2f}" for low, high in (odd, even))
            yield f"| {seed} | {unit} | {feedback:.1f} | {odd_range} | {even_range} |"


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in table(sys.argv[1:]))
