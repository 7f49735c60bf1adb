"""ONNX export: every layer and direction becomes one ``Scan``, with dynamic batch and length.

A GRU's or LSTM's becomes ONNX's own operator.

Needs the extra ``[onnx]``.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from onnxscript import ir, opset18

op: Any = opset18  # its own types are those of tensors, not of a graph's values


class _Step(ir.tape.Tape):
    """The graph of one step of a recurrence, which a ``Scan`` runs over time.

    It is built node by node, since ONNX Runtime infers no shapes through a function that a ``Scan``
    calls. The parameters are values of the graph around it.

    Args:
        reset: the state that segments start from, None where all steps are one.
    """

    def __init__(self, reset: Any | None = None) -> None:
        super().__init__()
        self.state, self.projected = ir.Value(name="state"), ir.Value(name="projected")
        self.inputs = [self.state, self.projected]
        if reset is not None:
            begins = ir.Value(name="begins")
            self.inputs.append(begins)
            self.state = self.op("Where", [begins, reset, self.state])

    def split(self, value: ir.Value, count: int) -> Sequence[ir.Value]:
        """Equal parts of the last dimension."""
        attributes = {"num_outputs": count, "axis": -1}
        return self.op_multi_out("Split", [value], attributes, num_outputs=count)

    def add(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self.op("Add", [a, b])

    def multiply(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self.op("Mul", [a, b])

    def graph(self, updated: ir.Value) -> ir.Graph:
        """The graph that gives the next state, and as the output the same."""
        results = [updated, self.op("Identity", [updated])]
        return ir.Graph(self.inputs, results, nodes=self.nodes, name="step")


def _bistable(step: _Step, feedback: Sequence[ir.Value], one: ir.Value) -> ir.Value:
    """The next state of a bistable cell, from R_c(h) and R_a(h)."""
    feedback_c, feedback_a = feedback
    state = step.state
    input_c, input_a, input_candidate = step.split(step.projected, 3)
    c = step.op("Sigmoid", [step.add(input_c, feedback_c)])
    a = step.add(one, step.op("Tanh", [step.add(input_a, feedback_a)]))
    candidate = step.op("Tanh", [step.add(input_candidate, step.multiply(a, state))])
    share = step.op("Sub", [one, c])
    return step.add(step.multiply(c, state), step.multiply(share, candidate))


def _brc(step: _Step, memory: Any, one: Any) -> ir.Value:
    w_c, w_a = op.Split(memory, num_outputs=2, axis=-1)  # not at every step
    return _bistable(step, [step.multiply(w, step.state) for w in (w_c, w_a)], one)


def _nbrc(step: _Step, memory: Any, one: Any) -> ir.Value:
    return _bistable(step, step.split(step.op("MatMul", [step.state, memory]), 2), one)


# The next state of each recurrence.
_UPDATES = {"brc": _brc, "nbrc": _nbrc}


# ONNX's own operators, and where each of their gates stands among torch's: r, z, n and i, f, g, o.
_OPERATORS = {"gru": ("GRU", (1, 0, 2)), "lstm": ("LSTM", (0, 3, 1, 2))}


def _of_torch(
    recurrence: str, input: Any, states: Any, parameters: Sequence[Any], reverse: bool
) -> tuple[Any, Any]:
    """The output and the last states of a GRU or LSTM."""
    name, order = _OPERATORS[recurrence]
    first, last_axis = op.Constant(value_ints=[0]), op.Constant(value_ints=[-1])
    hidden = states.shape[-1]

    def ordered(parameter: Any, sides: int) -> Any:
        begins = [(side * len(order) + gate) * hidden for side in range(sides) for gate in order]
        # Slices, not a split: torch's exporter computes these once, and stores what comes out.
        gates = [
            op.Slice(
                parameter,
                op.Constant(value_ints=[begin]),
                op.Constant(value_ints=[begin + hidden]),
                last_axis,
            )
            for begin in begins
        ]
        return op.Concat(*gates, axis=-1)

    kernel, memory = (op.Transpose(ordered(each, 1), perm=[1, 0]) for each in parameters[:2])
    bias = [op.Unsqueeze(ordered(each, 2), first) for each in parameters[2:]] or [None]
    count = 2 if name == "LSTM" else 1
    initial = op.Split(states, num_outputs=count, axis=0) if count > 1 else [states]
    output, *last = getattr(op, name)(
        *(input, op.Unsqueeze(kernel, first), op.Unsqueeze(memory, first), *bias, None, *initial),
        hidden_size=hidden,
        direction="reverse" if reverse else "forward",
        **({"linear_before_reset": 1} if name == "GRU" else {}),
    )
    of_one_direction = op.Squeeze(output, op.Constant(value_ints=[1]))
    return of_one_direction, op.Concat(*last, axis=0) if count > 1 else last[0]


def _begins(resets: Any, reverse: bool) -> Any:
    """Which steps start from the reset state, (T, B, 1)."""
    if reverse:
        zero, one = op.Constant(value_ints=[0]), op.Constant(value_ints=[1])
        row = op.Slice(resets, zero, one, zero)
        later = op.Slice(resets, one, op.Constant(value_ints=[2**62]), zero)
        resets = op.Concat(later, op.And(row, op.Not(row)), axis=0)
    return op.Unsqueeze(resets, op.Constant(value_ints=[-1]))


def _scan(
    recurrence: str,
    input: Any,
    states: Any,
    parameters: Sequence[Any],
    lengths: Any,
    reverse: bool,
    keep: bool = False,  # noqa: ARG001 - a program that runs elsewhere has no backward pass
    resets: Any = None,
    reset_states: Any = None,
) -> Any:
    """The operator brc_pytorch::scan; its third result only matters to autograd."""
    if lengths is not None:
        raise NotImplementedError("lengths: packed sequences cannot be exported to ONNX")
    if recurrence in _OPERATORS:
        if resets is not None:
            raise NotImplementedError(f"resets: ONNX's {_OPERATORS[recurrence][0]} has none")
        output, last = _of_torch(recurrence, input, states, parameters, reverse)
        return output, last, op.CastLike(op.ConstantOfShape(op.Constant(value_ints=[0])), input)
    kernel, memory, *bias = parameters
    one = op.CastLike(op.Constant(value_float=1.0), input)
    projected = op.MatMul(input, kernel)
    if bias:
        candidate = kernel.shape[-1] - bias[0].shape[-1]  # a bias of b_c and b_a has none for it
        projected = op.Add(projected, op.Pad(bias[0], op.Constant(value_ints=[0, candidate])))
    first = op.Constant(value_ints=[0])
    reset, sequences = None, [projected]
    if resets is not None:
        reset = op.CastLike(op.Constant(value_float=0.0), input)
        if reset_states is not None:
            reset = op.Squeeze(reset_states, first)
        sequences.append(_begins(resets, reverse))
    step = _Step(reset)
    last = op.Scan(
        op.Squeeze(states, first),
        *sequences,
        body=step.graph(_UPDATES[recurrence](step, memory, one)),
        num_scan_inputs=len(sequences),
        scan_input_directions=[int(reverse)] * len(sequences),
        scan_output_directions=[int(reverse)],
    )
    # Of a node with any number of results torch takes one.
    scan = last.producer()
    scan.resize_outputs(2)
    output = op.Identity(scan.outputs[1])
    saved = op.CastLike(op.ConstantOfShape(first), input)
    return output, op.Unsqueeze(last, first), saved


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """What ``torch.onnx.export(..., custom_translation_table=...)`` needs to know of our operators.

    Returns:
        The ONNX form of each operator, in opset 18 or newer: one ``Scan`` over time, for a GRU or
        LSTM ONNX's own operator, which ONNX Runtime has in float32 alone.

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
