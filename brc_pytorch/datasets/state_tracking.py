"""State tracking: read the elements of a group one by one, tell their product after each.

These are the word problems of Liu et al., "Transformers Learn Shortcuts to Automata", ICLR 2023
(arXiv 2210.10749), and Merrill, Petty and Sabharwal, "The Illusion of State in State-Space Models",
ICML 2024 (arXiv 2404.08819). The flip-flop of Liu et al., "Exposing Attention Glitches with
Flip-Flop Language Modeling", NeurIPS 2023 (arXiv 2306.00946), is the word problem of a monoid.
"""

import functools
import itertools

import torch
from torch import Tensor

STATE_PROBLEMS = ("Z2", "Z16", "S3", "S4", "A5", "flip-flop")
"""The known problems; each is known by what its elements form."""


def multiplication_table(problem: str) -> Tensor:
    """Return the products of all pairs of elements: `table[a, b]` is a, followed by b.

    - ``"Z2"``, ``"Z16"``: numbers, added modulo 2 (parity) or 16.
    - ``"S3"``, ``"S4"``: the permutations of three or four things, in lexicographic order.
    - ``"A5"``: the 60 even permutations of five things, the smallest group that is not solvable.
    - ``"flip-flop"``: 0 keeps what there is, 1 and 2 set it.

    Args:
        problem: One of `STATE_PROBLEMS`.

    Returns:
        The table (n, n), int64, for n elements; element 0 is the identity.

    Raises:
        ValueError: If there is no such problem.
    """
    if problem not in STATE_PROBLEMS:
        raise ValueError(f"problem: expected one of {', '.join(STATE_PROBLEMS)}, got {problem!r}")
    return _table(problem).clone()


@functools.cache  # a long sequence is drawn in many pieces
def _table(problem: str) -> Tensor:
    if problem == "flip-flop":
        return torch.tensor([[0, 1, 2], [1, 1, 2], [2, 1, 2]])
    kind, size = problem[0], int(problem[1:])
    if kind == "Z":
        elements = torch.arange(size)
        return (elements[:, None] + elements) % size
    permutations = [
        permutation
        for permutation in itertools.permutations(range(size))
        if kind == "S" or _is_even(permutation)
    ]
    places = {permutation: place for place, permutation in enumerate(permutations)}
    return torch.tensor(
        [[places[tuple(b[image] for image in a)] for b in permutations] for a in permutations]
    )


def _is_even(permutation: tuple[int, ...]) -> bool:
    inversions = sum(a > b for a, b in itertools.combinations(permutation, 2))
    return inversions % 2 == 0


def running_product(elements: Tensor, table: Tensor, start: Tensor | None = None) -> Tensor:
    """Multiply the elements of each row, from the first one up to each of them.

    It takes log2(T) products of whole tensors, not T of columns.

    Args:
        elements: (N, T), int64.
        table: The products of all pairs (n, n), as `multiplication_table` gives them.
        start: What each row's products begin with (N), by default the identity.

    Returns:
        The products (N, T), int64.
    """
    size, products = len(table), table.flatten()
    total = elements.clone()
    if start is not None:
        total[:, :1] = products[start[:, None] * size + total[:, :1]]
    reach = 1  # each product is that of so many elements, as far as there are as many
    while reach < total.shape[1]:
        total[:, reach:] = products[total[:, :-reach] * size + total[:, reach:]]
        reach *= 2
    return total


def state_tracking(
    sample_size: int,
    sequence_length: int,
    problem: str,
    *,
    keep: float = 0.8,
    start: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw sequences of elements, each with the product of all elements so far as its target.

    Elements are uniform and independent; those of the flip-flop are 0 with probability `keep`, and
    1 or 2, equally likely, otherwise.

    A sequence too long for the memory is drawn in pieces, each with the last states of the piece
    before as its `start`.

    Args:
        sample_size: Number of sequences, N; 0 gives empty tensors.
        sequence_length: Number of time steps, T, at least 1.
        problem: One of `STATE_PROBLEMS`, see `multiplication_table`.
        keep: Share of the flip-flop's steps that change nothing, from 0 to 1; unused elsewhere.
        start: The states (N) before the first step, by default the identity.
        generator: Source of the random numbers; its device is where they are drawn and stay.
            By default torch's global one, on the CPU.

    Returns:
        The elements and the states, both (N, T), int64, from 0 to n - 1.

    Raises:
        ValueError: If there is no such problem, a size or `keep` is out of its range, or `start`
            has another shape.
    """
    if sample_size < 0:
        raise ValueError(f"sample_size: expected 0 or more, got {sample_size}")
    if sequence_length < 1:
        raise ValueError(f"sequence_length: expected 1 or more, got {sequence_length}")
    if not 0 <= keep <= 1:
        raise ValueError(f"keep: expected a share, from 0 to 1, got {keep}")
    if start is not None and start.shape != (sample_size,):
        raise ValueError(
            f"start: expected shape {(sample_size,)}, a state a sequence, got {tuple(start.shape)}"
        )
    device = None if generator is None else generator.device
    table = multiplication_table(problem).to(device)
    shape = (sample_size, sequence_length)
    if problem == "flip-flop":
        elements = torch.randint(1, 3, shape, generator=generator, device=device)
        kept = torch.rand(shape, generator=generator, dtype=torch.float64, device=device) < keep
        elements.masked_fill_(kept, 0)
    else:
        elements = torch.randint(len(table), shape, generator=generator, device=device)
    return elements, running_product(elements, table, start)
