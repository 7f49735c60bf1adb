"""The compiled kernels as a backend of the operator, and what they keep for the backward pass.

They keep gates c_t and a_t - 1 of the last steps to be taken, (K, B, 2H) for K steps, and compute
those of the other steps again.

Symbols: T time, B batch, I input size, H hidden size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from brc_pytorch.ops.backends import Backend, Call, Gradients, register_backend
from brc_pytorch.ops.cpu import interface
from brc_pytorch.ops.recurrences import Recurrence

# Gates that take at most this many products a unit are computed again in the backward pass: that
# is faster than writing and reading them, and (T, B, 2H) less to hold.
_CHEAP_GATES = 64
# Where the input's part of the gates is that cheap and the state's is not, those of half the steps
# are: (T, B, H) less to hold, for a few per cent of the time. Fewer units than these take more.
_UNITS_TO_HALVE = 96
_PARAMETERS = 4  # of the C interface: kernel, memory, bias, the memory's bias


def _saved_shape(call: Call) -> tuple[int, ...]:
    recurrence, input, states, *_ = call
    steps, batch, features = input.shape
    hidden = states.shape[2]
    kernel, memory, *_ = recurrence.parameters
    of_input = kernel.gates[0] * features
    of_state = 0 if memory.rows is None else memory.gates[0] * hidden
    kept_halves = 0
    if of_input + of_state > _CHEAP_GATES:
        are_halved = of_input <= _CHEAP_GATES and hidden >= _UNITS_TO_HALVE
        kept_halves = 1 if are_halved else 2
    return (steps * kept_halves // 2, batch, 2 * hidden)


def _describe(call: Call, kept_steps: int) -> tuple[interface.Layer, list[Tensor | None]]:
    """The C description of a layer, and the tensors whose memory it points to."""
    recurrence, input, states, parameters, lengths, reverse, *_ = call
    hidden = states.shape[2]
    size = hidden * input.element_size()
    states = states.contiguous()
    lengths = None if lengths is None else lengths.to("cpu", torch.int64).contiguous()
    held: list[Tensor | None] = [states, lengths]
    # Where each gate's (*, H) begins in a dense (*, gates * H), None for one that is not there.
    pointers: list[tuple[int | None, ...]] = []
    for place, parameter in enumerate(recurrence.parameters):
        begins: list[int | None] = [None] * max(parameter.gates)
        if place < len(parameters):
            stacked = parameters[place].contiguous()
            held.append(stacked)
            first = stacked.data_ptr()
            for gate in range(stacked.shape[-1] // max(hidden, 1)):
                begins[gate] = first + gate * size
        pointers.append(tuple(begins))
    layer = interface.Layer(
        *input.shape,
        hidden,
        input.stride(),
        input.data_ptr(),
        (states.data_ptr(),),
        *pointers,
        *[()] * (_PARAMETERS - len(pointers)),
        *(parameter.shape[-1] for parameter in parameters[:2]),  # how far rows lie apart
        None if lengths is None else lengths.data_ptr(),
        kept_steps,
        interface.CELLS[recurrence.name],
        input.dtype == torch.float64,
        reverse,
        torch.get_num_threads(),
        interface.chosen.instruction_set,
    )
    return layer, held


def _no_memory() -> MemoryError:
    return MemoryError("the CPU kernels found no memory for their buffers")


def _forward(call: Call, output: Tensor, last: Tensor, saved: Tensor) -> None:
    # What is not to be saved has one dimension, (0).
    kept_steps = saved.shape[0]
    layer, _held = _describe(call, kept_steps)
    if interface.kernels.brc_forward(  # type: ignore[union-attr]  # registered where they are
        layer, 1, output.data_ptr(), last.data_ptr(), saved.data_ptr()
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
    layer, _held = _describe(call, saved.shape[0] if saved.numel() else 0)
    output, saved = output.contiguous(), saved.contiguous()
    grad_last = None if grad_last is None else grad_last.contiguous()
    grad_input = gradients.input if gradients.input.shape == call.input.shape else None
    pointers = [gradient.data_ptr() for gradient in gradients.parameters]
    pointers += [None] * (len(call.recurrence.parameters) - len(pointers))  # type: ignore[list-item]
    arguments = interface.Gradients(
        output.data_ptr(),
        saved.data_ptr(),
        None if grad_output is None else grad_output.data_ptr(),
        (0, 0, 0) if grad_output is None else grad_output.stride(),
        None if grad_last is None else grad_last.data_ptr(),
        None if grad_input is None else grad_input.data_ptr(),
        (0, 0, 0) if grad_input is None else grad_input.stride(),
        gradients.states.data_ptr(),
        *pointers,
    )
    if interface.kernels.brc_backward(layer, arguments):  # type: ignore[union-attr]
        raise _no_memory()


def _layers(
    recurrence: Recurrence,
    input: Tensor,
    states: Sequence[Tensor],
    parameters: Sequence[Tensor],
    lengths: Tensor | None,
    resets: Tensor | None,  # noqa: ARG001 - it knows none
    reset_states: Sequence[Tensor] | None,  # noqa: ARG001 - the same
    output: Tensor,
    last: list[Tensor],
) -> None:
    h_0 = states[0].contiguous()
    lengths = None if lengths is None else lengths.to("cpu", torch.int64).contiguous()
    held = [*map(Tensor.contiguous, parameters)]
    pointers = [*map(Tensor.data_ptr, held)]
    layers, batch, hidden = h_0.shape
    steps, _, features = input.shape
    gates, _ = recurrence.layouts[len(parameters) // layers]
    first_state, state_size = h_0.data_ptr(), batch * hidden * h_0.element_size()
    strides, address = input.stride(), input.data_ptr()
    shared = (
        hidden,
        hidden,
        None if lengths is None else lengths.data_ptr(),
        0,
        interface.CELLS[recurrence.name],
        input.dtype == torch.float64,
        False,
        torch.get_num_threads(),
        interface.chosen.instruction_set,
    )
    descriptions = (interface.Layer * layers)()
    at = 0
    for layer in range(layers):
        of_parameters = []
        for count in gates:
            of_parameters.append(tuple(pointers[at : at + count]))
            at += count
        descriptions[layer] = interface.Layer(
            steps,
            batch,
            hidden if layer else features,
            hidden,
            strides,
            address,
            (first_state + layer * state_size,),
            *of_parameters,
            *[()] * (_PARAMETERS - len(of_parameters)),
            *shared,
        )
    if interface.kernels.brc_forward(  # type: ignore[union-attr]
        descriptions, layers, output.data_ptr(), last[0].data_ptr(), None
    ):
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
        ),
    )
