import itertools

import pytest
import torch

from brc_pytorch.datasets import (
    STATE_PROBLEMS,
    multiplication_table,
    running_product,
    state_tracking,
)

GROUPS = [name for name in STATE_PROBLEMS if name != "flip-flop"]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def orders(table):
    """How many elements of a group have which order."""
    found = []
    for element in range(len(table)):
        power, order = element, 1
        while power != 0:
            power, order = int(table[power, element]), order + 1
        found.append(order)
    return {order: found.count(order) for order in sorted(set(found))}


@pytest.mark.parametrize("name", STATE_PROBLEMS)
def test_products_are_associative_and_element_0_is_the_identity(name):
    table = multiplication_table(name)
    size = len(table)
    assert table.shape == (size, size)
    assert table.dtype == torch.int64
    assert table.unique().tolist() == list(range(size))  # closed, and every element is a product
    assert torch.equal(table[0], torch.arange(size))
    assert torch.equal(table[:, 0], torch.arange(size))
    # (a b) c and a (b c), for all triples.
    assert torch.equal(table[table], table[:, table])


@pytest.mark.parametrize("name", GROUPS)
def test_every_element_of_a_group_has_one_inverse(name):
    table = multiplication_table(name)
    assert bool(((table == 0).sum(0) == 1).all())
    assert bool(((table == 0).sum(1) == 1).all())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Z2", {1: 1, 2: 1}),
        ("Z16", {1: 1, 2: 1, 4: 2, 8: 4, 16: 8}),
        ("S3", {1: 1, 2: 3, 3: 2}),
        ("S4", {1: 1, 2: 9, 3: 8, 4: 6}),
        ("A5", {1: 1, 2: 15, 3: 20, 5: 24}),
    ],
)
def test_groups_are_told_by_the_orders_of_their_elements(name, expected):
    assert orders(multiplication_table(name)) == expected


def derived(table, members):
    """The subgroup that the commutators of some elements generate."""
    inverse = (table == 0).long().argmax(1)
    found = {
        int(table[table[a, b], table[inverse[a], inverse[b]]])
        for a, b in itertools.product(members, repeat=2)
    }
    while True:
        products = {int(table[a, b]) for a, b in itertools.product(found, repeat=2)}
        if products <= found:
            return found
        found |= products


@pytest.mark.parametrize(
    ("name", "sizes"), [("Z16", [16, 1]), ("S3", [6, 3, 1]), ("S4", [24, 12, 4, 1])]
)
def test_solvable_groups_are_taken_apart_to_the_identity(name, sizes):
    table = multiplication_table(name)
    members = set(range(len(table)))
    for size in sizes:
        assert len(members) == size
        members = derived(table, members)


def test_a5_is_its_own_commutator_subgroup():
    table = multiplication_table("A5")
    assert len(derived(table, range(60))) == 60


def test_a_permutation_is_followed_by_the_next_one():
    # Of S3, in lexicographic order: 1 is (0 2 1), which swaps the last two; 2 is (1 0 2).
    table = multiplication_table("S3")
    permutations = list(itertools.permutations(range(3)))
    after_both = tuple(permutations[2][image] for image in permutations[1])
    assert permutations[int(table[1, 2])] == after_both
    assert not torch.equal(table, table.T)


def test_the_flip_flop_holds_what_was_set_last():
    elements = torch.tensor([[0, 1, 0, 0, 2, 0, 2, 1, 0]])
    states = running_product(elements, multiplication_table("flip-flop"))
    assert states.tolist() == [[0, 1, 1, 1, 2, 2, 2, 1, 1]]


def test_parity_is_the_number_of_ones_modulo_2():
    elements, states = state_tracking(50, 33, "Z2", generator=seeded(0))
    assert torch.equal(states, elements.cumsum(1) % 2)


@pytest.mark.parametrize("name", STATE_PROBLEMS)
@pytest.mark.parametrize("steps", [1, 2, 7, 16])
def test_targets_are_the_products_step_by_step(name, steps):
    elements, states = state_tracking(20, steps, name, keep=0.5, generator=seeded(1))
    table = multiplication_table(name)
    assert elements.shape == states.shape == (20, steps)
    assert elements.dtype == states.dtype == torch.int64
    product = torch.zeros(20, dtype=torch.int64)
    for step in range(steps):
        product = table[product, elements[:, step]]
        assert torch.equal(states[:, step], product)


@pytest.mark.parametrize("name", STATE_PROBLEMS)
def test_a_sequence_in_pieces_goes_on_where_it_was(name):
    table, generator = multiplication_table(name), seeded(2)
    pieces = [state_tracking(9, 5, name, generator=generator)]
    for steps in (1, 8):
        start = pieces[-1][1][:, -1]
        pieces.append(state_tracking(9, steps, name, start=start, generator=generator))
    elements, states = (torch.cat(parts, 1) for parts in zip(*pieces, strict=True))
    assert torch.equal(states, running_product(elements, table))


def test_elements_are_uniform_and_the_flip_flop_keeps_as_often_as_asked():
    elements, _ = state_tracking(600, 100, "S3", generator=seeded(3))
    counts = elements.flatten().bincount()
    # Each count is binomial, 10,000 with a standard deviation of 91.
    assert int((counts - 10_000).abs().max()) < 5 * 91
    elements, _ = state_tracking(600, 100, "flip-flop", keep=0.9, generator=seeded(4))
    counts = elements.flatten().bincount()
    assert abs(int(counts[0]) - 54_000) < 5 * 74
    assert abs(int(counts[1]) - 3_000) < 5 * 54
    always, _ = state_tracking(5, 9, "flip-flop", keep=1, generator=seeded(5))
    never, _ = state_tracking(5, 9, "flip-flop", keep=0, generator=seeded(5))
    assert not bool(always.any())
    assert bool(never.all())


def test_the_generator_alone_decides():
    torch.manual_seed(5)
    first = state_tracking(3, 20, "flip-flop", generator=seeded(2))
    torch.manual_seed(6)
    again = state_tracking(3, 20, "flip-flop", generator=seeded(2))
    other = state_tracking(3, 20, "flip-flop", generator=seeded(3))
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[0], other[0])


def test_it_is_vectorised(operator_calls):
    few, many = (
        operator_calls(lambda size=size: state_tracking(size, 64, "S3")) for size in (2, 2_000)
    )
    assert few == many
    assert operator_calls(lambda: state_tracking(2, 1_024, "Z2")) < 100


def test_no_sequences_are_empty():
    elements, states = state_tracking(0, 4, "A5")
    assert elements.shape == states.shape == (0, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"problem": "Z3"}, "problem: expected one of Z2, .*, flip-flop, got 'Z3'"),
        ({"sample_size": -1}, "sample_size: expected 0 or more, got -1"),
        ({"sequence_length": 0}, "sequence_length: expected 1 or more, got 0"),
        ({"keep": 1.5}, "keep: expected a share, from 0 to 1, got 1.5"),
        ({"start": torch.zeros(4, dtype=torch.int64)}, r"start: expected shape \(3,\), .* \(4,\)"),
    ],
)
def test_what_cannot_be_drawn_is_refused(changes, message):
    arguments = {"sample_size": 3, "sequence_length": 5, "problem": "Z2", **changes}
    with pytest.raises(ValueError, match=message):
        state_tracking(**arguments)
