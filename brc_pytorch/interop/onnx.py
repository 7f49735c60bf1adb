"""ONNX export: every layer and direction becomes one ``Scan``, with dynamic batch and length.

Needs the extra ``[onnx]``.
"""

# mypy: ignore-errors
# onnxscript reads the functions below as ONNX graphs: it takes the types of their arguments from
# use, and from their annotations only the number of results.

from collections.abc import Callable
from typing import Any, Sequence  # noqa: UP035 - on Python 3.10 onnxscript takes no other for a list

import torch
from onnxscript import graph, script
from onnxscript import opset18 as op
from onnxscript.onnx_types import FLOAT


@script(default_opset=op)
def _brc(
    input,
    h_0,
    kernel,
    memory,
    bias,
    one,
    directions: Sequence[int],
) -> tuple[FLOAT, FLOAT]:
    projected = op.Add(op.MatMul(input, kernel), bias)
    w_c, w_a = op.Split(memory, num_outputs=2, axis=-1)

    @graph()
    def step(state, inputs):
        input_c, input_a, input_candidate = op.Split(inputs, num_outputs=3, axis=-1)
        c = op.Sigmoid(op.Add(input_c, op.Mul(w_c, state)))
        a = op.Add(one, op.Tanh(op.Add(input_a, op.Mul(w_a, state))))
        candidate = op.Tanh(op.Add(input_candidate, op.Mul(a, state)))
        updated = op.Add(op.Mul(c, state), op.Mul(op.Sub(one, c), candidate))
        output = op.Identity(updated)
        return updated, output

    last, outputs = op.Scan(
        h_0,
        projected,
        body=step,
        num_scan_inputs=1,
        scan_input_directions=directions,
        scan_output_directions=directions,
    )
    return outputs, last


@script(default_opset=op)
def _nbrc(
    input,
    h_0,
    kernel,
    memory,
    bias,
    one,
    directions: Sequence[int],
) -> tuple[FLOAT, FLOAT]:
    projected = op.Add(op.MatMul(input, kernel), bias)

    @graph()
    def step(state, inputs):
        input_c, input_a, input_candidate = op.Split(inputs, num_outputs=3, axis=-1)
        feedback_c, feedback_a = op.Split(op.MatMul(state, memory), num_outputs=2, axis=-1)
        c = op.Sigmoid(op.Add(input_c, feedback_c))
        a = op.Add(one, op.Tanh(op.Add(input_a, feedback_a)))
        candidate = op.Tanh(op.Add(input_candidate, op.Mul(a, state)))
        updated = op.Add(op.Mul(c, state), op.Mul(op.Sub(one, c), candidate))
        output = op.Identity(updated)
        return updated, output

    last, outputs = op.Scan(
        h_0,
        projected,
        body=step,
        num_scan_inputs=1,
        scan_input_directions=directions,
        scan_output_directions=directions,
    )
    return outputs, last


# Each form is written out: ONNX Runtime infers no shapes through a function that a Scan calls.
_FORMS = {"brc": _brc, "nbrc": _nbrc}


def _scan(
    recurrence: str,
    input: Any,
    states: Any,
    parameters: Sequence[Any],
    lengths: Any,
    reverse: bool,
    keep: bool = False,  # noqa: ARG001 - a program that runs elsewhere has no backward pass
) -> Any:
    """The operator brc_pytorch::scan; its third result only matters to autograd."""
    if lengths is not None:
        raise NotImplementedError("lengths: packed sequences cannot be exported to ONNX")
    kernel, memory, *bias = parameters
    one = op.CastLike(op.Constant(value_float=1.0), input)
    projected_bias = op.CastLike(op.Constant(value_float=0.0), input)
    if bias:
        candidate = kernel.shape[-1] - bias[0].shape[-1]  # a bias of b_c and b_a has none for it
        projected_bias = op.Pad(bias[0], op.Constant(value_ints=[0, candidate]))
    first = op.Constant(value_ints=[0])
    h_0 = op.Squeeze(states, first)
    directions = [1 if reverse else 0]
    output, last = _FORMS[recurrence](
        input, h_0, kernel, memory, projected_bias, one, directions=directions
    )
    saved = op.CastLike(op.ConstantOfShape(first), input)
    return output, op.Unsqueeze(last, first), saved


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """What ``torch.onnx.export(..., custom_translation_table=...)`` needs to know of our operators.

    Returns:
        The ONNX form of each operator: one ``Scan`` over time, in opset 18 or newer.

    Example:
        >>> import torch
        >>> from brc_pytorch import NBRC
        >>> from brc_pytorch.interop.onnx import translations
        >>> program = torch.onnx.export(
        ...     NBRC(8, 32).eval(),
        ...     (torch.randn(10, 2, 8),),
        ...     dynamo=True,
        ...     verbose=False,
        ...     dynamic_shapes=({0: "time", 1: "batch"},),
        ...     custom_translation_table=translations(),
        ... )
    """
    return {torch.ops.brc_pytorch.scan.default: _scan}
