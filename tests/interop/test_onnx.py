"""Exported networks, run by onnxruntime, beside the networks."""

import onnxruntime
import pytest
import torch
from torch import nn

from brc_pytorch import BRC, GRU, LSTM, NBRC, MultiLayerBase
from brc_pytorch.interop.onnx import translations
from brc_pytorch.ops import backends

compiled = pytest.mark.skipif(
    not backends.kernels_compute("gru", torch.empty(0)), reason="no kernels are installed"
)


def export(module, x, path, **options):
    """Export with time and batch left open, as the documents show it; return the ONNX model."""
    program = torch.onnx.export(
        module,
        (x,),
        path,
        dynamo=True,
        verbose=False,
        custom_translation_table=translations(),
        **options,
    )
    return program.model_proto


def run(path, x):
    session = onnxruntime.InferenceSession(path)
    results = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return tuple(map(torch.from_numpy, results))


@pytest.mark.parametrize("network_type", [BRC, NBRC])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "options",
    [
        {"num_layers": 2, "bidirectional": True},
        {"batch_first": True},
        {"bias": False},
        {"candidate_bias": True, "learn_initial_state": True},
    ],
    ids=["deep", "batch first", "no bias", "all options"],
)
def test_one_scan_a_layer_and_direction(network_type, dtype, options, tmp_path):
    torch.manual_seed(0)
    rnn = network_type(3, 5, dtype=dtype, **options).eval()
    with torch.no_grad():  # not by more: larger weights amplify float32's own rounding beyond 1e-5
        for parameter in rnn.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    path = tmp_path / "network.onnx"
    batch_first = options.get("batch_first", False)
    dynamic = {0: "batch", 1: "time"} if batch_first else {0: "time", 1: "batch"}
    model = export(rnn, torch.randn(7, 2, 3, dtype=dtype), path, dynamic_shapes=(dynamic,))
    assert [node.op_type for node in model.graph.node].count("Scan") == len(rnn.cells)
    assert "Loop" not in {node.op_type for node in model.graph.node}
    for shape in ((7, 2, 3), (19, 4, 3), (1, 1, 3)):
        x = torch.randn(shape, dtype=dtype)
        tolerance = 1e-5 if dtype == torch.float32 else 1e-12
        torch.testing.assert_close(run(path, x), rnn(x), rtol=0, atol=tolerance)


def test_a_network_inside_a_model(tmp_path):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.encode = nn.Linear(2, 3)
            self.rnn = NBRC(3, 5, batch_first=True)
            self.decode = nn.Linear(5, 1)

        def forward(self, x):
            return self.decode(self.rnn(torch.relu(self.encode(x)))[0][:, -1])

    model, path = Model().eval(), tmp_path / "model.onnx"
    export(model, torch.randn(2, 6, 2), path, dynamic_shapes=({0: "batch", 1: "time"},))
    x = torch.randn(5, 11, 2)
    torch.testing.assert_close(run(path, x), (model(x),), rtol=0, atol=1e-5)


@pytest.mark.parametrize("network_type", [BRC, NBRC])
def test_a_file_is_the_same_whatever_kernels_its_device_has(network_type, monkeypatch, tmp_path):
    rnn, x, path = network_type(3, 5, 2).eval(), torch.randn(7, 2, 3), tmp_path / "network.onnx"
    options = {"dynamic_shapes": ({0: "time", 1: "batch"},)}
    here = export(rnn, x, path, **options)
    monkeypatch.setattr(backends.choice, "chosen", {})
    elsewhere = export(rnn, x, path, **options)
    assert [node.op_type for node in elsewhere.graph.node].count("Scan") == 2
    assert elsewhere.graph == here.graph


@compiled
@pytest.mark.parametrize(
    ("make", "operator"),
    [
        (lambda: GRU(3, 5, 2, bidirectional=True), "GRU"),
        (lambda: LSTM(3, 5, 2, bidirectional=True), "LSTM"),
        (lambda: MultiLayerBase("GRU", [nn.GRUCell(3, 5, bias=False)], 5), "GRU"),
    ],
    ids=["GRU", "LSTM", "cells"],
)
def test_torchs_networks_become_operators_of_onnx(make, operator, tmp_path):
    rnn, path = make().eval(), tmp_path / "network.onnx"
    model = export(rnn, torch.randn(7, 2, 3), path, dynamic_shapes=({0: "time", 1: "batch"},))
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count(operator) == len(rnn.cells)
    assert not {"Scan", "Loop"} & {*kinds}
    x = torch.randn(19, 4, 3)
    results = rnn(x)
    flat = [] if isinstance(results, torch.Tensor) else [results[0]]
    last = results if isinstance(results, torch.Tensor) else results[1]
    flat += [last] if isinstance(last, torch.Tensor) else last
    torch.testing.assert_close(run(path, x), tuple(flat), rtol=0, atol=1e-5)


class WithResets(nn.Module):
    """A network that is called with resets."""

    def __init__(self, rnn):
        super().__init__()
        self.rnn = rnn

    def forward(self, x, resets):
        return self.rnn(x, resets=resets)


def export_with_resets(rnn, path):
    arguments = torch.randn(7, 2, 3), torch.zeros(7, 2, dtype=torch.bool)
    torch.onnx.export(
        WithResets(rnn).eval(),
        arguments,
        path,
        dynamo=True,
        verbose=False,
        custom_translation_table=translations(),
        dynamic_shapes=({0: "time", 1: "batch"}, {0: "time", 1: "batch"}),
    )


# Torch says that the axes of both inputs are one, which is what the names ask for.
@pytest.mark.filterwarnings("ignore:# The axis name")
@pytest.mark.parametrize(
    ("network_type", "options"),
    [
        (BRC, {}),
        (BRC, {"learn_initial_state": True}),
        (NBRC, {}),
        (NBRC, {"learn_initial_state": True}),
        pytest.param(GRU, {}, marks=compiled),
        pytest.param(GRU, {"bias": False}, marks=compiled),
        pytest.param(LSTM, {}, marks=compiled),
        pytest.param(LSTM, {"bias": False}, marks=compiled),
    ],
)
def test_resets(network_type, options, tmp_path):
    rnn = network_type(3, 5, num_layers=2, bidirectional=True, **options)
    if "learn_initial_state" in options:
        nn.init.normal_(rnn.initial_state)
    export_with_resets(rnn, tmp_path / "network.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "network.onnx")
    for steps, batch in ((7, 2), (19, 4), (1, 1)):
        x, resets = torch.randn(steps, batch, 3), torch.rand(steps, batch) < 0.3
        names = [each.name for each in session.get_inputs()]
        given = dict(zip(names, (x.numpy(), resets.numpy()), strict=True))
        found = tuple(map(torch.from_numpy, session.run(None, given)))
        output, last = rnn(x, resets=resets)
        expected = (output, *(last if isinstance(last, tuple) else (last,)))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
