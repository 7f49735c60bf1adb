"""Binary addition: read two numbers bit by bit, tell their sum bit by bit.

The benchmark of the package brc-pytorch 0.1.3 (Janakarajan and Born), made by the same rules.
"""

import torch
from torch import Tensor
from torch.utils.data import Dataset

# The value that fills a "mixed" data set beyond each number's own bits.
_PADDING = 2
# Two numbers of at least one bit each.
_SHORTEST = 2


def _random_bits(lengths: Tensor, positions: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw numbers of the given bit lengths, their top bit set.

    Setting the top bit and tossing a coin for every other one is the uniform distribution over
    [2 ** (length - 1), 2 ** length), without ever forming a number that needs more than 63 bits.

    Args:
        lengths: Bit lengths (B).
        positions: 0 .. T - 1, as a column (T, 1).
        generator: Source of the random numbers.

    Returns:
        Bits (T, B), uint8, least significant first, 0 beyond each number's own length.
    """
    # Eight coins a random byte, time first: many times faster than a random integer for each bit.
    shape = (len(positions) // 8 + 1, 1, len(lengths))
    coins = torch.randint(256, shape, generator=generator, dtype=torch.uint8, device=lengths.device)
    shifts = torch.arange(8, dtype=torch.uint8, device=lengths.device)[:, None]
    bits = ((coins >> shifts) & 1).flatten(0, 1)[: len(positions)]
    top = lengths - 1
    return bits.masked_fill(positions == top, 1).masked_fill(positions > top, 0)


def _add(first: Tensor, second: Tensor) -> Tensor:
    """Add numbers given as bits (T, B), least significant first; the last carry is dropped."""
    total = first + second
    carry = torch.zeros_like(total[0])
    for step in range(len(total)):
        bit = total[step]  # a view: the sum is formed in place
        bit += carry
        torch.bitwise_right_shift(bit, 1, out=carry)
        bit &= 1
    return total


def _bit_lengths(bits: Tensor, positions: Tensor) -> Tensor:
    """Return the place of the top bit of numbers (T, B), counted from 1."""
    return (bits * (positions + 1)).amax(0)


class BinaryAddition(Dataset[tuple[Tensor, Tensor]]):
    """Pairs of random numbers and their sums, in binary, least significant bit first.

    The bit lengths of the two numbers sum to the sequence length L; the first one's is uniform
    over 1 .. L - 1, and each number is uniform among those of its length whose top bit is set.
    Any length works, also beyond 63 bits.

    With mode "single", `sample_size` samples of one length are made, padded with 0. With mode
    "mixed", `sample_size` samples of every length from `min_sequence_length` to
    `max_sequence_length` are made, shortest first, and every number and sum is padded with 2
    beyond its own top bit. `dataset[index]` gives float32 tensors and takes the same
    indices as `BRCDataset`, so that batches need no collation.

    Attributes:
        x: The two numbers (N, L + 1, 2), int64; L is `max_sequence_length` in mode "mixed".
        y: Their sum (N, L + 1, 1), int64.
        sample_size: As given.
        sequence_length: As given.
        max_seq_len: `max_sequence_length` as given.
        min_seq_len: `min_sequence_length` as given.
        mode: As given.
    """

    def __init__(
        self,
        sample_size: int,
        sequence_length: int,
        max_sequence_length: int,
        min_sequence_length: int,
        mode: str,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        """Draw the samples.

        Args:
            sample_size: Number of samples, of each length in mode "mixed"; 0 or more.
            sequence_length: Sum of the two bit lengths, L, at least 2; unused in mode "mixed".
            max_sequence_length: Longest length of mode "mixed"; unused in mode "single".
            min_sequence_length: Shortest length of mode "mixed", at least 2; unused in mode
                "single".
            mode: "single" or "mixed".
            generator: Source of the random numbers; its device is where they are drawn and stay.
                By default torch's global one, on the CPU.

        Raises:
            ValueError: If `mode` is neither of the two, or a size is out of its range.
        """
        if sample_size < 0:
            raise ValueError(f"sample_size: expected 0 or more, got {sample_size}")
        if mode == "single":
            name, shortest, longest = "sequence_length", sequence_length, sequence_length
        elif mode == "mixed":
            name, shortest, longest = (
                "min_sequence_length",
                min_sequence_length,
                max_sequence_length,
            )
        else:
            raise ValueError(f'mode: expected "single" or "mixed", got {mode!r}')
        if shortest < _SHORTEST:
            raise ValueError(
                f"{name}: expected {_SHORTEST} or more, a bit for each number, got {shortest}"
            )
        if longest < shortest:
            raise ValueError(
                f"max_sequence_length: expected min_sequence_length, {shortest}, or more, "
                f"got {longest}"
            )

        self.sample_size = sample_size
        self.sequence_length = sequence_length
        self.max_seq_len = max_sequence_length
        self.min_seq_len = min_sequence_length
        self.mode = mode

        device = None if generator is None else generator.device
        lengths = torch.arange(
            shortest, longest + 1, dtype=torch.int32, device=device
        ).repeat_interleave(sample_size)
        uniform = torch.rand(len(lengths), generator=generator, dtype=torch.float64, device=device)
        first_lengths = 1 + (uniform * (lengths - 1)).floor().int()

        positions = torch.arange(longest + 1, dtype=torch.int32, device=device)[:, None]
        first = _random_bits(first_lengths, positions, generator)
        second = _random_bits(lengths - first_lengths, positions, generator)
        total = _add(first, second)
        if mode == "mixed":
            for bits in (first, second, total):
                bits.masked_fill_(positions >= _bit_lengths(bits, positions), _PADDING)
        self.x = torch.stack([first.T, second.T], dim=-1).long()
        self.y = total.T[..., None].contiguous().long()

    def __len__(self) -> int:
        """Return the number of samples, N."""
        return len(self.x)

    def __getitem__(self, index: int | slice | list[int] | Tensor) -> tuple[Tensor, Tensor]:
        """Return the numbers (..., L + 1, 2) and sums (..., L + 1, 1) at `index`, as float32."""
        return self.x[index].float(), self.y[index].float()
