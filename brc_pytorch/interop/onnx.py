"""ONNX export: every layer and direction becomes one ``Scan``, with dynamic batch and length.

A GRU's or LSTM's becomes ONNX's own operator, unless it is called with resets, which that lacks.

Needs the extra ``[onnx]``.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from onnxscript import ir, opset18

from brc_pytorch.ops.recurrences import RECURRENCES

op: Any = opset18  # its own types are those of tensors, not of a graph's values


class _Step(ir.tape.Tape):
    """The graph of one step of a recurrence, which a ``Scan`` runs over time.

    It is built node by node, since ONNX Runtime infers no shapes through a function that a ``Scan``
    calls. The parameters are values of the graph around it.

    Args:
        count: how many states there are.
        resets: the states that segments start from, None where all steps are one.
    """

    def __init__(self, count: int, resets: Sequence[Any] | None) -> None:
        super().__init__()
        self.states = [ir.Value(name=f"state_{at}") for at in range(count)]
        self.projected = ir.Value(name="projected")
        self.inputs = [*self.states, self.projected]
        if resets is not None:
            begins = ir.Value(name="begins")
            self.inputs.append(begins)
            pairs = zip(resets, self.states, strict=True)
            self.states = [self.op("Where", [begins, reset, state]) for reset, state in pairs]

    def split(self, value: ir.Value, count: int) -> Sequence[ir.Value]:
        """Equal parts of the last dimension."""
        attributes = {"num_outputs": count, "axis": -1}
        return self.op_multi_out("Split", [value], attributes, num_outputs=count)

    def add(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self.op("Add", [a, b])

    def multiply(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self.op("Mul", [a, b])

    def sigmoid(self, a: ir.Value) -> ir.Value:
        return self.op("Sigmoid", [a])

    def tanh(self, a: ir.Value) -> ir.Value:
        return self.op("Tanh", [a])

    def feedback(self, memory: Any, bias: Any | None) -> ir.Value:
        """The state's part of the arguments, h W + b."""
        product = self.op("MatMul", [self.states[0], memory])
        return product if bias is None else self.add(product, bias)

    def graph(self, updated: Sequence[ir.Value]) -> ir.Graph:
        """The graph that gives the next states, and as the output the first of them."""
        results = [*updated, self.op("Identity", [updated[0]])]
        return ir.Graph(self.inputs, results, nodes=self.nodes, name="step")


def _bistable(step: _Step, feedback: Sequence[ir.Value], one: ir.Value) -> list[ir.Value]:
    """The next state of a bistable cell, from R_c(h) and R_a(h)."""
    feedback_c, feedback_a = feedback
    (state,) = step.states
    input_c, input_a, input_candidate = step.split(step.projected, 3)
    c = step.sigmoid(step.add(input_c, feedback_c))
    a = step.add(one, step.tanh(step.add(input_a, feedback_a)))
    candidate = step.tanh(step.add(input_candidate, step.multiply(a, state)))
    return [_between(step, c, state, candidate, one)]


def _between(step: _Step, share: ir.Value, a: ir.Value, b: ir.Value, one: ir.Value) -> ir.Value:
    """A share of a, and the rest of b."""
    rest = step.op("Sub", [one, share])
    return step.add(step.multiply(share, a), step.multiply(rest, b))


def _brc(step: _Step, memory: Any, _bias: None, one: Any) -> list[ir.Value]:
    w_c, w_a = op.Split(memory, num_outputs=2, axis=-1)  # not at every step
    return _bistable(step, [step.multiply(w, step.states[0]) for w in (w_c, w_a)], one)


def _nbrc(step: _Step, memory: Any, _bias: None, one: Any) -> list[ir.Value]:
    return _bistable(step, step.split(step.feedback(memory, None), 2), one)


def _gru(step: _Step, memory: Any, bias: Any | None, one: Any) -> list[ir.Value]:
    feedback_r, feedback_z, feedback_n = step.split(step.feedback(memory, bias), 3)
    input_r, input_z, input_n = step.split(step.projected, 3)
    r = step.sigmoid(step.add(input_r, feedback_r))
    z = step.sigmoid(step.add(input_z, feedback_z))
    n = step.tanh(step.add(input_n, step.multiply(r, feedback_n)))
    return [_between(step, z, step.states[0], n, one)]


def _lstm(step: _Step, memory: Any, bias: Any | None, _one: Any) -> list[ir.Value]:
    i, f, g, o = step.split(step.add(step.projected, step.feedback(memory, bias)), 4)
    kept = step.multiply(step.sigmoid(f), step.states[1])
    c = step.add(kept, step.multiply(step.sigmoid(i), step.tanh(g)))
    return [step.multiply(step.sigmoid(o), step.tanh(c)), c]


# The next states of each recurrence.
_UPDATES: dict[str, Callable[..., list[ir.Value]]] = {
    "brc": _brc,
    "nbrc": _nbrc,
    "gru": _gru,
    "lstm": _lstm,
}


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
    count = len(RECURRENCES[recurrence].states)
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
    saved = op.CastLike(op.ConstantOfShape(op.Constant(value_ints=[0])), input)
    if recurrence in _OPERATORS and resets is None:
        return *_of_torch(recurrence, input, states, parameters, reverse), saved
    kernel, memory, *bias = parameters
    projected, memory_bias = op.MatMul(input, kernel), None
    if bias:
        of_input, memory_bias = _biases(recurrence, kernel, bias[0])
        projected = op.Add(projected, of_input)
    count, anew, sequences = len(RECURRENCES[recurrence].states), None, [projected]
    if resets is not None:
        zero = op.CastLike(op.Constant(value_float=0.0), input)
        anew = [zero] * count if reset_states is None else _each(reset_states, count)
        sequences.append(_begins(resets, reverse))
    step, one = _Step(count, anew), op.CastLike(op.Constant(value_float=1.0), input)
    first = op.Scan(
        *_each(states, count),
        *sequences,
        body=step.graph(_UPDATES[recurrence](step, memory, memory_bias, one)),
        num_scan_inputs=len(sequences),
        scan_input_directions=[int(reverse)] * len(sequences),
        scan_output_directions=[int(reverse)],
    )
    # Of a node with any number of results torch takes one.
    scan = first.producer()
    scan.resize_outputs(count + 1)
    *last, output = scan.outputs
    axis = op.Constant(value_ints=[0])
    return (
        op.Identity(output),
        op.Concat(*(op.Unsqueeze(each, axis) for each in last), axis=0),
        saved,
    )


def _each(states: Any, count: int) -> list[Any]:
    """The states, (B, H) each."""
    parts = op.Split(states, num_outputs=count, axis=0) if count > 1 else [states]
    return [op.Squeeze(part, op.Constant(value_ints=[0])) for part in parts]


def _biases(recurrence: str, kernel: Any, bias: Any) -> tuple[Any, Any | None]:
    """What is added to the input's part of the arguments, and what to the state's."""
    if recurrence in _OPERATORS:
        return tuple(op.Split(bias, num_outputs=2, axis=-1))
    candidate = kernel.shape[-1] - bias.shape[-1]  # a bias of b_c and b_a has none for it
    return op.Pad(bias, op.Constant(value_ints=[0, candidate])), None


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """What ``torch.onnx.export(..., custom_translation_table=...)`` needs to know of our operators.

    Returns:
        The ONNX form of each operator, in opset 18 or newer: one ``Scan`` over time, for a GRU or
        LSTM without resets ONNX's own operator, which ONNX Runtime has in float32 alone.

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
