"""Warm up networks and tell what it took, and how many states are kept afterwards.

    python benchmarks/warm_up.py

Two layers of 128 units over sequences of 50 normal numbers, the procedure's defaults, two threads;
half a minute a seed. It prints the table of docs/looking-inside.md: the median of the seeds, and
the lowest and the highest.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from statistics import fmean, median
from typing import NamedTuple

import torch
from torch import nn

from brc_pytorch import BRC, GRU, LSTM, NBRC
from brc_pytorch.analysis import settle, vaa, warmup

NETWORKS: dict[str, Callable[[int, int, int], nn.Module]] = {
    "LSTM": LSTM,
    "GRU": GRU,
    "BRC": BRC,
    "nBRC": NBRC,
}
UNITS, LAYERS, STEPS, BATCH, BATCHES = 128, 2, 50, 32, 100
LAST = 20  # batches
INPUTS, SETTLING = 5, 2_000  # constant inputs that VAA is the mean over, and steps of each


class Measured(NamedTuple):
    """What one warm-up gave.

    Attributes:
        seconds: how long it took.
        first: the first batch with a VAA* above 0.95.
        reached: the mean of VAA* over the last batches.
        before: VAA before it, the mean over layers.
        after: VAA after it.
    """

    seconds: float
    first: float
    reached: float
    before: float
    after: float


@torch.no_grad()
def kept(network: nn.Module) -> float:
    """VAA after many steps, the mean over layers and constant inputs."""
    inputs = torch.randn(STEPS, BATCH, 1)
    return fmean(vaa(settle(network, inputs, SETTLING)).mean().item() for _ in range(INPUTS))


def measure(name: str, seed: int) -> Measured:
    """Warm up a network of these cells."""
    torch.manual_seed(seed)
    network = NETWORKS[name](1, UNITS, LAYERS)
    batches = torch.randn(BATCHES, STEPS, BATCH, 1)
    before = kept(network)
    start = time.perf_counter()
    reached = warmup(network, batches)
    seconds = time.perf_counter() - start
    above = [count for count, value in enumerate(reached, start=1) if value > 0.95]  # noqa: PLR2004
    first = above[0] if above else float("nan")
    return Measured(seconds, first, fmean(reached[-LAST:]), before, kept(network))


def told(values: Sequence[float], digits: int) -> str:
    """The median of some values, and the lowest and the highest."""
    of_all = median(values), min(values), max(values)
    return "{} [{}, {}]".format(*(f"{value:.{digits}f}" for value in of_all))


def main() -> None:
    """Measure all, in turns, and tell it as a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    seeds = range(parser.parse_args().seeds)
    torch.set_num_threads(2)
    measure("BRC", 0)  # whatever is slow the first time
    found: dict[str, list[Measured]] = {name: [] for name in NETWORKS}
    for seed in seeds:
        for name, of_seeds in found.items():
            of_seeds.append(measure(name, seed))
    columns = ["cell", "seconds", "first batch above 0.95", f"VAA\\* of the last {LAST} batches"]
    columns += ["VAA before", "VAA after"]
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for name, of_seeds in found.items():
        parts = zip(*of_seeds, strict=True)
        cells = [
            told(values, digits) for values, digits in zip(parts, (1, 0, 2, 2, 2), strict=True)
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
