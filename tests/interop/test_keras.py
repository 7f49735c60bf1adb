"""Weights of the authors' cells."""

import numpy as np
import pytest
import torch
from torch import nn

from brc_pytorch import BRC, NBRC, BistableRecurrentCell, NeuromodulatedBistableRecurrentCell
from brc_pytorch.interop.keras import keras_weights, load_keras_weights


def authors_step(weights, x, h, neuromodulated):
    """The authors' ``call``, in NumPy, on their list of weights."""
    kz, kr, kh, mz, mr, br, bz = weights
    product = np.matmul if neuromodulated else np.multiply
    z = 1 / (1 + np.exp(-(x @ kz + product(h, mz) + bz)))
    r = np.tanh(x @ kr + product(h, mr) + br) + 1
    return (1 - z) * np.tanh(x @ kh + r * h) + z * h


@pytest.mark.parametrize("cell_type", [BistableRecurrentCell, NeuromodulatedBistableRecurrentCell])
def test_the_authors_weights_give_the_authors_states(cell_type):
    rng = np.random.default_rng(0)
    neuromodulated = cell_type is NeuromodulatedBistableRecurrentCell
    memory = (5, 5) if neuromodulated else (5,)
    weights = [rng.normal(size=shape) for shape in [(3, 5)] * 3 + [memory] * 2 + [(5,)] * 2]
    cell = cell_type(3, 5, dtype=torch.float64)
    load_keras_weights(cell, weights)
    x, h = rng.normal(size=(4, 3)), rng.normal(size=(4, 5))
    expected = authors_step(weights, x, h, neuromodulated)
    torch.testing.assert_close(
        cell(torch.from_numpy(x), torch.from_numpy(h)), torch.from_numpy(expected)
    )
    for ours, theirs in zip(keras_weights(cell), weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs)


@pytest.mark.parametrize("network_type", [BRC, NBRC])
def test_networks_follow_cell_after_cell(network_type):
    source = network_type(3, 5, num_layers=2, bidirectional=True)
    target = network_type(3, 5, num_layers=2, bidirectional=True)
    saved = keras_weights(source)
    assert len(saved) == 4 * 7
    torch.testing.assert_close(saved[7], source.cells[1].kernelz.detach())
    load_keras_weights(target, saved)
    torch.testing.assert_close(dict(target.state_dict()), dict(source.state_dict()))
    saved[0].zero_()  # a copy, not a view
    assert source.cells[0].kernelz.any()


def test_nothing_is_copied_unless_everything_fits():
    cell = BistableRecurrentCell(3, 5)
    before = {name: value.clone() for name, value in cell.state_dict().items()}
    weights = [torch.full_like(weight, 7) for weight in keras_weights(cell)]
    with pytest.raises(ValueError, match="weights: expected 7 arrays, 7 a cell, got 6"):
        load_keras_weights(cell, weights[:-1])
    weights[-1] = torch.zeros(4)
    with pytest.raises(ValueError, match=r"weights\[6\] \(bz\): expected shape \(5,\), got \(4,\)"):
        load_keras_weights(cell, weights)
    torch.testing.assert_close(dict(cell.state_dict()), before)


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.GRUCell(3, 5), "expected bistable cells, got GRUCell"),
        (BistableRecurrentCell(3, 5, bias=False), "expected cells with the paper's biases"),
        (NBRC(3, 5, candidate_bias=True), "expected cells with the paper's biases"),
    ],
)
def test_modules_without_the_authors_weights_are_refused(module, expected):
    with pytest.raises(ValueError, match=expected):
        keras_weights(module)
