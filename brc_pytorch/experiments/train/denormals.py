"""Denormal numbers, taken for zero in all threads that torch computes with.

The gradient of a loss on the last step fades into them. Many processors, Intel's above all, need a
hundred times as long for a product with one, and training tens of times as long.

Each thread has a setting of its own, which it takes from the one that starts it. The threads of
OpenMP, in which torch computes, are started once and belong to the thread that computes first, so
that they may be older than the setting: it is made in each of them.
"""

import contextlib
import ctypes
from collections.abc import Callable, Iterator

import torch

_DENORMAL = 1e-310
"""One in double precision."""


@contextlib.contextmanager
def flushed() -> Iterator[bool]:
    """Flush denormals in this thread and those it computes with, for a `with` block.

    Afterwards they have the setting that this thread had.

    Yields:
        Whether they are flushed; some processors cannot.
    """
    before = are_flushed()
    if before:
        yield True
        return
    _in_all_threads(lambda: torch.set_flush_denormal(True))
    try:
        yield are_flushed()
    finally:
        _in_all_threads(lambda: torch.set_flush_denormal(False))


def are_flushed() -> bool:
    """Tell whether this thread flushes denormals."""
    one = torch.full((), 1.0, dtype=torch.float64)
    return bool(one.mul(_DENORMAL).eq(0))


def _in_all_threads(call: Callable[[], object]) -> None:
    """Make a call in this thread and in each of OpenMP's threads that compute for it."""
    call()
    try:
        # GNU's, or LLVM's under the same name; torch has loaded it.
        parallel = ctypes.CDLL(None).GOMP_parallel
    except (AttributeError, OSError, TypeError):
        return  # the others take the setting of the caller at each call, or know no such numbers
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: call() and None)
    parallel.argtypes = [type(function), ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    parallel.restype = None
    parallel(function, None, torch.get_num_threads(), 0)
