import pytest
import torch
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence
from torch.utils.data import DataLoader

from brc_pytorch.datasets import SequentialMNIST

IMAGES = torch.randint(256, (6, 28, 28), dtype=torch.uint8, generator=torch.Generator())
LABELS = torch.tensor([3, 1, 4, 1, 5, 9])


def test_pixels_come_row_by_row_between_half_below_and_half_above_zero():
    inputs, labels = SequentialMNIST(IMAGES, LABELS)[:]
    assert inputs.shape == (6, 784, 1)
    assert inputs.dtype == torch.float32
    torch.testing.assert_close((inputs[..., 0] + 0.5) * 255, IMAGES.flatten(1).float())
    assert labels.tolist() == LABELS.tolist()


def test_lines_come_from_top_to_bottom():
    inputs, _ = SequentialMNIST(IMAGES, LABELS, by="line")[:]
    torch.testing.assert_close((inputs + 0.5) * 255, IMAGES.float())


@pytest.mark.parametrize(("by", "steps", "blank"), [("pixel", 784, -0.5), ("line", 28, 0)])
def test_blank_steps_follow_the_permuted_image(by, steps, blank):
    order = torch.randperm(steps, generator=torch.Generator().manual_seed(0))
    plain, _ = SequentialMNIST(IMAGES, LABELS, by=by)[:]
    inputs, _ = SequentialMNIST(IMAGES, LABELS, by=by, permutation=order, padding=3)[:]
    assert torch.equal(inputs[:, :steps], plain[:, order])
    assert inputs.shape[1] == steps + 3
    assert bool((inputs[:, steps:] == blank).all())


@pytest.mark.parametrize(
    "index", [slice(1, 4), [1, 2, 3], torch.tensor([1, 2, 3]), torch.arange(6).clamp(1, 3) % 4 == 9]
)
def test_indices_are_those_of_any_data_set_here(index):
    inputs, labels = SequentialMNIST(IMAGES, LABELS, by="line", padding=2)[index]
    assert inputs.shape[1:] == (30, 28)
    assert torch.equal(labels, LABELS[index])
    torch.testing.assert_close((inputs[:, :28] + 0.5) * 255, IMAGES[index].float())


def test_a_plain_loader_works():
    ((inputs, labels),) = DataLoader(SequentialMNIST(IMAGES, LABELS, padding=1), batch_size=6)
    expected, _ = SequentialMNIST(IMAGES, LABELS, padding=1)[:]
    assert torch.equal(inputs, expected)
    assert torch.equal(labels, LABELS)


def test_each_image_may_have_its_own_number_of_blank_lines_which_ones_end():
    padding = torch.tensor([1, 5, 2, 5, 3, 1])
    data = SequentialMNIST(IMAGES, LABELS, by="line", padding=padding)
    packed, labels = data[[4, 1, 0]]
    assert isinstance(packed, PackedSequence)
    assert labels.tolist() == [5, 1, 3]
    inputs, lengths = pad_packed_sequence(packed, batch_first=True)
    assert lengths.tolist() == [31, 33, 29]
    for row, length, index in zip(inputs, lengths, (4, 1, 0), strict=True):
        torch.testing.assert_close((row[:28] + 0.5) * 255, IMAGES[index].float())
        assert not bool(row[28 : length - 1].any())
        assert bool((row[length - 1] == 1).all())
        single, _ = data[index]
        assert torch.equal(single, row[:length])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": IMAGES.float()}, "images: expected .* uint8, got .* torch.float32"),
        ({"images": IMAGES[0]}, r"images: expected \(N, height, width\), uint8, got \(28, 28\)"),
        ({"labels": LABELS[:5]}, r"labels: expected one for each of 6 images, got \(5,\)"),
        ({"by": "row"}, 'by: expected "pixel" or "line", got \'row\''),
        ({"permutation": torch.arange(28)}, "permutation: expected an order of 0 to 783"),
        ({"permutation": torch.zeros(784)}, "permutation: expected an order of 0 to 783"),
        ({"padding": -1}, "padding: expected 0 or more, got -1"),
        ({"padding": torch.tensor([1, 2, 0, 1, 1, 1])}, "padding: expected 1 or more, got 0"),
        ({"padding": torch.tensor([1])}, r"padding: expected one for each of 6 images, got \(1,\)"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        SequentialMNIST(**{"images": IMAGES, "labels": LABELS, **arguments})
