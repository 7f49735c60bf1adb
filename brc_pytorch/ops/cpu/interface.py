"""The kernels' C interface, seen from Python: ``csrc/abi/brc.h``.

It is a plain one over raw pointers, so that one binary serves every version of torch.
"""

import ctypes
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

GATES, STATES = 4, 2  # of any cell, at most
States = ctypes.c_void_p * STATES


# ``brc_layer`` of csrc/abi/brc.h; a pointer that is not there is 0. To fill a structure of ctypes
# takes longer than the kernels take for a step.
LAYER = struct.Struct(
    "4q"  # steps, batch, input_size, hidden_size
    "3qP"  # input_strides, input
    f"{STATES}P"  # initial_states
    f"{4 * GATES}P"  # kernel, memory, bias, memory_bias
    "2q2q"  # kernel_strides, memory_strides
    "Pq"  # lengths, saved_steps
    "5i"  # cell, is_double, reverse, threads, instruction_set
    f"P2q{STATES}P"  # resets, resets_strides, reset_states
)


# ``brc_gradients`` of csrc/abi/brc.h.
GRADIENTS = struct.Struct(
    "2P"  # output, saved
    "P3q"  # grad_output, grad_output_strides
    "P"  # grad_last
    "P3q"  # grad_input, grad_input_strides
    "P"  # grad_initial_states
    "P2q"  # grad_kernel, grad_kernel_strides
    "P2q"  # grad_memory, grad_memory_strides
    "3P"  # grad_bias, grad_memory_bias, grad_reset_states
)


def _check_version(library: ctypes.CDLL, path: Path) -> None:
    """Check that the kernels were compiled for the structures above: others are read as garbage."""
    sizes = (ctypes.c_int64 * 2)()
    if hasattr(library, "brc_sizes"):
        library.brc_sizes(sizes)
    if (*sizes,) != (LAYER.size, GRADIENTS.size):
        raise ImportError(
            f"{path}: expected the kernels of this version of brc_pytorch, got those of another: "
            "install the package again (`pip install --no-deps --editable .` in a checkout)"
        )


def _load() -> ctypes.CDLL | None:
    """Return the compiled kernels, or None where the installation has none.

    Raises:
        ImportError: they are those of another version.
    """
    # An editable installation keeps them apart from the sources: its package has two folders.
    package, _, _ = __package__.rpartition(".")
    folders = map(Path, sys.modules[package].__path__)
    for path in (path for folder in folders for path in folder.glob("*brc_cpu.*")):
        library = ctypes.CDLL(str(path))
        _check_version(library, path)
        pointer = ctypes.c_void_p
        library.brc_cells.restype = ctypes.c_char_p
        library.brc_instruction_sets.restype = ctypes.c_char_p
        library.brc_saved.argtypes = (ctypes.c_int32,)
        library.brc_forward.argtypes = (
            ctypes.c_char_p,
            ctypes.c_int32,
            pointer,
            States,
            pointer,
        )
        library.brc_backward.argtypes = (ctypes.c_char_p, ctypes.c_char_p)
        return library
    return None


kernels = _load()
_names = kernels.brc_instruction_sets().decode().split(",") if kernels else []
# The recurrences that the kernels compute, each with the number by which they know it.
CELLS = (
    {name: number for number, name in enumerate(kernels.brc_cells().decode().split(","))}
    if kernels
    else {}
)
# How many quantities of a unit each of them saves at a step for the backward pass.
SAVED = {name: kernels.brc_saved(number) for name, number in CELLS.items()} if kernels else {}


class _Chosen:
    """The number of the instruction set in use, in the order of their names."""

    instruction_set = 0


chosen = _Chosen()  # what the processor can do is a fact of the process


@contextmanager
def instruction_set(name: str) -> Iterator[None]:
    """Compute with one instruction set of this processor, in all threads, inside a ``with`` block.

    Args:
        name: one of :func:`instruction_sets`; without this function, the first of them.

    Raises:
        ValueError: this processor, or this build, has no such instruction set.
    """
    if name not in _names:
        raise ValueError(f"name: expected one of {_names}, got {name!r}")
    before, chosen.instruction_set = chosen.instruction_set, _names.index(name)
    try:
        yield
    finally:
        chosen.instruction_set = before


def instruction_sets() -> list[str]:
    """Return the instruction sets that this build and this processor share, the best first."""
    return list(_names)
