"""ONNX export: every layer and direction becomes one ``Scan``, with dynamic batch and length.

Needs the extra ``[onnx]``, and the compiled kernels: without them torch sees the loop over time of
the reference, and writes it out for the one length it was given.
"""

# mypy: ignore-errors
# onnxscript reads the functions below as ONNX graphs: it takes the types of their arguments from
# use, and from their annotations only the number of results.

from collections.abc import Callable, Sequence
from typing import Any

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
    drives = op.Add(op.MatMul(input, kernel), bias)
    w_c, w_a = op.Split(memory, num_outputs=2, axis=-1)

    @graph()
    def step(state, drive):
        drive_c, drive_a, drive_candidate = op.Split(drive, num_outputs=3, axis=-1)
        c = op.Sigmoid(op.Add(drive_c, op.Mul(w_c, state)))
        a = op.Add(one, op.Tanh(op.Add(drive_a, op.Mul(w_a, state))))
        candidate = op.Tanh(op.Add(drive_candidate, op.Mul(a, state)))
        updated = op.Add(op.Mul(c, state), op.Mul(op.Sub(one, c), candidate))
        output = op.Identity(updated)
        return updated, output

    last, outputs = op.Scan(
        h_0,
        drives,
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
    drives = op.Add(op.MatMul(input, kernel), bias)

    @graph()
    def step(state, drive):
        drive_c, drive_a, drive_candidate = op.Split(drive, num_outputs=3, axis=-1)
        feedback_c, feedback_a = op.Split(op.MatMul(state, memory), num_outputs=2, axis=-1)
        c = op.Sigmoid(op.Add(drive_c, feedback_c))
        a = op.Add(one, op.Tanh(op.Add(drive_a, feedback_a)))
        candidate = op.Tanh(op.Add(drive_candidate, op.Mul(a, state)))
        updated = op.Add(op.Mul(c, state), op.Mul(op.Sub(one, c), candidate))
        output = op.Identity(updated)
        return updated, output

    last, outputs = op.Scan(
        h_0,
        drives,
        body=step,
        num_scan_inputs=1,
        scan_input_directions=directions,
        scan_output_directions=directions,
    )
    return outputs, last


def _scan(
    input: Any,
    h_0: Any,
    kernel: Any,
    memory: Any,
    bias: Any,
    lengths: Any,
    reverse: bool,
    keep_gates: bool,  # noqa: ARG001 - the operator's signature
    overwrite_gates: bool,  # noqa: ARG001
) -> Any:
    """The operator brc_pytorch::scan; its third result only matters to autograd."""
    if lengths is not None:
        raise NotImplementedError("lengths: packed sequences cannot be exported to ONNX")
    one = op.CastLike(op.Constant(value_float=1.0), input)
    if bias is None:
        drive_bias = op.CastLike(op.Constant(value_float=0.0), input)
    else:
        candidate = kernel.shape[-1] - bias.shape[-1]  # a bias of b_c and b_a has none for it
        drive_bias = op.Pad(bias, op.Constant(value_ints=[0, candidate]))
    recurrence = _nbrc if len(memory.shape) == 2 else _brc  # noqa: PLR2004 - (H, 2H), against (2H)
    directions = [1 if reverse else 0]
    output, last = recurrence(input, h_0, kernel, memory, drive_bias, one, directions=directions)
    return output, last, op.CastLike(op.ConstantOfShape(op.Constant(value_ints=[0])), input)


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """What ``torch.onnx.export(..., custom_translation_table=...)`` needs to know of our operators.

    Returns:
        The ONNX form of each operator: one ``Scan`` over time, in opset 18 or newer.

    Raises:
        RuntimeError: this installation has no compiled kernels, and so no operators to translate.

    Example:
        >>> import torch
        >>> from brc_pytorch import NBRC
        >>> from brc_pytorch.onnx import translations
        >>> program = torch.onnx.export(
        ...     NBRC(8, 32).eval(),
        ...     (torch.randn(10, 2, 8),),
        ...     dynamo=True,
        ...     verbose=False,
        ...     dynamic_shapes=({0: "time", 1: "batch"},),
        ...     custom_translation_table=translations(),
        ... )
    """
    if not hasattr(torch.ops.brc_pytorch, "scan"):
        raise RuntimeError(
            "translations: expected the compiled kernels of brc_pytorch, got an installation "
            "without them; install it where there is a C++ compiler"
        )
    return {torch.ops.brc_pytorch.scan.default: _scan}
