import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from brc_pytorch.datasets import BinaryAddition

lengths = st.integers(2, 200)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def single(sample_size, length, seed=0):
    return BinaryAddition(sample_size, length, length, length, "single", generator=seeded(seed))


def number(bits, padding):
    """Reads a number of any size from its bits, and its bit length, by Python's own integers."""
    value = sum(bit << place for place, bit in enumerate(bits) if bit != padding)
    own = value.bit_length()
    assert all(bit in {0, 1} for bit in bits[:own])
    assert all(bit == padding for bit in bits[own:])
    return value, own


@given(length=lengths, seed=st.integers(0, 2**32))
def test_sums_are_right_at_any_length(length, seed):
    data = single(4, length, seed)
    assert data.x.shape == (4, length + 1, 2)
    assert data.y.shape == (4, length + 1, 1)
    assert data.x.dtype == data.y.dtype == torch.int64
    for x, y in zip(data.x.tolist(), data.y.tolist(), strict=True):
        first, first_length = number([bits[0] for bits in x], padding=0)
        second, second_length = number([bits[1] for bits in x], padding=0)
        total, _ = number([bits[0] for bits in y], padding=0)
        assert first_length >= 1
        assert second_length >= 1
        assert first_length + second_length == length
        assert first + second == total


@given(shortest=lengths, span=st.integers(0, 4), size=st.integers(0, 3))
def test_mixed_makes_samples_of_every_length_shortest_first(shortest, span, size):
    longest = shortest + span
    data = BinaryAddition(size, 0, longest, shortest, "mixed", generator=seeded(0))
    assert data.x.shape == (size * (span + 1), longest + 1, 2)
    assert data.y.shape == (size * (span + 1), longest + 1, 1)
    assert len(data) == len(data.x)
    for index, (x, y) in enumerate(zip(data.x.tolist(), data.y.tolist(), strict=True)):
        first, first_length = number([bits[0] for bits in x], padding=2)
        second, second_length = number([bits[1] for bits in x], padding=2)
        total, _ = number([bits[0] for bits in y], padding=2)
        assert first_length + second_length == shortest + index // size
        assert first + second == total


def test_the_first_length_and_the_numbers_are_uniform():
    length, size = 5, 40_000
    data = single(size, length)
    values = (data.x * 2 ** torch.arange(length + 1)[:, None]).sum(1)
    first_lengths = torch.log2(values[:, 0].double()).floor().long() + 1
    for first_length in range(1, length):
        chosen = values[first_lengths == first_length]
        assert len(chosen) == pytest.approx(size / (length - 1), rel=0.05)
        for column, bits in ((0, first_length), (1, length - first_length)):
            counts = chosen[:, column].bincount(minlength=2**bits)
            assert int(counts[: 2 ** (bits - 1)].sum()) == 0
            expected = len(chosen) / 2 ** (bits - 1)
            assert counts[2 ** (bits - 1) :].tolist() == pytest.approx(
                [expected] * 2 ** (bits - 1), rel=0.15
            )


def test_the_generator_alone_decides():
    torch.manual_seed(5)
    first = single(10, 70, seed=1)
    torch.manual_seed(6)
    again, other = single(10, 70, seed=1), single(10, 70, seed=2)
    assert torch.equal(first.x, again.x)
    assert torch.equal(first.y, again.y)
    assert not torch.equal(first.x, other.x)


def test_indexing_gives_floats_of_one_sample_or_a_batch():
    data = single(6, 4)
    x, y = data[3]
    assert x.dtype == y.dtype == torch.float32
    assert x.shape == (5, 2)
    assert torch.equal(x.long(), data.x[3])
    for index in ([1, 4], slice(1, 5, 3), torch.tensor([1, 4])):
        x, y = data[index]
        assert torch.equal(x.long(), data.x[[1, 4]])
        assert torch.equal(y.long(), data.y[[1, 4]])


def test_loaders_work_with_and_without_collation():
    data = single(6, 4)
    by_batch = DataLoader(data, sampler=torch.arange(6).split(4), batch_size=None)
    for (x, y), (plain_x, plain_y) in zip(by_batch, DataLoader(data, batch_size=4), strict=True):
        assert torch.equal(x, plain_x)
        assert torch.equal(y, plain_y)


def test_arguments_keep_the_predecessor_s_names_and_attributes():
    data = BinaryAddition(
        sample_size=2, sequence_length=4, max_sequence_length=9, min_sequence_length=3, mode="mixed"
    )
    assert (data.sample_size, data.sequence_length, data.mode) == (2, 4, "mixed")
    assert (data.max_seq_len, data.min_seq_len) == (9, 3)
    assert len(data) == 14


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 4, 4, 4, "single"), "sample_size: expected 0 or more, got -1"),
        ((1, 1, 4, 4, "single"), "sequence_length: expected 2 or more, .* got 1"),
        ((1, 0, 4, 1, "mixed"), "min_sequence_length: expected 2 or more, .* got 1"),
        ((1, 0, 4, 5, "mixed"), "max_sequence_length: .* 5, or more, got 4"),
        ((1, 4, 4, 4, "both"), 'mode: expected "single" or "mixed", got \'both\''),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        BinaryAddition(*arguments)


def test_the_data_sets_do_without_numpy():
    # A fresh interpreter in which importing NumPy is an error; torch itself copes without it.
    code = (
        "import sys, warnings; sys.modules['numpy'] = None\n"
        "warnings.simplefilter('ignore')  # torch tells that NumPy is missing\n"
        "from brc_pytorch.datasets import BinaryAddition, BRCDataset, copy_first_input\n"
        "data = BinaryAddition(2, 5, 5, 5, 'single')\n"
        "assert BRCDataset(data.x, data.y)[0][0].shape == (6, 2)\n"
        "assert BRCDataset(*copy_first_input(2, 3))[[0, 1]][0].shape == (2, 3, 1)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)  # noqa: S603 - our own code
