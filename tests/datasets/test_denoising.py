import pytest
import torch

from brc_pytorch.datasets import denoising


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("delay", "marked"), [(1, 1), (5, 5), (15, 5), (4, 16)])
def test_sequences_are_as_the_authors_made_them(delay, marked):
    inputs, targets = denoising(300, 20, delay=delay, marked=marked, generator=seeded(0))
    assert inputs.shape == (300, 19 + marked, 2)
    assert targets.shape == (300, marked)
    values, markers = inputs.unbind(-1)
    assert bool(((markers == 1).sum(1) == marked).all())
    assert not bool((markers[:, 20 - delay :] == 1).any())
    assert bool((markers[:, 19] == -1).all())
    assert bool((markers[:, :19] >= 0).all())
    assert not bool(inputs[:, 19, 0].any())
    assert not bool(inputs[:, 20:].any())
    assert torch.equal(values[markers == 1].view(300, marked), targets)  # row by row, in order


def test_all_choices_of_marked_steps_are_equally_likely():
    inputs, _ = denoising(60_000, 8, delay=3, marked=2, generator=seeded(1))
    marked = (inputs[:, :5, 1] == 1).long()
    counts = (marked @ (2 ** torch.arange(5))).bincount()
    counts = counts[counts > 0]
    assert len(counts) == 10  # pairs out of five steps
    # Each count is binomial, 6,000 with a standard deviation of 73.5.
    assert int((counts - 6_000).abs().max()) < 5 * 73.5


def test_values_are_standard_normal_whether_marked_or_not():
    inputs, targets = denoising(5_000, 30, delay=5, generator=seeded(2))
    for values in (inputs[:, :29, 0], targets):
        assert abs(float(values.mean())) < 0.03
        assert abs(float(values.std()) - 1) < 0.03


def test_the_targets_are_no_view_of_the_inputs():
    inputs, targets = denoising(3, 10, delay=2, generator=seeded(3))
    before = targets.clone()
    inputs.zero_()
    assert torch.equal(targets, before)


def test_the_generator_alone_decides():
    torch.manual_seed(5)
    first = denoising(3, 20, delay=2, generator=seeded(2))
    torch.manual_seed(6)
    again = denoising(3, 20, delay=2, generator=seeded(2))
    other = denoising(3, 20, delay=2, generator=seeded(3))
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[0], other[0])


def test_dtype_is_the_default_one_unless_named():
    assert denoising(1, 400)[0].dtype == torch.get_default_dtype()
    inputs, targets = denoising(1, 400, dtype=torch.float64)
    assert inputs.dtype == targets.dtype == torch.float64


def test_zero_sequences_are_an_empty_batch():
    inputs, targets = denoising(0, 400)
    assert inputs.shape == (0, 404, 2)
    assert targets.shape == (0, 5)


def test_all_sequences_are_made_at_once(operator_calls):
    """In as many calls of torch for many sequences as for a few: there is no loop over them."""
    calls = [
        operator_calls(lambda size=sample_size: denoising(size, 30, delay=5))
        for sample_size in (2, 2_000)
    ]
    assert calls[0] == calls[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sample_size": -1}, "sample_size: expected 0 or more, got -1"),
        ({"delay": 0}, "delay: expected 1 or more, got 0"),
        ({"marked": 0}, "marked: expected 1 or more, got 0"),
        ({"sequence_length": 204}, "sequence_length: expected 205 or more, got 204"),
    ],
)
def test_bad_sizes_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        denoising(**{"sample_size": 3, **arguments})
