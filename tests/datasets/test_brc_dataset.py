import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from brc_pytorch.datasets import BinaryAddition, BRCDataset


@pytest.fixture(params=["tensor", "numpy"])
def arrays(request):
    inputs, outputs = torch.arange(24.0).reshape(6, 4, 1), torch.arange(6.0)[:, None]
    return (inputs, outputs) if request.param == "tensor" else (inputs.numpy(), outputs.numpy())


def test_keeps_the_arrays_as_they_are(arrays):
    dataset = BRCDataset(*arrays)
    assert dataset.input is arrays[0]
    assert dataset.output is arrays[1]
    assert len(dataset) == 6


@pytest.mark.parametrize(
    ("index", "rows"),
    [
        (slice(1, 5, 2), [1, 3]),
        ([4, 0, 4], [4, 0, 4]),
        (torch.tensor([5, 2]), [5, 2]),
        (torch.tensor([False, True, False, False, True, False]), [1, 4]),
        ([], []),
    ],
)
def test_any_index_of_many_gives_a_batch(arrays, index, rows):
    x, y = BRCDataset(*arrays)[index]
    assert isinstance(x, torch.Tensor)
    assert isinstance(y, torch.Tensor)
    assert x.shape == (len(rows), 4, 1)
    assert y[:, 0].tolist() == rows
    assert (x[:, 0, 0] / 4).tolist() == rows


@pytest.mark.parametrize("index", [2, -4, torch.tensor(2), np.int64(2)])
def test_an_int_gives_one_sample_without_a_batch_dimension(arrays, index):
    x, y = BRCDataset(*arrays)[index]
    assert x.shape == (4, 1)
    assert y.tolist() == [2.0]


def test_an_index_out_of_range_is_an_index_error(arrays):
    dataset = BRCDataset(*arrays)
    with pytest.raises(IndexError):
        dataset[6]
    assert [float(y) for _, y in dataset] == [0, 1, 2, 3, 4, 5]  # iteration ends by that error


def test_types_are_those_of_the_arrays():
    x, y = BRCDataset(np.zeros((3, 2)), np.zeros(3, dtype=np.int64))[[0, 1]]
    assert x.dtype == torch.float64
    assert y.dtype == torch.int64


def test_a_loader_without_collation_gives_whole_batches(arrays):
    dataset = BRCDataset(*arrays)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    batches = list(DataLoader(dataset, sampler=order.split(4), batch_size=None))
    assert [len(x) for x, _ in batches] == [4, 2]
    assert torch.cat([y for _, y in batches])[:, 0].tolist() == order.tolist()


def test_a_plain_loader_works_as_it_did(arrays):
    batches = list(DataLoader(BRCDataset(*arrays), batch_size=4))
    assert [tuple(x.shape) for x, _ in batches] == [(4, 4, 1), (2, 4, 1)]


def test_takes_what_binary_addition_holds():
    addition = BinaryAddition(5, 6, 6, 6, "single")
    x, y = BRCDataset(addition.x, addition.y)[:2]
    assert torch.equal(x, addition.x[:2])
    assert torch.equal(y, addition.y[:2])


@pytest.mark.parametrize(
    ("inputs", "outputs", "error", "message"),
    [
        ([1, 2], torch.zeros(2), TypeError, "inputs: expected a tensor or a NumPy array, got list"),
        (torch.zeros(2), None, TypeError, "outputs: expected .* got NoneType"),
        (torch.zeros(()), torch.zeros(2), ValueError, "inputs: expected at least one dimension"),
        (torch.zeros(3), torch.zeros(2), ValueError, "outputs: .* as inputs, 3, got 2"),
    ],
)
def test_bad_arrays_are_named(inputs, outputs, error, message):
    with pytest.raises(error, match=message):
        BRCDataset(inputs, outputs)
