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
# are: (T, B, H) less to hold, for a few per cent of the time. Fewer units than these take more; of
# more units each number not held costs more products.
_UNITS_TO_HALVE = range(96, 256)
# Room for pointers in the description of a layer.
_GATES, _STATES = interface.GATES, interface.STATES
_ABSENT = (0,) * _GATES
_NO_RESETS = (0,) * (3 + _STATES)


def _saved_shape(recurrence: Recurrence, input: Sequence[int], hidden: int) -> tuple[int, ...]:
    steps, batch, features = input
    kernel, memory, *_ = recurrence.parameters
    of_input = kernel.gates[0] * features
    of_state = 0 if memory.rows is None else memory.gates[0] * hidden
    kept_halves = 0
    if len(recurrence.states) > 1:  # further states are nowhere but in what is kept
        kept_halves = 2
    elif of_input + of_state > _CHEAP_GATES:
        are_halved = of_input <= _CHEAP_GATES and hidden in _UNITS_TO_HALVE
        kept_halves = 1 if are_halved else 2
    return (steps * kept_halves // 2, batch, interface.SAVED[recurrence.name] * hidden)


def _describe(call: Call, kept_steps: int) -> tuple[bytes, list[Tensor | None]]:
    """The C description of a layer, and the tensors whose memory it points to."""
    recurrence, input, states, parameters, lengths, reverse, *_ = call
    states = states.contiguous()
    lengths = None if lengths is None else lengths.to("cpu", torch.int64).contiguous()
    held, gates = _gates(recurrence, parameters, states.shape[2])
    first_state, of_state = states.data_ptr(), states.stride(0) * states.element_size()
    reset_states = [] if call.reset_states is None else [*call.reset_states.contiguous()]
    layer = interface.LAYER.pack(
        *(*input.shape, states.shape[2]),
        *(*input.stride(), input.data_ptr()),
        *(*[first_state + number * of_state for number in range(states.shape[0])], 0)[:_STATES],
        *gates,
        0 if lengths is None else lengths.data_ptr(),
        kept_steps,
        *_shared(recurrence, input, reverse),
        *(_NO_RESETS if call.resets is None else _described(call.resets, reset_states)),
    )
    return layer, [states, lengths, *held, *reset_states]


def _gates(
    recurrence: Recurrence, parameters: Sequence[Tensor], hidden: int
) -> tuple[list[Tensor], tuple[int, ...]]:
    """A layer's parameters, stacked or not, as they can be read, and how the kernels find them.

    That are pointers to all gates, and the strides of the kernel and of the memory, of one that is
    a vector the last alone. The gates of one tensor are taken as they lie; those of several must
    lie alike.
    """
    layout = recurrence.layouts.get(len(parameters))
    if recurrence.apart == 1 and layout is not None:
        held = [*map(Tensor.contiguous, parameters)]
        pointers = [*map(Tensor.data_ptr, held)]
    else:
        held = [each if each.dim() > 1 else each.contiguous() for each in parameters]
        pointers = []
        for stacked in held:
            first, step = stacked.data_ptr(), hidden * stacked.stride(-1) * stacked.element_size()
            gates = stacked.shape[-1] // max(hidden, 1)
            pointers += [first + gate * step for gate in range(gates)]
    of_gates = _of_gates(recurrence, len(pointers))
    memory = held[1 if layout is None else layout[0][0]]
    strides = *held[0].stride(), *(0, *memory.stride())[-2:]
    return held, (*of_gates([*pointers, 0]), *strides)


def _shared(recurrence: Recurrence, input: Tensor, reverse: bool) -> tuple[int, ...]:
    """What is the same in all layers of a call."""
    return (
        interface.CELLS[recurrence.name],
        input.dtype == torch.float64,
        reverse,
        torch.get_num_threads(),
        interface.chosen.instruction_set,
    )


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
    _run(layer, 1, output, [first + number * of_state for number in range(len(last))], saved)


def _backward(
    call: Call,
    grad_output: Tensor | None,
    grad_last: Tensor | None,
    output: Tensor,
    saved: Tensor,
    gradients: Gradients,
) -> None:
    if len(call.states) > 1 and not saved.numel():  # the further states are not there yet
        shape = _saved_shape(call.recurrence, call.input.shape, call.states.shape[2])
        saved = output.new_empty(shape)
        _forward(call, torch.empty_like(output), torch.empty_like(call.states), saved)
    layer, _held = _describe(call, saved.shape[0] if saved.numel() else 0)
    output, saved = output.contiguous(), saved.contiguous()
    grad_last = None if grad_last is None else grad_last.contiguous()
    grad_input = gradients.input if gradients.input.shape == call.input.shape else None
    kernel, memory, *biases = gradients.parameters
    bias = memory_bias = 0
    if biases:
        bias, beside_kernel = biases[0].data_ptr(), call.recurrence.parameters[0].gates[0]
        beside_kernel *= call.states.shape[2]
        if biases[0].shape[0] > beside_kernel:
            memory_bias = bias + beside_kernel * biases[0].element_size()
    arguments = interface.GRADIENTS.pack(
        output.data_ptr(),
        saved.data_ptr(),
        0 if grad_output is None else grad_output.data_ptr(),
        *((0, 0, 0) if grad_output is None else grad_output.stride()),
        0 if grad_last is None else grad_last.data_ptr(),
        0 if grad_input is None else grad_input.data_ptr(),
        *((0, 0, 0) if grad_input is None else grad_input.stride()),
        gradients.states.data_ptr(),
        kernel.data_ptr(),
        *kernel.stride(),
        memory.data_ptr(),
        *(0, *memory.stride())[-2:],
        bias,
        memory_bias,
        0 if call.reset_states is None else gradients.reset_states.data_ptr(),
    )
    if interface.kernels.brc_backward(layer, arguments):  # type: ignore[union-attr]
        raise _no_memory()


@functools.cache
def _of_gates(recurrence: Recurrence, count: int) -> Callable[[list[int]], tuple[int, ...]]:
    """What puts the pointers to all gates of a layer, and a 0, where the kernels look."""
    kernel, memory, *_ = recurrence.parameters
    of_kernel, of_memory = kernel.gates[0], memory.gates[0]
    places = [*range(count)]
    of_bias = places[of_kernel + of_memory :]
    all_places: list[int] = []
    for own in (
        places[:of_kernel],
        places[of_kernel : of_kernel + of_memory],
        of_bias[:of_kernel],
        of_bias[of_kernel:],
    ):
        all_places += own + [-1] * (_GATES - len(own))
    return operator.itemgetter(*all_places)


def _layers(
    call: LayersCall, outputs: Sequence[Tensor], last: Sequence[Tensor], saved: Sequence[Tensor]
) -> None:
    recurrence, input, states, parameters, lengths, resets, reset_states = call
    states = [*map(Tensor.contiguous, states)]
    lengths = None if lengths is None else lengths.to("cpu", torch.int64).contiguous()
    layers, batch, hidden = states[0].shape
    steps, _, features = input.shape
    count, state_size = len(parameters) // layers, batch * hidden * input.element_size()
    first_states, first_last = [*map(Tensor.data_ptr, states)], [*map(Tensor.data_ptr, last)]
    shared = _shared(recurrence, input, reverse=False)
    reset_states = [state.contiguous() for state in reset_states or ()]
    descriptions, all_held = b"", []
    for layer in range(layers):
        held, gates = _gates(recurrence, parameters[layer * count : (layer + 1) * count], hidden)
        all_held.append(held)
        below = outputs[layer - 1] if layer and saved else input
        descriptions += interface.LAYER.pack(
            *(steps, batch, hidden if layer else features, hidden),
            *(*below.stride(), below.data_ptr()),
            *(*[address + layer * state_size for address in first_states], 0)[:_STATES],
            *gates,
            0 if lengths is None else lengths.data_ptr(),
            saved[layer].shape[0] if saved else 0,
            *shared,
            *(
                _NO_RESETS
                if resets is None
                else _described(resets, [state[layer] for state in reset_states])
            ),
        )
        if saved:
            _run(descriptions, 1, outputs[layer], first_last, saved[layer])
            descriptions, first_last = b"", [each + state_size for each in first_last]
    if not saved:
        _run(descriptions, layers, outputs[0], first_last, None)


def _run(
    descriptions: bytes, layers: int, output: Tensor, last: Sequence[int], saved: Tensor | None
) -> None:
    pointer = None if saved is None else saved.data_ptr()
    if interface.kernels.brc_forward(  # type: ignore[union-attr]  # registered where they are
        descriptions, layers, output.data_ptr(), interface.States(*last), pointer
    ):
        raise _no_memory()


def _step(
    recurrence: Recurrence,
    input: Tensor,
    state: Tensor,
    parameters: Sequence[Tensor],
    updated: Tensor,
) -> None:
    state = state.contiguous()
    _held, gates = _gates(recurrence, parameters, state.shape[1])
    layer = interface.LAYER.pack(
        *(1, *input.shape, state.shape[1]),
        *(0, *input.stride(), input.data_ptr()),
        *(state.data_ptr(), 0),
        *gates,
        *(0, 0, *_shared(recurrence, input, reverse=False), *_NO_RESETS),
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
