"""Denoising: keep the marked ones of many random numbers, and give them back when asked.

Benchmark 2 of Vecoven, Ernst and Drion, "A bio-inspired bistable recurrent cell allows for
long-lasting memory", PLOS ONE 16(6), 2021 (arXiv 2006.05252).
"""

import torch
from torch import Tensor


def _random_subsets(
    count: int, size: int, population: int, generator: torch.Generator | None
) -> Tensor:
    """Draw `count` sets of `size` out of 0 .. population - 1, all sets equally likely.

    Floyd's algorithm, for all sets at once: it needs `size` random numbers a set, not
    `population`.

    Returns:
        The sets (count, size), int64, each in ascending order.
    """
    device = None if generator is None else generator.device
    chosen = torch.empty(count, size, dtype=torch.int64, device=device)
    for place, last in enumerate(range(population - size, population)):
        drawn = torch.randint(last + 1, (count,), generator=generator, device=device)
        repeated = (chosen[:, :place] == drawn[:, None]).any(1)
        chosen[:, place] = drawn.masked_fill_(repeated, last)
    return chosen.sort(1).values


def denoising(
    sample_size: int,
    sequence_length: int = 400,
    *,
    delay: int = 200,
    marked: int = 5,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw sequences of N(0, 1) values with some of them marked; these are the targets, in order.

    Each step has two features, a value and a marker. The marker is 1 at the marked steps, -1 at
    step `sequence_length`, the recall signal, whose value is 0, and 0 at the other ones. After the
    recall signal come `marked` - 1 steps of zeros: the network gives back one value at each of the
    last `marked` steps, the first at the recall signal itself.

    This is what the authors' code (`DenoisingDataset` of github.com/nvecoven/BRC) makes and the
    published article uses. Their first code, for the preprint, had marker 0 at marked steps, -1 at
    the other ones and 1 at the recall signal, one step later, and asked for all values at once.

    Args:
        sample_size: Number of sequences; 0 gives empty tensors.
        sequence_length: Number of time steps up to the recall signal, which is the last of them.
        delay: Number of last steps, the recall signal included, that are never marked: N in the
            article, where it is 5, 100 or 200. At least 1.
        marked: Number of marked values, M, at least 1.
        generator: Source of the random numbers; its device is where they are drawn and stay.
            By default torch's global one, on the CPU.
        dtype: Floating-point type of both tensors, by default torch's default type.

    Returns:
        The inputs (`sample_size`, `sequence_length` + M - 1, 2) and the targets
        (`sample_size`, M).

    Raises:
        ValueError: If a size is out of its range, or `sequence_length` is too short for the marked
            values and the delay.
    """
    for name, value, least in (
        ("sample_size", sample_size, 0),
        ("delay", delay, 1),
        ("marked", marked, 1),
        ("sequence_length", sequence_length, delay + marked),
    ):
        if value < least:
            raise ValueError(f"{name}: expected {least} or more, got {value}")
    device = None if generator is None else generator.device
    values = torch.randn(
        (sample_size, sequence_length - 1), generator=generator, dtype=dtype, device=device
    )
    places = _random_subsets(sample_size, marked, sequence_length - delay, generator)
    inputs = values.new_zeros(sample_size, sequence_length + marked - 1, 2)
    inputs[:, : sequence_length - 1, 0] = values
    inputs[:, :, 1].scatter_(1, places, 1)
    inputs[:, sequence_length - 1, 1] = -1
    return inputs, values.gather(1, places)
