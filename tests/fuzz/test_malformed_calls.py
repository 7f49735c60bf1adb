"""Malformed calls as users make them, and what each is told: the argument, what was wanted."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from brc_pytorch import BRC, NBRC, MultiLayerBase, PeepholeLSTMCell, ops
from brc_pytorch.datasets import (
    BinaryAddition,
    BRCDataset,
    SequentialMNIST,
    copy_first_input,
    denoising,
)
from brc_pytorch.layers import BistableRecurrentCell, NeuromodulatedBistableRecurrentCell

X = torch.zeros(5, 2, 3)  # (T, B, I)
H = torch.zeros(2, 4)
KERNEL, MEMORY, BIAS = torch.zeros(3, 12), torch.zeros(4, 8), torch.zeros(8)


def nbrc(input=X, h_0=H, kernel=KERNEL, memory=MEMORY, bias=BIAS, **options):
    return ops.nbrc(input, h_0, kernel, memory, bias, **options)


def lengths(*values, dtype=torch.int64):
    return torch.tensor(values, dtype=dtype)


def network(*cells, mode="nBRC", hidden_size=4, **options):
    return MultiLayerBase(mode, cells, hidden_size, return_sequences=True, **options)


CELL = NeuromodulatedBistableRecurrentCell(3, 4)
RNN = NBRC(3, 4, num_layers=2)
LSTM = network(nn.LSTMCell(3, 4), mode="LSTM")
IMAGES, LABELS = torch.zeros(6, 4, 4, dtype=torch.uint8), torch.zeros(6, dtype=torch.int64)

CALLS = [
    # operators
    (lambda: nbrc(X[0]), ValueError, r"input: expected \(T, B, I\) with T > 0, got \(2, 3\)"),
    (lambda: nbrc(X[:0]), ValueError, r"input: expected .* T > 0, got \(0, 2, 3\)"),
    (lambda: nbrc(X.long()), ValueError, "input: expected a floating-point dtype, got torch.int64"),
    (lambda: nbrc(X.cfloat()), ValueError, "input: expected a floating-point .* torch.complex64"),
    (lambda: nbrc(h_0=H[0]), ValueError, r"h_0: expected \(B, H\) = \(2, H\), got \(4,\)"),
    (lambda: nbrc(h_0=H[:1]), ValueError, r"h_0: expected .*\(2, .*, got \(1, 4\)"),
    (lambda: nbrc(h_0=H.double()), ValueError, "h_0: expected dtype torch.float32, got .*float64"),
    (lambda: nbrc(h_0=H.to("meta")), ValueError, "h_0: expected device cpu, got meta"),
    (lambda: nbrc(kernel=KERNEL.T), ValueError, r"kernel: expected .*\(3, 12\), got \(12, 3\)"),
    (lambda: nbrc(kernel=KERNEL[:, :8]), ValueError, r"kernel: expected .*\(3, 12\), got \(3, 8\)"),
    (lambda: nbrc(memory=torch.zeros(8)), ValueError, r"memory: expected .*\(4, 8\), got \(8,\)"),
    (
        lambda: ops.brc(X, H, KERNEL, MEMORY),
        ValueError,
        r"memory: expected .*\(8,\), got \(4, 8\)",
    ),
    (lambda: nbrc(bias=BIAS[:4]), ValueError, r"bias: expected .*\(8,\), got \(4,\)"),
    (lambda: nbrc(lengths=lengths(5)), ValueError, r"lengths: expected 2 .*\(1,\)"),
    (lambda: nbrc(lengths=lengths(5, 2, 1)), ValueError, r"lengths: expected 2 .*\(3,\)"),
    (lambda: nbrc(lengths=lengths(5.0, 2.0, dtype=None)), ValueError, "lengths: .*float32"),
    (lambda: nbrc(lengths=lengths(1, 0, dtype=torch.bool)), ValueError, "lengths: .*bool"),
    (lambda: nbrc(lengths=lengths(5, 2, dtype=torch.cfloat)), ValueError, "lengths: .*complex64"),
    (lambda: ops.backend("gpu").__enter__(), ValueError, "name: expected one of .* got 'gpu'"),
    # cells
    (lambda: BistableRecurrentCell(3), TypeError, "hidden_size: expected an int, got nothing"),
    (lambda: BistableRecurrentCell(0, 4), ValueError, "input_size: expected at least 1, got 0"),
    (lambda: BistableRecurrentCell(3, 4.0), TypeError, "hidden_size: expected an int, got 4.0"),
    (lambda: BistableRecurrentCell(3, 4, output_dim=5), ValueError, "output_dim: .* got 5 and 4"),
    (
        lambda: BistableRecurrentCell(3, 4, False, candidate_bias=True),
        ValueError,
        "candidate_bias: expected False where bias=False",
    ),
    (lambda: CELL(X[0, :, :2]), ValueError, r"input_t: expected shape \(\*, 3\), got \(2, 2\)"),
    (lambda: CELL(X[0].double()), ValueError, "input_t: expected dtype torch.float32"),
    (lambda: CELL(X[0], H[:, :3]), ValueError, r"hidden_state: .*\(\*, 4\), got \(2, 3\)"),
    (lambda: CELL(X[0], torch.zeros(5, 4)), ValueError, "hidden_state: expected .* that broadcast"),
    (lambda: CELL(X[0], H.half()), ValueError, "hidden_state: expected dtype torch.float32"),
    (lambda: CELL.scan(X, lengths=lengths(5.0, 2.0, dtype=None)), ValueError, "lengths: .*float32"),
    (lambda: PeepholeLSTMCell(3, 4)(X[0], H), ValueError, "cell_state: expected both states"),
    (
        lambda: PeepholeLSTMCell(3, 4)(X[0], (H, H), H),
        ValueError,
        "cell_state: expected none beside the pair",
    ),
    # BRC and NBRC, in nn.GRU's words
    (lambda: NBRC(3, 4, num_layers=0), ValueError, "num_layers must be greater than zero"),
    (lambda: NBRC(3, 4.0), TypeError, "hidden_size should be of type int, got: float"),
    (lambda: NBRC(3, 4, 1, "yes"), TypeError, "bias should be of type bool, got: str"),
    (lambda: NBRC(3, 4, 2, dropout=2), ValueError, r"dropout should be a number in range \[0, 1\]"),
    (lambda: RNN(X[None]), ValueError, "NBRC: Expected input to be 2D or 3D, got 4D instead"),
    (lambda: RNN(X[..., :2]), RuntimeError, r"input.size\(-1\) must be equal to .* 3, got 2"),
    (lambda: RNN(X.double()), ValueError, r"RNN input dtype \(torch.float64\) does not match"),
    (lambda: RNN(X[:0]), RuntimeError, "Expected sequence length to be larger than 0"),
    (lambda: RNN(X, H), RuntimeError, "For batched 3-D input, hx should also be 3-D but got 2-D"),
    (lambda: RNN(X, H[None]), RuntimeError, r"Expected hidden size \(2, 2, 4\), got \[1, 2, 4\]"),
    (
        lambda: RNN(pack_padded_sequence(X, lengths(5, 2)), H[None]),
        RuntimeError,
        r"Expected hidden size \(2, 2, 4\)",
    ),
    (lambda: BRC(3, 4)(X, H[None].double()), ValueError, r"RNN hx dtype \(torch.float64\)"),
    # MultiLayerBase
    (lambda: MultiLayerBase("nBRC", CELL, 4), TypeError, "cells: expected a list of cells"),
    (
        lambda: MultiLayerBase("nBRC", [], 4),
        ValueError,
        "cells: expected one cell a layer, got an empty list",
    ),
    (lambda: network(CELL, CELL), ValueError, r"cells\[1\]: expected input_size=4 .* got 3"),
    (lambda: network(CELL, hidden_size=5), ValueError, r"cells\[0\]: expected hidden_size=5"),
    (lambda: network("nBRC"), TypeError, r"cells\[0\]: expected a torch.nn.Module, got 'nBRC'"),
    (lambda: network(CELL, mode="NBRC"), ValueError, "mode: expected one of .* got 'NBRC'"),
    (lambda: network(CELL, mode="LSTM"), ValueError, r"mode: 'LSTM' contradicts cells\[0\]"),
    (lambda: network(CELL, dropout=-1), ValueError, "dropout: expected a probability"),
    (lambda: network(CELL)(X[..., :2]), ValueError, r"input: expected shape \(\*, 3\), got"),
    (lambda: network(CELL)(X[None]), ValueError, "input: expected 2 dimensions"),
    (lambda: network(CELL)(X[:, :0]), RuntimeError, "input: expected a sequence of at least one"),
    (lambda: network(CELL)(X, H[None]), ValueError, r"state: expected shape \(1, 5, 4\)"),
    (lambda: network(CELL)(X, (H, H)), ValueError, "state: expected one tensor h_0 .*a tuple of 2"),
    (lambda: LSTM(X, H[None]), ValueError, r"state: expected a pair \(h_0, c_0\)"),
    (lambda: network(CELL)(X, H, hidden_state=H), ValueError, "hidden_state: is another name"),
    # data sets
    (lambda: BRCDataset([1, 2], [3, 4]), TypeError, "inputs: expected a tensor or a NumPy array"),
    (lambda: BRCDataset(X, X[:2]), ValueError, "outputs: expected as many samples as inputs, 5"),
    (lambda: BRCDataset(np.float64(1), X), ValueError, "inputs: expected at least one dimension"),
    (lambda: BinaryAddition(4, 1, 0, 0, "single"), ValueError, "sequence_length: expected 2 or"),
    (lambda: BinaryAddition(4, 8, 0, 0, "both"), ValueError, "mode: expected .* got 'both'"),
    (lambda: BinaryAddition(4, 0, 3, 5, "mixed"), ValueError, "max_sequence_length: expected"),
    (lambda: copy_first_input(-1, 5), ValueError, "sample_size: expected 0 or more, got -1"),
    (lambda: copy_first_input(4, 0), ValueError, "sequence_length: expected 1 or more, got 0"),
    (lambda: denoising(4, 20, delay=18), ValueError, "sequence_length: expected 23 or more"),
    (lambda: SequentialMNIST(IMAGES.float(), LABELS), ValueError, "images: expected .* uint8"),
    (lambda: SequentialMNIST(IMAGES, LABELS[:2]), ValueError, "labels: expected one for each of 6"),
    (lambda: SequentialMNIST(IMAGES, LABELS, by="row"), ValueError, 'by: expected "pixel" or'),
    (
        lambda: SequentialMNIST(IMAGES, LABELS, permutation=torch.tensor([0, 0])),
        ValueError,
        "permutation: expected an order of 0 to 15",
    ),
]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [pytest.param(*case, id=f"{number}-{case[2][:24]}") for number, case in enumerate(CALLS)],
)
def test_a_malformed_call_is_told_what_is_wrong(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_there_are_fifty():
    assert len({message for *_, message in CALLS}) >= 50
