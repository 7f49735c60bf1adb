"""Copy-First-Input: remember the first of T random numbers until the end.

Benchmark 1 of Vecoven, Ernst and Drion, "A bio-inspired bistable recurrent cell allows for
long-lasting memory", PLOS ONE 16(6), 2021.
"""

import torch
from torch import Tensor


def copy_first_input(
    sample_size: int,
    sequence_length: int,
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw sequences of independent N(0, 1) values, each with its first value as the target.

    Args:
        sample_size: Number of sequences, N; 0 gives empty tensors.
        sequence_length: Number of time steps, T, at least 1.
        generator: Source of the random numbers; its device is where they are drawn and stay.
            By default torch's global one, on the CPU.
        dtype: Floating-point type of both tensors, by default torch's default type.

    Returns:
        The inputs (N, T, 1) and the targets (N, 1).

    Raises:
        ValueError: If `sample_size` is negative or `sequence_length` is below 1.
    """
    if sample_size < 0:
        raise ValueError(f"sample_size: expected 0 or more, got {sample_size}")
    if sequence_length < 1:
        raise ValueError(f"sequence_length: expected 1 or more, got {sequence_length}")
    device = None if generator is None else generator.device
    shape = (sample_size, sequence_length, 1)
    inputs = torch.randn(shape, generator=generator, dtype=dtype, device=device)
    # A copy, so that noise added to the inputs in place leaves the targets as they are.
    return inputs, inputs[:, 0].clone()
