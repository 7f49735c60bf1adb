"""How much Python stands between a network and its kernels."""

import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch

import brc_pytorch
from brc_pytorch import (
    BRC,
    NBRC,
    BistableRecurrentCell,
    MultiLayerBase,
    NeuromodulatedBistableRecurrentCell,
    ops,
)

PACKAGE = str(Path(brc_pytorch.__file__).parent)


def calls_of(function):
    """The functions of the package that a call of ``function`` enters: each its file and name.

    Comprehensions and generator expressions belong to the function in which they stand: since
    Python 3.12 most of them are no calls.
    """
    calls = []

    def note(frame, event, _argument):
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(PACKAGE) and code.co_name[0] != "<":
            calls.append((code.co_filename, code.co_name))

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(before)
    return calls


def test_calls_are_counted_by_function_and_file():
    file = str(Path(PACKAGE, "layers", "multilayer_rnnbase.py"))
    expected = [(file, "extra_repr"), (file, "not_at_default")]
    rnn = MultiLayerBase("BRC", [BistableRecurrentCell(3, 5)], 5)
    assert calls_of(rnn.extra_repr) == expected


@pytest.mark.skipif(
    ops.backend_for(torch.device("cpu")) == "reference", reason="no kernels are installed"
)
@pytest.mark.parametrize("network_type", [BRC, NBRC])
def test_a_training_forward_of_two_layers_takes_few_calls(network_type):
    rnn, x = network_type(3, 5, num_layers=2), torch.randn(7, 4, 3)
    rnn(x)  # what is done once only
    calls = calls_of(lambda: rnn(x))
    files = [file for file, _ in calls]
    changes = sum(file != after for file, after in pairwise(files))
    assert len(calls) <= 32, calls
    assert changes <= 10, calls


@pytest.mark.skipif(
    ops.backend_for(torch.device("cpu")) == "reference", reason="no kernels are installed"
)
@pytest.mark.parametrize("network_type", [BRC, NBRC])
@pytest.mark.parametrize("grad", [False, True])
def test_a_single_step_of_a_network_takes_fewer_calls(network_type, grad):
    rnn, x, h = network_type(3, 5), torch.randn(1, 4, 3), torch.zeros(1, 4, 5)
    with torch.set_grad_enabled(grad):
        rnn(x, h)
        calls = calls_of(lambda: rnn(x, h))
    assert "require" not in [name for _, name in calls]  # it was checked the first time
    assert len(calls) <= 28, calls


@pytest.mark.skipif(
    ops.backend_for(torch.device("cpu")) == "reference", reason="no kernels are installed"
)
@pytest.mark.parametrize("cell_type", [BistableRecurrentCell, NeuromodulatedBistableRecurrentCell])
@pytest.mark.parametrize("grad", [False, True])
def test_a_step_takes_few_calls(cell_type, grad):
    cell, x, h = cell_type(3, 5), torch.randn(4, 3), torch.zeros(4, 5)
    with torch.set_grad_enabled(grad):
        cell(x, h)
        calls = calls_of(lambda: cell(x, h))
    names = [name for _, name in calls]
    assert names.count("is_known") == 1
    assert "require" not in names  # it was checked the first time
    assert len(calls) <= 8, calls
