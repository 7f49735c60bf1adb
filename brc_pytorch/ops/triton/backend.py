"""The recurrences on GPUs: Triton kernels as a backend of the operator.

The products with what is known beforehand are cuBLAS': U x for all steps at hand, and from the
gradients of the gates' arguments those of the input and the weights. The kernels of
:mod:`brc_pytorch.ops.triton.kernels` walk over time. Triton comes with torch's CUDA builds; it is
imported when the first tensor arrives on a GPU.

A sequence is walked in spans of steps, so that what one span needs beside the states stays small
and near: the gates are not kept for the backward pass but computed again, span by span, from the
input and the states.

Symbols: T time, B batch, I input size, H hidden size; the tensors are those of
:mod:`brc_pytorch.ops.reference`.
"""

import importlib.util
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from brc_pytorch.ops.backends import Backend, Call, Gradients, register_backend
from brc_pytorch.ops.reference import are_data, begin_anew, mask_padding

# The projected input of one span. Smaller spans would stay in the second-level cache, which gains
# less than more launches cost.
_SPAN_BYTES = 128 * 2**20
# A program that waits for memory more than it computes: one warp, and a column for each thread.
_COLUMNS_OPTIONS = {"block": 32, "num_warps": 1, "enable_fp_fusion": True}
# The weights of the nBRC that a multiprocessor's 64 Ki registers hold beside all else.
_RESIDENT_BYTES = 128 * 2**10
# A row has a multiprocessor to itself; from some rows on products of all rows at once are faster.
_RESIDENT_ROWS = 2048
# The weights that all programs together take from the second-level cache at a step: beyond that,
# two launches a step are no slower.
_STREAMED_BYTES = 256 * 2**20
# Rows that share what has come from the cache, if there are more rows than multiprocessors: an A100
# has 108, an H100 132.
_STREAMED_ROWS = 4
_MULTIPROCESSORS = 128


class _Inputs(NamedTuple):
    """What a layer takes, as the kernels read it.

    ``anew`` (T, B) is not 0 where a step starts from ``reset_state`` (B, H), None for zero.
    """

    recurrence: str
    input: Tensor
    h_0: Tensor
    kernel: Tensor
    memory: Tensor
    bias: Tensor | None
    lengths: Tensor | None
    reverse: bool
    anew: Tensor | None
    reset_state: Tensor | None

    @property
    def biases(self) -> tuple[Tensor | None, int]:
        """The bias and its size, as the kernels take them."""
        return self.bias, 0 if self.bias is None else len(self.bias)


def _computed_in(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _computed_like(result: Tensor) -> Tensor:
    """Where a result is computed: in its own place, or in a wider type elsewhere."""
    dtype = _computed_in(result.dtype)
    return result if result.dtype == dtype else torch.empty_like(result, dtype=dtype)


def _beginning_with(value: Tensor | None, result: Tensor) -> Tensor:
    """Where a result is computed, with a value or zero in it."""
    place = _computed_like(result)
    return place.zero_() if value is None else place.copy_(value)


def _spans(inputs: _Inputs) -> list[tuple[int, int]]:
    """First time and number of steps of each span, in the order of the forward pass."""
    input, kernel, reverse = inputs.input, inputs.kernel, inputs.reverse
    steps, batch, _ = input.shape
    count = math.ceil(steps * batch * kernel.shape[1] * input.itemsize / _SPAN_BYTES)
    size = math.ceil(steps / max(count, 1))
    spans = [(first, min(size, steps - first)) for first in range(0, steps, size)]
    return spans[::-1] if reverse else spans


class _Walk(NamedTuple):
    """How the programs of a kernel that walks rows are launched; the last two if it streams."""

    programs: int
    block: int
    num_warps: int
    rows: int = 0
    chunk: int = 0


def _walk_of_rows(hidden: int, batch: int, dtype: torch.dtype) -> _Walk | None:
    """The kernel for a layer of this size; None if products of all rows at once are faster."""
    block = max(16, 1 << (hidden - 1).bit_length())
    if batch > _RESIDENT_ROWS:
        return None
    if 2 * block**2 * dtype.itemsize <= _RESIDENT_BYTES:
        return _Walk(batch, block, 2 * block // 32)  # a thread for each column of the two gates
    rows = min(1 << (math.ceil(batch / _MULTIPROCESSORS) - 1).bit_length(), _STREAMED_ROWS)
    programs = math.ceil(batch / rows)
    if programs * 2 * hidden**2 * dtype.itemsize > _STREAMED_BYTES:
        return None
    words = block * _computed_in(dtype).itemsize // 4
    return _Walk(programs, block, min(words // 32, 16), rows, max(2**12 // (rows * words), 2))


def _streamed(memory: Tensor, walk: _Walk, transposed: bool) -> tuple[Tensor, Tensor, int]:
    """Weights and shared memory of a kernel that streams, and how many columns a thread has."""
    hidden = memory.shape[0]
    gates = memory.view(hidden, 2, hidden)
    height = (2 if transposed else 1) * (walk.block + 2 * walk.chunk)
    if transposed:
        weights = memory.new_zeros(height, walk.block)
        weights[: 2 * hidden, :hidden] = memory.t()
    else:
        weights = memory.new_zeros(height, 2 * walk.block)
        weights.view(height, 2, walk.block)[:hidden, :, :hidden] = gates
    dtype = _computed_in(memory.dtype)
    shared = memory.new_zeros(walk.programs * walk.rows, height, dtype=dtype)
    return weights, shared, max(weights.shape[1] // (32 * walk.num_warps), 1)


def _project(input: Tensor, kernel: Tensor) -> Tensor:
    """U_c x, U_a x and U x side by side, (count, B, 3H), in one product."""
    return torch.mm(input.flatten(0, 1), kernel).view(*input.shape[:2], -1)


def _prepare(call: Call) -> _Inputs:
    recurrence, input, states, (kernel, memory, *bias), lengths, reverse, *_ = call
    resets, reset = call.resets, call.reset_states
    anew = None
    if resets is not None:
        valid = None if lengths is None else are_data(input, lengths)
        anew = begin_anew(resets, valid, reverse).squeeze(-1).to(torch.int8).contiguous()
    if lengths is not None:
        lengths = lengths.to(input.device).clamp(0, input.shape[0]).to(torch.int32).contiguous()
    return _Inputs(
        recurrence.name,
        *(input, states[0].contiguous(), kernel, memory.contiguous()),
        bias[0].contiguous() if bias else None,
        *(lengths, reverse, anew, None if reset is None else reset[0].contiguous()),
    )


def _ends(inputs: _Inputs) -> Tensor | None:
    """Where a segment ends: the step that is taken next starts anew, (T, B)."""
    if inputs.anew is None:
        return None
    none = torch.zeros_like(inputs.anew[:1])
    if inputs.reverse:
        return torch.cat((none, inputs.anew[:-1]))
    return torch.cat((inputs.anew[1:], none))


def _first_anew(inputs: _Inputs) -> Tensor:
    """Which rows start from the reset state at the first step to be taken, (B, 1) booleans."""
    assert inputs.anew is not None  # noqa: S101 - asked only then
    return inputs.anew[-1 if inputs.reverse else 0].unsqueeze(1) != 0


def _forward(call: Call, output: Tensor, last: Tensor, saved: Tensor) -> None:  # noqa: ARG001 - nothing is saved
    if output.numel() > 0:
        with torch.cuda.device_of(output):  # type: ignore[no-untyped-call]
            _write_outputs(_prepare(call), output, last[0])


def _columns_grid(output: Tensor) -> tuple[int]:
    _, batch, hidden = output.shape
    return (math.ceil(batch * hidden / _COLUMNS_OPTIONS["block"]),)


def _launch_of_rows(walk: _Walk, inputs: _Inputs, *, backward: bool) -> Callable[..., None]:
    """What launches the kernel that walks rows, from its arguments but bias and weights."""
    from brc_pytorch.ops.triton import kernels  # noqa: PLC0415 - where a GPU is in use

    memory = inputs.memory
    options = {"reverse": inputs.reverse, "block": walk.block, "num_warps": walk.num_warps}
    options["enable_fp_fusion"] = True
    if not walk.rows:
        kernel = kernels.nbrc_backward if backward else kernels.nbrc_forward
        weights = [memory.t().contiguous() if backward else memory]
    else:
        kernel = kernels.nbrc_backward_streamed if backward else kernels.nbrc_forward_streamed
        *weights, vector = _streamed(memory, walk, transposed=backward)
        options |= {"zero": 0, "rows": walk.rows, "chunk": walk.chunk, "vector": vector}

    def launch(arguments: Tensor, *others: Any) -> None:  # noqa: ANN401 - tensors and numbers
        kernel[walk.programs,](arguments, *inputs.biases, *weights, *others, **options)

    return launch


def _forward_walk(inputs: _Inputs, state: Tensor, output: Tensor) -> Callable[[Tensor, int], None]:
    """How this layer walks over a span: from its arguments and first time to states and output."""
    from brc_pytorch.ops.triton import kernels  # noqa: PLC0415 - where a GPU is in use

    memory, lengths, reverse = inputs.memory, inputs.lengths, inputs.reverse
    resets = inputs.anew, inputs.reset_state
    steps, batch, hidden = output.shape
    if inputs.recurrence == "brc":

        def walk_columns(arguments: Tensor, first: int) -> None:
            kernels.brc_forward[_columns_grid(output)](
                *(arguments, *inputs.biases, memory, state, output, lengths, *resets),
                *(first, len(arguments), steps, batch, hidden),
                **{"reverse": reverse, **_COLUMNS_OPTIONS},
            )

        return walk_columns

    rows = _walk_of_rows(hidden, batch, output.dtype)
    if rows is not None:
        launch = _launch_of_rows(rows, inputs, backward=False)

        def walk_rows(arguments: Tensor, first: int) -> None:
            launch(
                arguments,
                *(state, output, lengths, *resets),
                *(first, len(arguments), steps, batch, hidden),
            )

        return walk_rows

    if inputs.anew is not None:
        reset = 0 if inputs.reset_state is None else inputs.reset_state.to(state.dtype)
        state.copy_(torch.where(_first_anew(inputs), reset, state))
    ends = _ends(inputs)
    narrow = state.to(output.dtype)
    feedback = output.new_empty(batch, 2 * hidden)

    def walk_steps(arguments: Tensor, first: int) -> None:
        order = range(len(arguments))
        for step in reversed(order) if reverse else order:
            torch.mm(narrow, memory, out=feedback)
            kernels.nbrc_forward_step[_columns_grid(output)](
                *(arguments, *inputs.biases, feedback, state, narrow, output),
                *(lengths, ends, inputs.reset_state),
                *(step, first, steps, batch, hidden),
                **_COLUMNS_OPTIONS,
            )

    return walk_steps


def _write_outputs(inputs: _Inputs, output: Tensor, last: Tensor) -> None:
    state = _beginning_with(inputs.h_0, last)
    walk = _forward_walk(inputs, state, output)
    for first, count in _spans(inputs):
        part = inputs.input[first : first + count]
        walk(_project(part, inputs.kernel), first)
    _copy_where_wider([last], [state])


def _backward(
    call: Call,
    grad_output: Tensor | None,
    grad_last: Tensor | None,
    output: Tensor,
    saved: Tensor,  # noqa: ARG001 - nothing is saved
    gradients: Gradients,
) -> None:
    if output.numel() == 0:
        for gradient in gradients.tensors:
            gradient.zero_()
        if grad_last is not None:
            gradients.states.copy_(grad_last)
        return
    grad_last = None if grad_last is None else grad_last[0]
    with torch.cuda.device_of(output):  # type: ignore[no-untyped-call]
        _write_gradients(_prepare(call), output.contiguous(), grad_output, grad_last, gradients)


def _states_before(inputs: _Inputs, output: Tensor, first: int, count: int) -> Tensor:
    """The states that the steps of a span start from, (count, B, H)."""
    h_0, lengths, reverse = inputs.h_0, inputs.lengths, inputs.reverse
    if reverse:
        states = output[first + 1 : first + 1 + count]
        if first + count == len(output):
            states = torch.cat((states, h_0.unsqueeze(0)))
        if lengths is not None:
            times = torch.arange(first, first + count, device=output.device)
            is_first = times.unsqueeze(1) == lengths - 1
            states = torch.where(is_first.unsqueeze(-1), h_0, states)
    elif first > 0:
        states = output[first - 1 : first - 1 + count]
    else:
        states = torch.cat((h_0.unsqueeze(0), output[: count - 1]))
    if inputs.anew is None:
        return states
    anew = inputs.anew[first : first + count].unsqueeze(-1) != 0
    return torch.where(anew, 0 if inputs.reset_state is None else inputs.reset_state, states)


def _backward_walk(
    inputs: _Inputs,
    output: Tensor,
    grad_output: Tensor | None,
    grad_state: Tensor,
    grad_reset: Tensor | None,
    sums: Tensor | None,
) -> Callable[[Tensor, Tensor | None, int], None]:
    """How this layer walks back over a span: from its arguments, states before and first time.

    The gradients of the gates' arguments take their place; ``sums`` are those of the BRC.
    """
    from brc_pytorch.ops.triton import kernels  # noqa: PLC0415 - where a GPU is in use

    _, _, h_0, _, memory, _, lengths, reverse, anew, reset_state = inputs
    steps, batch, hidden = output.shape
    cotangent = (grad_output, *((0, 0, 0) if grad_output is None else grad_output.stride()))
    if sums is not None:

        def walk_columns(arguments: Tensor, states: Tensor | None, first: int) -> None:  # noqa: ARG001 - it finds them in the output
            kernels.brc_backward[_columns_grid(output)](
                *(arguments, *inputs.biases, memory, h_0, output, *cotangent, grad_state, sums),
                *(lengths, anew, reset_state, grad_reset),
                *(first, len(arguments), steps, batch, hidden),
                **{"reverse": reverse, **_COLUMNS_OPTIONS},
            )

        return walk_columns

    rows = _walk_of_rows(hidden, batch, output.dtype)
    if rows is not None:
        launch = _launch_of_rows(rows, inputs, backward=True)

        def walk_rows(arguments: Tensor, states: Tensor | None, first: int) -> None:
            launch(
                arguments,
                *(states, *cotangent, grad_state, lengths, anew, grad_reset),
                *(first, len(arguments), steps, batch, hidden),
            )

        return walk_rows

    ends = _ends(inputs)

    def walk_steps(arguments: Tensor, states: Tensor | None, first: int) -> None:
        feedback = output.new_zeros(batch, hidden)
        order = range(len(arguments))
        for step in order if reverse else reversed(order):
            kernels.nbrc_backward_step[_columns_grid(output)](
                *(
                    arguments,
                    *inputs.biases,
                    feedback,
                    states,
                    *cotangent,
                    grad_state,
                    lengths,
                    ends,
                    grad_reset,
                ),
                *(step, first, steps, batch, hidden),
                **_COLUMNS_OPTIONS,
            )
            torch.mm(arguments[step, :, : 2 * hidden], memory.t(), out=feedback)
        grad_state.add_(feedback)
        begins_sequence = first + len(arguments) == steps if reverse else first == 0
        if anew is not None and begins_sequence:
            is_anew = _first_anew(inputs)
            if grad_reset is not None:
                grad_reset.add_(torch.where(is_anew, grad_state, 0))
            grad_state.masked_fill_(is_anew, 0)

    return walk_steps


def _add_product(total: Tensor, left: Tensor, right: Tensor, anew: bool) -> None:
    """Add a product to a total, or begin it anew whatever it holds."""
    if total.dtype == left.dtype:
        total.addmm_(left, right, beta=0 if anew else 1)
    elif anew:
        total.copy_(left @ right)
    else:
        total.add_(left @ right)


def _add_rows(total: Tensor, rows: Tensor, anew: bool) -> None:
    """Add the sum of all rows to a total, or begin it anew whatever it holds."""
    if anew:
        torch.sum(rows, 0, dtype=total.dtype, out=total)
    else:
        total += rows.sum(0, dtype=total.dtype)


def _write_gradients(
    inputs: _Inputs,
    output: Tensor,
    grad_output: Tensor | None,
    grad_last: Tensor | None,
    gradients: Gradients,
) -> None:
    recurrence, input, h_0, kernel, memory, _, lengths, *_ = inputs
    batch, hidden = h_0.shape
    total_kernel, total_memory, *total_bias = map(_computed_like, gradients.parameters)
    grad_state = _beginning_with(grad_last, gradients.states[0])
    zeros = partial(torch.zeros, dtype=grad_state.dtype, device=input.device)
    grad_reset = None if inputs.reset_state is None else zeros(h_0.shape)
    full = recurrence == "nbrc"  # a matrix of memory, not a vector
    sums = None if full else zeros((5, batch, hidden))

    walk = _backward_walk(inputs, output, grad_output, grad_state, grad_reset, sums)
    spans = _spans(inputs)[::-1]
    for first, count in spans:
        begins = first == spans[0][0]
        part = input[first : first + count]
        if lengths is not None:
            part, _ = mask_padding(part, lengths - first)
        arguments = _project(part, kernel)
        flat_arguments = arguments.flatten(0, 1)
        states = None
        if full:
            states = _states_before(inputs, output, first, count)
            flat_states = states.flatten(0, 1)
            flat_arguments[:, : 2 * hidden].addmm_(flat_states, memory)
        walk(arguments, states, first)  # from here on these are gradients
        if full:
            of_gates = flat_arguments[:, : 2 * hidden]
            _add_product(total_memory, flat_states.t(), of_gates, begins)
            for total in total_bias:
                _add_rows(total, flat_arguments[:, : total.shape[0]], begins)
        flat_input = part.flatten(0, 1)
        _add_product(total_kernel, flat_input.t(), flat_arguments, begins)
        if gradients.input.dim() == input.dim():  # otherwise nobody asks for it
            flat_grad = gradients.input[first : first + count].flatten(0, 1)
            torch.mm(flat_arguments, kernel.t(), out=flat_grad)

    if sums is not None:
        _sum_rows(sums, total_memory, total_bias)
    computed = grad_state, total_kernel, total_memory, *total_bias
    _copy_where_wider((gradients.states[0], *gradients.parameters), computed)
    if grad_reset is not None:
        gradients.reset_states[0].copy_(grad_reset)


def _sum_rows(sums: Tensor, total_memory: Tensor, total_bias: Sequence[Tensor]) -> None:
    """Sum over the rows what the BRC's kernel has summed over time, (5, B, H)."""
    for total, of_total in ((total_memory, sums[3:]), *((bias, sums) for bias in total_bias)):
        gates = total.view(-1, sums.shape[2])
        torch.sum(of_total[: len(gates)], 1, out=gates)


def _copy_where_wider(results: Sequence[Tensor], computed: Sequence[Tensor]) -> None:
    for result, wide in zip(results, computed, strict=True):
        if result is not wide:
            result.copy_(wide)


if importlib.util.find_spec("triton") is not None:
    BACKEND = Backend(
        device_type="cuda",
        dtypes=frozenset((torch.float16, torch.bfloat16, torch.float32, torch.float64)),
        recurrences=frozenset(("brc", "nbrc")),
        forward=_forward,
        backward=_backward,
        saved_shape=lambda *_: (0,),
        knows_resets=True,
    )
    register_backend("cuda", BACKEND)
