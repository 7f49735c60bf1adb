"""torch's GRU and LSTM in ONNX Runtime, the forward pass alone: one operator a layer."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

# The order of ONNX's gates among torch's: torch has r, z, n and i, f, g, o.
ORDER = {"GRU": (1, 0, 2), "LSTM": (0, 3, 1, 2)}


def _model(network: nn.GRU | nn.LSTM) -> bytes:
    """The network over (T, B, I) as an ONNX model whose output is the last layer's (T, B, H)."""
    kind = network.mode
    nodes, weights, x = [], [], "x0"
    for layer, (ih, hh, b_ih, b_hh) in enumerate(network.all_weights):

        def ordered(tensor: Tensor) -> np.ndarray:
            gates = tensor.detach().numpy().reshape(len(ORDER[kind]), network.hidden_size, -1)
            return np.concatenate([gates[gate] for gate in ORDER[kind]])

        bias = np.concatenate([ordered(b_ih), ordered(b_hh)])[:, 0]
        for name, array in (("w", ordered(ih)), ("r", ordered(hh)), ("b", bias)):
            weights.append(numpy_helper.from_array(array[None], f"{name}{layer}"))
        options = {"linear_before_reset": 1} if kind == "GRU" else {}
        names = [x, f"w{layer}", f"r{layer}", f"b{layer}"]
        nodes.append(
            helper.make_node(kind, names, [f"y{layer}"], hidden_size=network.hidden_size, **options)
        )
        x = f"x{layer + 1}"
        nodes.append(helper.make_node("Squeeze", [f"y{layer}", "direction"], [x]))
    weights.append(numpy_helper.from_array(np.array([1]), "direction"))
    graph = helper.make_graph(
        nodes,
        kind,
        [helper.make_tensor_value_info("x0", TensorProto.FLOAT, ["T", "B", network.input_size])],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, ["T", "B", network.hidden_size])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def contenders(
    networks: dict[str, nn.Module], input: Tensor, threads: int
) -> dict[str, Callable[[], Any]]:
    """For each network what its forward pass in ONNX Runtime is; it returns the outputs."""
    x = input.numpy()
    found: dict[str, Callable[[], Any]] = {}
    for name, network in networks.items():
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
        session = onnxruntime.InferenceSession(_model(network), options)

        def turn(session: Any = session) -> Any:  # noqa: ANN401 - it has no types
            return session.run(None, {"x0": x})[0]

        found[name] = turn
    return found
