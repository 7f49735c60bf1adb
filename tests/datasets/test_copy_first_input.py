import pytest
import torch

from brc_pytorch.datasets import copy_first_input


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_target_is_the_first_value_and_not_a_view_of_it():
    inputs, targets = copy_first_input(7, 5, generator=seeded(0))
    assert inputs.shape == (7, 5, 1)
    assert targets.shape == (7, 1)
    first = inputs[:, 0].clone()
    inputs.zero_()
    assert torch.equal(targets, first)


def test_values_are_independent_standard_normal():
    inputs, _ = copy_first_input(20_000, 4, generator=seeded(1), dtype=torch.float64)
    covariance = torch.cov(inputs[:, :, 0].T)
    torch.testing.assert_close(covariance, torch.eye(4, dtype=torch.float64), atol=0.05, rtol=0)
    assert abs(float(inputs.mean())) < 0.02


def test_the_generator_alone_decides():
    torch.manual_seed(5)
    first, _ = copy_first_input(3, 4, generator=seeded(2))
    torch.manual_seed(6)
    again, _ = copy_first_input(3, 4, generator=seeded(2))
    other, _ = copy_first_input(3, 4, generator=seeded(3))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_dtype_is_the_default_one_unless_named():
    assert copy_first_input(1, 1)[0].dtype == torch.get_default_dtype()
    inputs, targets = copy_first_input(1, 1, dtype=torch.float64)
    assert inputs.dtype == targets.dtype == torch.float64


def test_zero_sequences_are_an_empty_batch():
    inputs, targets = copy_first_input(0, 3)
    assert inputs.shape == (0, 3, 1)
    assert targets.shape == (0, 1)


def test_all_sequences_are_made_at_once(operator_calls):
    """In as many calls of torch for many sequences as for a few: there is no loop over them."""
    calls = [
        operator_calls(lambda size=sample_size: copy_first_input(size, 30))
        for sample_size in (2, 2_000)
    ]
    assert calls[0] == calls[1]


@pytest.mark.parametrize(
    ("sample_size", "sequence_length", "message"),
    [
        (-1, 3, "sample_size: expected 0 or more, got -1"),
        (3, 0, "sequence_length: expected 1 or more, got 0"),
    ],
)
def test_bad_sizes_are_named(sample_size, sequence_length, message):
    with pytest.raises(ValueError, match=message):
        copy_first_input(sample_size, sequence_length)
