"""The compiled kernels for CPU tensors: loaded, wrapped as torch operators, registered.

The shared library (sources in ``csrc``) has a plain C interface over raw pointers, so that one
binary serves every version of torch. It computes in float32 and float64; narrower types go through
float32.

Symbols: T time, B batch, I input size, H hidden size; the tensors are those of
:mod:`brc_pytorch.ops.reference`.
"""

import ctypes
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from brc_pytorch.ops.fallback import (
    Inputs,
    differentiable_gradients,
    needs_reference,
    reference_for,
)
from brc_pytorch.ops.library import Backend, mixes_dtypes, register_backend

# Gates that take at most this many products a unit are computed again in the backward pass: that
# is faster than writing and reading them, and (T, B, 2H) less to hold.
_CHEAP_GATES = 64
# Where the input's part of the gates is that cheap and the state's is not, those of half the steps
# are: (T, B, H) less to hold, for a few per cent of the time. Fewer units than these take more.
_UNITS_TO_HALVE = 96
_COMPUTED = (torch.float32, torch.float64)


class _Layer(ctypes.Structure):
    """``brc_layer`` of csrc/brc.h."""

    _fields_ = (
        ("steps", ctypes.c_int64),
        ("batch", ctypes.c_int64),
        ("input_size", ctypes.c_int64),
        ("hidden_size", ctypes.c_int64),
        ("input_strides", ctypes.c_int64 * 3),
        ("input", ctypes.c_void_p),
        ("h_0", ctypes.c_void_p),
        ("kernel", ctypes.c_void_p * 3),
        ("memory", ctypes.c_void_p * 2),
        ("bias", ctypes.c_void_p * 3),
        ("kernel_stride", ctypes.c_int64),
        ("memory_stride", ctypes.c_int64),
        ("lengths", ctypes.c_void_p),
        ("kept_steps", ctypes.c_int64),
        ("full_memory", ctypes.c_int32),
        ("is_double", ctypes.c_int32),
        ("reverse", ctypes.c_int32),
        ("threads", ctypes.c_int32),
        ("instruction_set", ctypes.c_int32),
    )


class _Gradients(ctypes.Structure):
    """``brc_gradients`` of csrc/brc.h."""

    _fields_ = (
        ("output", ctypes.c_void_p),
        ("gates", ctypes.c_void_p),
        ("grad_output", ctypes.c_void_p),
        ("grad_output_strides", ctypes.c_int64 * 3),
        ("grad_last", ctypes.c_void_p),
        ("grad_input", ctypes.c_void_p),
        ("grad_input_strides", ctypes.c_int64 * 3),
        ("grad_h_0", ctypes.c_void_p),
        ("grad_kernel", ctypes.c_void_p),
        ("grad_memory", ctypes.c_void_p),
        ("grad_bias", ctypes.c_void_p),
    )


def _load() -> ctypes.CDLL | None:
    """Return the compiled kernels, or None where the installation has none."""
    # An editable installation keeps them apart from the sources: its package has two folders.
    folders = map(Path, sys.modules[__package__].__path__)
    for path in (path for folder in folders for path in folder.glob("*brc_cpu.*")):
        library = ctypes.CDLL(str(path))
        pointer = ctypes.c_void_p
        library.brc_instruction_sets.restype = ctypes.c_char_p
        library.brc_forward.argtypes = (
            ctypes.POINTER(_Layer),
            ctypes.c_int32,
            *(pointer,) * 3,
        )
        library.brc_backward.argtypes = (ctypes.POINTER(_Layer), ctypes.POINTER(_Gradients))
        return library
    return None


_kernels = _load()
_instruction_sets = _kernels.brc_instruction_sets().decode().split(",") if _kernels else []
_instruction_set = 0


@contextmanager
def instruction_set(name: str) -> Iterator[None]:
    """Compute with one instruction set of this processor, in all threads, inside a ``with`` block.

    Args:
        name: one of :func:`instruction_sets`; without this function, the first of them.

    Raises:
        ValueError: this processor, or this build, has no such instruction set.
    """
    global _instruction_set  # noqa: PLW0603 - what the processor can do is a fact of the process
    if name not in _instruction_sets:
        raise ValueError(f"name: expected one of {_instruction_sets}, got {name!r}")
    before, _instruction_set = _instruction_set, _instruction_sets.index(name)
    try:
        yield
    finally:
        _instruction_set = before


def instruction_sets() -> list[str]:
    """Return the instruction sets that this build and this processor share, the best first."""
    return list(_instruction_sets)


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _dense(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _gate_pointers(stacked: Tensor | None, hidden: int, gates: int) -> tuple[int | None, ...]:
    """Where each gate's (*, H) begins in a dense (*, gates * H), None for one that is not there."""
    if stacked is None:
        return (None,) * gates
    first, size = stacked.data_ptr(), hidden * stacked.element_size()
    there = stacked.shape[-1] // max(hidden, 1)
    return tuple(first + gate * size if gate < there else None for gate in range(gates))


class _Call:
    """The C description of a layer, and the tensors whose memory it points to."""

    def __init__(
        self,
        input: Tensor,
        h_0: Tensor,
        kernel: Tensor,
        memory: Tensor,
        bias: Tensor | None,
        lengths: Tensor | None,
        reverse: bool,
        gates: Tensor,
    ) -> None:
        hidden = h_0.shape[1]
        self.tensors = tuple(map(_dense, (h_0, kernel, memory, bias, _as_int64(lengths))))
        state, *stacked, ends = self.tensors
        self.layer = _Layer(
            *input.shape,
            hidden,
            input.stride(),
            input.data_ptr(),
            _pointer(state),
            *(
                _gate_pointers(tensor, hidden, n)
                for tensor, n in zip(stacked, (3, 2, 3), strict=True)
            ),
            3 * hidden,
            2 * hidden,
            _pointer(ends),
            gates.shape[0],
            memory.dim() == 2,  # noqa: PLR2004 - (H, 2H) in the nBRC, (2H) in the BRC
            *_settings(input, reverse),
        )


def _as_int64(lengths: Tensor | None) -> Tensor | None:
    return None if lengths is None else lengths.to("cpu", torch.int64)


def _settings(input: Tensor, reverse: bool) -> tuple[bool, bool, int, int]:
    """The last fields of a layer's description."""
    return input.dtype == torch.float64, reverse, torch.get_num_threads(), _instruction_set


def _raise_on(status: int) -> None:
    if status:
        raise MemoryError("the CPU kernels found no memory for their buffers")


def _scan_outputs(
    input: Tensor,
    h_0: Tensor,
    kernel: Tensor,  # noqa: ARG001 - the operator's signature
    memory: Tensor,  # noqa: ARG001
    bias: Tensor | None,  # noqa: ARG001
    lengths: Tensor | None,  # noqa: ARG001
    reverse: bool,  # noqa: ARG001
    kept_halves: int,
    overwrite_gates: bool,  # noqa: ARG001
) -> tuple[Tensor, Tensor, Tensor]:
    """Return new tensors of the outputs' shapes: h (T, B, H), its last (B, H), gates (K, B, 2H).

    K is as many halves of T: the last steps to be taken keep their gates.
    """
    steps, batch, _ = input.shape
    hidden = h_0.shape[1]
    return (
        input.new_empty(steps, batch, hidden),
        input.new_empty(batch, hidden),
        input.new_empty(steps * kept_halves // 2, batch, 2 * hidden),
    )


def _scan(
    input: Tensor,
    h_0: Tensor,
    kernel: Tensor,
    memory: Tensor,
    bias: Tensor | None,
    lengths: Tensor | None,
    reverse: bool,
    kept_halves: int,
    overwrite_gates: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    inputs = (input, h_0, kernel, memory, bias, lengths, reverse)
    outputs = output, last, gates = _scan_outputs(*inputs, kept_halves, overwrite_gates)
    call = _Call(*inputs, gates)
    assert _kernels is not None  # noqa: S101 - the operator is registered only where they are
    _raise_on(_kernels.brc_forward(call.layer, 1, *map(_pointer, outputs)))
    return output, last, gates


def _scan_layers_outputs(
    input: Tensor,
    h_0: Tensor,
    parameters: list[Tensor],  # noqa: ARG001 - the operator's signature
    lengths: Tensor | None,  # noqa: ARG001
) -> tuple[Tensor, Tensor]:
    """Return new tensors of the outputs' shapes: the top layer's (T, B, H), all last (L, B, H)."""
    return input.new_empty(*input.shape[:2], h_0.shape[2]), h_0.new_empty(h_0.shape)


def _scan_layers(
    input: Tensor,
    h_0: Tensor,
    parameters: list[Tensor],
    lengths: Tensor | None,
) -> tuple[Tensor, Tensor]:
    outputs = _scan_layers_outputs(input, h_0, parameters, lengths)
    layers, batch, hidden = h_0.shape
    h_0, lengths = h_0.contiguous(), _dense(_as_int64(lengths))
    dense = [parameter.contiguous() for parameter in parameters]
    pointers = [parameter.data_ptr() for parameter in dense]
    of_layer = len(parameters) // layers
    first_state, state_size = h_0.data_ptr(), batch * hidden * h_0.element_size()
    shared = (
        hidden,
        hidden,
        _pointer(lengths),
        0,
        parameters[3].dim() == 2,  # noqa: PLR2004 - (H, H) in the nBRC, (H) in the BRC
        *_settings(input, reverse=False),
    )
    descriptions = (_Layer * layers)()
    for layer in range(layers):
        at = layer * of_layer
        descriptions[layer] = _Layer(
            *input.shape[:2],
            input.shape[2] if layer == 0 else hidden,
            hidden,
            input.stride(),
            input.data_ptr(),
            first_state + layer * state_size,
            tuple(pointers[at : at + 3]),
            tuple(pointers[at + 3 : at + 5]),
            tuple(pointers[at + 5 : at + of_layer]),
            *shared,
        )
    assert _kernels is not None  # noqa: S101 - the operator is registered only where they are
    _raise_on(_kernels.brc_forward(descriptions, layers, *map(_pointer, outputs), None))
    return outputs


def _scan_gradients(
    grad_output: Tensor | None,  # noqa: ARG001 - the operator's signature
    grad_last: Tensor | None,  # noqa: ARG001
    input: Tensor,
    h_0: Tensor,
    kernel: Tensor,
    memory: Tensor,
    bias: Tensor | None,
    lengths: Tensor | None,  # noqa: ARG001
    reverse: bool,  # noqa: ARG001
    output: Tensor,  # noqa: ARG001
    gates: Tensor,  # noqa: ARG001
    input_needs_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return new tensors of the gradients' shapes; (0,) for one that is not there."""
    return (
        input.new_empty(input.shape if input_needs_grad else (0,)),
        h_0.new_empty(h_0.shape),
        kernel.new_empty(kernel.shape),
        memory.new_empty(memory.shape),
        kernel.new_empty((0,) if bias is None else bias.shape),
    )


def _scan_backward(
    grad_output: Tensor | None,
    grad_last: Tensor | None,
    input: Tensor,
    h_0: Tensor,
    kernel: Tensor,
    memory: Tensor,
    bias: Tensor | None,
    lengths: Tensor | None,
    reverse: bool,
    output: Tensor,
    gates: Tensor,
    input_needs_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    inputs = (input, h_0, kernel, memory, bias, lengths, reverse)
    gradients = _scan_gradients(grad_output, grad_last, *inputs, output, gates, input_needs_grad)
    _write_gradients(grad_output, grad_last, inputs, output, gates, gradients)
    return gradients


def _scan_backward_over_gates(
    grad_output: Tensor | None,
    grad_last: Tensor | None,
    inputs: Inputs,
    output: Tensor,
    gates: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Like :func:`_scan_backward`, with the input's gradient in place of the gates, (T, B, 2H).

    The kernels read the gates of a row at a step before they write the gradient of its input.
    """
    rest = _scan_gradients(grad_output, grad_last, *inputs, output, gates, input_needs_grad=False)
    gradients = (gates.narrow(2, 0, inputs[0].shape[2]), *rest[1:])
    _write_gradients(grad_output, grad_last, inputs, output, gates, gradients)
    return gradients


def _write_gradients(
    grad_output: Tensor | None,
    grad_last: Tensor | None,
    inputs: Inputs,
    output: Tensor,
    gates: Tensor,
    gradients: tuple[Tensor, Tensor, Tensor, Tensor, Tensor],
) -> None:
    grad_input, grad_h_0, grad_kernel, grad_memory, grad_bias = gradients
    wants_grad_input = grad_input.dim() == 3  # noqa: PLR2004 - (T, B, I), not (0,)
    call = _Call(*inputs, gates)
    output, gates, grad_last = output.contiguous(), gates.contiguous(), _dense(grad_last)
    arguments = _Gradients(
        output.data_ptr(),
        gates.data_ptr(),
        _pointer(grad_output),
        (0, 0, 0) if grad_output is None else grad_output.stride(),
        _pointer(grad_last),
        grad_input.data_ptr() if wants_grad_input else None,
        grad_input.stride() if wants_grad_input else (0, 0, 0),
        grad_h_0.data_ptr(),
        grad_kernel.data_ptr(),
        grad_memory.data_ptr(),
        None if inputs[4] is None else grad_bias.data_ptr(),
    )
    assert _kernels is not None  # noqa: S101 - the operator is registered only where they are
    _raise_on(_kernels.brc_backward(call.layer, arguments))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:  # noqa: ANN401 - autograd's own
    *tensors, ctx.reverse, _, ctx.may_overwrite = inputs
    ctx.set_materialize_grads(False)  # a gradient that is not there stays None, not zeros (T, B, H)
    ctx.save_for_backward(*tensors, *output)


def _backward(
    ctx: Any,  # noqa: ANN401 - autograd's own
    grad_output: Tensor | None,
    grad_last: Tensor | None,
    _grad_gates: Tensor | None,
) -> tuple[Tensor | None, ...]:
    *tensors, output, _last, gates = ctx.saved_tensors
    needed = ctx.needs_input_grad
    if grad_output is None and grad_last is None:
        return (None,) * len(needed)
    inputs = (*tensors, ctx.reverse)
    if torch.is_grad_enabled():
        return differentiable_gradients(inputs, (grad_output, grad_last), needed)
    if ctx.may_overwrite and needed[0] and _can_overwrite(gates, tensors[0]):
        gradients = _scan_backward_over_gates(grad_output, grad_last, inputs, output, gates)
    else:
        gradients = torch.ops.brc_pytorch.scan_backward(
            grad_output,
            grad_last,
            *tensors,
            ctx.reverse,
            output,
            gates,
            needed[0],
        )
    wanted = (g if need else None for g, need in zip(gradients, needed, strict=False))
    return (*wanted, None, None, None, None)


def _can_overwrite(gates: Tensor, input: Tensor) -> bool:
    """Whether the gates will not be read again, and the input's gradient fits in their place.

    That is the peak of a training step: it spares a tensor as large as the input.
    """
    graph_is_kept = torch._C._autograd._get_current_graph_task_keep_graph()  # noqa: SLF001 - nothing public tells
    return (
        gates.shape[0] == input.shape[0]
        and input.shape[2] <= gates.shape[2]
        and gates.is_contiguous()
        and type(gates) is Tensor  # what a tracer records must not write to its inputs
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()  # noqa: SLF001 - several gradients at once
        and not graph_is_kept
    )


def _run(
    input: Tensor,
    h_0: Tensor,
    kernel: Tensor,
    memory: Tensor,
    bias: Tensor | None,
    lengths: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """Both recurrences: the memory's shape tells which."""
    if needs_reference():
        return reference_for(memory)(input, h_0, kernel, memory, bias, lengths, reverse)
    if input.dtype not in _COMPUTED or mixes_dtypes(input.device):
        # Under autocast the dtypes may differ; the output's is the input's, as nn.GRU's is.
        dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
        wide = (input.to(dtype), h_0.to(dtype), kernel.to(dtype), memory.to(dtype))
        output, last = _scan_and_keep(
            *wide, None if bias is None else bias.to(dtype), lengths, reverse
        )
        return output.to(input.dtype), last.to(input.dtype)
    return _scan_and_keep(input, h_0, kernel, memory, bias, lengths, reverse)


def _scan_and_keep(
    input: Tensor,
    h_0: Tensor,
    kernel: Tensor,
    memory: Tensor,
    bias: Tensor | None,
    lengths: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """Call the operator; it keeps the gates where a backward pass will come and they are dear."""
    inputs = (input, h_0, kernel, memory, bias, lengths, reverse)
    tensors = inputs[:5]
    needs_grad = torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in tensors
    )
    if not needs_grad and not torch.compiler.is_compiling():
        # A single step is mostly overhead; autograd's part of it, 6 us, would do nothing here.
        with torch._C._AutoDispatchBelowAutograd():  # noqa: SLF001 - nothing public skips it
            output, last, _ = _operator(*inputs, 0, False)
        return output, last
    kept_halves = 0
    of_input, of_state = 3 * input.shape[2], 0 if memory.dim() == 1 else 2 * h_0.shape[1]
    if needs_grad and of_input + of_state > _CHEAP_GATES:
        are_halved = of_input <= _CHEAP_GATES and h_0.shape[1] >= _UNITS_TO_HALVE
        kept_halves = 1 if are_halved else 2
    # Nobody sees the gates but the backward pass: it may overwrite them.
    output, last, _ = _operator(*inputs, kept_halves, True)
    return output, last


def _run_layers(
    input: Tensor,
    h_0: Tensor,
    layers: Sequence[Sequence[Tensor]],
    lengths: Tensor | None,
) -> tuple[Tensor, Tensor] | None:
    """Layers one upon the other in one call, where no gradient is wanted."""
    if (
        torch.is_grad_enabled()
        or torch.compiler.is_compiling()
        or input.dtype not in _COMPUTED
        or needs_reference()
    ):
        return None
    with torch._C._AutoDispatchBelowAutograd():  # noqa: SLF001 - as in _scan_and_keep
        output, last = _layers_operator(input, h_0, [p for layer in layers for p in layer], lengths)
    return output, last


if _kernels is not None:
    _ops: Any = torch.library.Library("brc_pytorch", "FRAGMENT")  # type: ignore[no-untyped-call]
    _ops.define(
        "scan(Tensor input, Tensor h_0, Tensor kernel, Tensor memory, Tensor? bias,"
        " Tensor? lengths, bool reverse, int kept_halves, bool overwrite_gates)"
        " -> (Tensor output, Tensor last, Tensor gates)"
    )
    _ops.define(
        "scan_layers(Tensor input, Tensor h_0, Tensor[] parameters, Tensor? lengths)"
        " -> (Tensor output, Tensor last)"
    )
    _ops.define(
        "scan_backward(Tensor? grad_output, Tensor? grad_last, Tensor input, Tensor h_0,"
        " Tensor kernel, Tensor memory, Tensor? bias, Tensor? lengths, bool reverse,"
        " Tensor output, Tensor gates, bool input_needs_grad) -> (Tensor grad_input,"
        " Tensor grad_h_0, Tensor grad_kernel, Tensor grad_memory, Tensor grad_bias)"
    )
    _ops.impl("scan", _scan, "CPU")
    _ops.impl("scan_layers", _scan_layers, "CPU")
    _ops.impl("scan_backward", _scan_backward, "CPU")
    torch.library.register_fake("brc_pytorch::scan", _scan_outputs, lib=_ops)
    torch.library.register_fake("brc_pytorch::scan_layers", _scan_layers_outputs, lib=_ops)
    torch.library.register_fake("brc_pytorch::scan_backward", _scan_gradients, lib=_ops)
    torch.library.register_autograd(
        "brc_pytorch::scan", _backward, setup_context=_setup_context, lib=_ops
    )
    _operator = torch.ops.brc_pytorch.scan.default
    _layers_operator = torch.ops.brc_pytorch.scan_layers.default
    register_backend("cpu", Backend("cpu", _run, _run, _run_layers))
