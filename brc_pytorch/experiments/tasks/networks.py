"""The network of a run as it is before training, warmed up where its cell's name says so."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from brc_pytorch.analysis import warmup
from brc_pytorch.experiments.tasks.cells import recurrent_part, split_warmth
from brc_pytorch.experiments.tasks.task import Task, random_stream

_BATCHES, _BATCH_SIZE = 100, 32  # of a warm-up, as in Lambrechts et al. 2023


def first_network(task: Task, cell: str, seed: int) -> nn.Module:
    """Make the network that a run begins with; the same one each time.

    Raises:
        ValueError: If there is no such cell, or it is to be warmed up by sequences of different
            lengths or of a group's elements.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random_stream(seed, "weights").initial_seed())
        network = task.network(cell)
    warmth, _ = split_warmth(cell)
    if warmth:
        settling = random_stream(seed, "warm-up settling")
        warmup(recurrent_part(network), _batches(task, cell, seed), generator=settling)
    return network


def _batches(task: Task, cell: str, seed: int) -> Iterator[Tensor]:
    """Yield training inputs for a warm-up."""
    data, _ = task.data(seed, task.length_at(0))
    generator = random_stream(seed, "warm-up batches")
    for _ in range(_BATCHES):
        inputs, _ = data[torch.randint(len(data), (_BATCH_SIZE,), generator=generator)]
        if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
            raise ValueError(
                "cell: expected one that is not warmed up, for sequences of different lengths or "
                f"of a group's elements, got {cell}"
            )
        yield inputs
