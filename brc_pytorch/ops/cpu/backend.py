"""The compiled kernels as a backend of the operator, and what they keep for the backward pass.

They keep a cell's own choice of what the backward pass needs of the last steps to be taken, c_t and
a_t - 1 of the bistable cells, (K, B, 2H) for K steps, and compute those of the other steps again.

Symbols: T time, B batch, I input size, H hidden size.
"""

import functools
import operator
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from brc_pytorch.ops.backends import Backend, Call, Gradients, LayersCall, register_backend
from brc_pytorch.ops.cpu import interface
from brc_pytorch.ops.recurrences import Recurrence

# Gates that take at most this many products a unit are computed again in the backward pass: that
# is faster than writing and reading them, and (T, B, 2H) less to hold.
_CHEAP_GATES = 64
# Where the input's part of the gates is that cheap and the state's is not, those of half the steps
# are: (T, B, H) less to hold, for a few per cent of the time. Fewer units than these take more.
_UNITS_TO_HALVE = 96
# Room for pointers in the description of a layer.
_GATES, _STATES = interface.GATES, interface.STATES
_ABSENT = (0,) * _GATES
_NO_RESETS = (0,) * (3 + _STATES)


def _saved_shape(call: Call) -> tuple[int, ...]:
    recurrence, input, states, *_ = call
    steps, batch, features = input.shape
    hidden = states.shape[2]
    kernel, memory, *_ = recurrence.parameters
    of_input = kernel.gates[0] * features
    of_state = 0 if memory.rows is None else memory.gates[0] * hidden
    kept_halves = 0
    if len(states) > 1:  # further states are nowhere but in what is kept
        kept_halves = 2
    elif of_input + of_state > _CHEAP_GATES:
        are_halved = of_input <= _CHEAP_GATES and hidden >= _UNITS_TO_HALVE
        kept_halves = 1 if are_halved else 2
    return (steps * kept_halves // 2, batch, interface.SAVED[recurrence.name] * hidden)


def _describe(call: Call, kept_steps: int) -> tuple[bytes, list[Tensor | None]]:
    """The C description of a layer, and the tensors whose memory it points to."""
    recurrence, input, states, parameters, lengths, reverse, *_ = call
    hidden, size = states.shape[2], input.element_size()
    states = states.contiguous()
    lengths = None if lengths is None else lengths.to("cpu", torch.int64).contiguous()
    # Of the matrices any strides will do.
    parameters = [each if each.dim() > 1 else each.contiguous() for each in parameters]
    # Where each gate's (*, H) begins in each parameter's (*, gates * H).
    pointers: list[tuple[int, ...]] = []
    for stacked in parameters:
        first, step = stacked.data_ptr(), hidden * stacked.stride(-1) * size
        gates = stacked.shape[-1] // max(hidden, 1)
        pointers.append(tuple([first + gate * step for gate in range(gates)]))
    kernel, memory, *bias = pointers
    of_bias = bias[0] if bias else ()
    beside_kernel = recurrence.parameters[0].gates[0]
    first_state, of_state = states.data_ptr(), states.stride(0) * size
    reset_states = [] if call.reset_states is None else [*call.reset_states.contiguous()]
    layer = interface.LAYER.pack(
        *(*input.shape, hidden),
        *(*input.stride(), input.data_ptr()),
        *(*[first_state + number * of_state for number in range(len(states))], 0)[:_STATES],
        *(kernel + _ABSENT)[:_GATES],
        *(memory + _ABSENT)[:_GATES],
        *(of_bias[:beside_kernel] + _ABSENT)[:_GATES],
        *(of_bias[beside_kernel:] + _ABSENT)[:_GATES],
        *parameters[0].stride(),
        *(0, *parameters[1].stride())[-2:],  # of a vector the last
        0 if lengths is None else lengths.data_ptr(),
        kept_steps,
        interface.CELLS[recurrence.name],
        input.dtype == torch.float64,
        reverse,
        torch.get_num_threads(),
        interface.chosen.instruction_set,
        *(_NO_RESETS if call.resets is None else _described(call.resets, reset_states)),
    )
    return layer, [states, lengths, *parameters, *reset_states]


def _described(resets: Tensor, states: Sequence[Tensor]) -> tuple[int, ...]:
    """Where segments begin and the states, each (B, H), that they start from."""
    pointers = (*[state.data_ptr() for state in states], *_ABSENT)
    return (resets.data_ptr(), *resets.stride(), *pointers[:_STATES])


def _no_memory() -> MemoryError:
    return MemoryError("the CPU kernels found no memory for their buffers")


def _forward(call: Call, output: Tensor, last: Tensor, saved: Tensor) -> None:
    # What is not to be saved has one dimension, (0).
    kept_steps = saved.shape[0]
    layer, _held = _describe(call, kept_steps)
    first, of_state = last.data_ptr(), last.stride(0) * last.element_size()
    pointers = [first + number * of_state for number in range(len(last))]
    if interface.kernels.brc_forward(  # type: ignore[union-attr]  # registered where they are
        layer, 1, output.data_ptr(), interface.States(*pointers), saved.data_ptr()
    ):
        raise _no_memory()


def _backward(
    call: Call,
    grad_output: Tensor | None,
    grad_last: Tensor | None,
    output: Tensor,
    saved: Tensor,
    gradients: Gradients,
) -> None:
    if len(call.states) > 1 and not saved.numel():  # the further states are not there yet
        saved = output.new_empty(_saved_shape(call))
        _forward(call, torch.empty_like(output), torch.empty_like(call.states), saved)
    layer, _held = _describe(call, saved.shape[0] if saved.numel() else 0)
    output, saved = output.contiguous(), saved.contiguous()
    grad_last = None if grad_last is None else grad_last.contiguous()
    grad_input = gradients.input if gradients.input.shape == call.input.shape else None
    kernel, memory, *biases = gradients.parameters
    bias = memory_bias = None
    if biases:
        bias, beside_kernel = biases[0].data_ptr(), call.recurrence.parameters[0].gates[0]
        beside_kernel *= call.states.shape[2]
        if biases[0].shape[0] > beside_kernel:
            memory_bias = bias + beside_kernel * biases[0].element_size()
    arguments = interface.Gradients(
        output.data_ptr(),
        saved.data_ptr(),
        None if grad_output is None else grad_output.data_ptr(),
        (0, 0, 0) if grad_output is None else grad_output.stride(),
        None if grad_last is None else grad_last.data_ptr(),
        None if grad_input is None else grad_input.data_ptr(),
        (0, 0, 0) if grad_input is None else grad_input.stride(),
        gradients.states.data_ptr(),
        kernel.data_ptr(),
        kernel.stride(),
        memory.data_ptr(),
        (0, *memory.stride())[-2:],
        bias,
        memory_bias,
    )
    if call.reset_states is not None:
        arguments.grad_reset_states = gradients.reset_states.data_ptr()
    if interface.kernels.brc_backward(layer, arguments):  # type: ignore[union-attr]
        raise _no_memory()


@functools.cache
def _of_gates(recurrence: Recurrence, count: int) -> Callable[[list[int]], tuple[int, ...]]:
    """What puts the pointers to the gates of a layer's tensors, and a 0, where the kernels look."""
    places = range(count * recurrence.apart)
    of_parameters = []
    for tensors in recurrence.layouts[count][0]:
        gates = tensors * recurrence.apart
        of_parameters.append([*places[:gates]])
        places = places[gates:]
    kernel, memory, bias = of_parameters
    beside_kernel = len(kernel)
    all_places: list[int] = []
    for own in (kernel, memory, bias[:beside_kernel], bias[beside_kernel:]):
        all_places += own + [-1] * (_GATES - len(own))
    return operator.itemgetter(*all_places)


def _layers(call: LayersCall, output: Tensor, last: list[Tensor]) -> None:
    recurrence, input, states, parameters, lengths, resets, reset_states = call
    states = [*map(Tensor.contiguous, states)]
    lengths = None if lengths is None else lengths.to("cpu", torch.int64).contiguous()
    layers, batch, hidden = states[0].shape
    steps, _, features = input.shape
    count, size = len(parameters) // layers, input.element_size()
    tensors, _ = recurrence.layouts[count]
    apart = recurrence.apart
    # The gates of one tensor are taken as they lie; those of several must lie alike.
    held = [t if apart > 1 and t.dim() > 1 else t.contiguous() for t in parameters]
    pointers = [*map(Tensor.data_ptr, held)]
    if apart > 1:
        steps_between = [hidden * size * stacked.stride(-1) for stacked in held]
        pointers = [
            first + gate * step
            for first, step in zip(pointers, steps_between, strict=True)
            for gate in range(apart)
        ]
    first_states, state_size = [*map(Tensor.data_ptr, states)], batch * hidden * size
    sequence = *input.stride(), input.data_ptr()
    of_layer, of_gates = count * apart, _of_gates(recurrence, count)
    shared = (
        0 if lengths is None else lengths.data_ptr(),
        0,
        interface.CELLS[recurrence.name],
        input.dtype == torch.float64,
        False,
        torch.get_num_threads(),
        interface.chosen.instruction_set,
    )
    reset_states = [state.contiguous() for state in reset_states or ()]
    descriptions = b""
    for layer in range(layers):
        first = layer * count
        descriptions += interface.LAYER.pack(
            *(steps, batch, hidden if layer else features, hidden),
            *sequence,
            *(*[address + layer * state_size for address in first_states], 0)[:_STATES],
            *of_gates([*pointers[layer * of_layer : (layer + 1) * of_layer], 0]),
            *held[first].stride(),
            *(0, *held[first + tensors[0]].stride())[-2:],
            *shared,
            *(
                _NO_RESETS
                if resets is None
                else _described(resets, [state[layer] for state in reset_states])
            ),
        )
    if interface.kernels.brc_forward(  # type: ignore[union-attr]
        descriptions,
        layers,
        output.data_ptr(),
        interface.States(*map(Tensor.data_ptr, last)),
        None,
    ):
        raise _no_memory()


def _step(
    recurrence: Recurrence,
    input: Tensor,
    state: Tensor,
    parameters: Sequence[Tensor],
    updated: Tensor,
) -> None:
    state, held = state.contiguous(), [*map(Tensor.contiguous, parameters)]
    count = len(held)
    layer = interface.LAYER.pack(
        *(1, *input.shape, state.shape[1]),
        *(0, *input.stride(), input.data_ptr()),
        *(state.data_ptr(), 0),
        *_of_gates(recurrence, count)([*map(Tensor.data_ptr, held), 0]),
        *held[0].stride(),
        *(0, *held[recurrence.layouts[count][0][0]].stride())[-2:],
        *(0, 0, interface.CELLS[recurrence.name], input.dtype == torch.float64, False),
        *(torch.get_num_threads(), interface.chosen.instruction_set, *_NO_RESETS),
    )
    last = interface.States(updated.data_ptr())
    if interface.kernels.brc_forward(layer, 1, None, last, None):  # type: ignore[union-attr]
        raise _no_memory()


if interface.kernels is not None:
    register_backend(
        "cpu",
        Backend(
            device_type="cpu",
            dtypes=frozenset((torch.float32, torch.float64)),
            recurrences=frozenset(interface.CELLS),
            forward=_forward,
            backward=_backward,
            saved_shape=_saved_shape,
            layers=_layers,
            knows_resets=True,
            step=_step,
        ),
    )
