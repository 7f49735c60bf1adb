"""Makes one call and judges it: right, refused with a clear error, or a failure."""

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from operator import attrgetter

import torch
from torch import Tensor

from brc_pytorch import ops
from tests.fuzz import flaws, programs
from tests.fuzz.call import Call
from tests.fuzz.draw import NETWORK_FLAWS, OPERATOR_FLAWS
from tests.fuzz.subjects import Subject, subject
from tests.fuzz.tensors import HUGE, as_laid_out, dealt, draw_values, generator, place
from tests.fuzz.ways import PAIRS, gradients

_size = attrgetter("itemsize")
EPSILON = {
    torch.float16: 2.0**-10,
    torch.bfloat16: 2.0**-7,
    torch.float32: 2.0**-23,
    torch.float64: 2.0**-52,
}
# What a clear error is.
CLEAR = (ValueError, TypeError, RuntimeError)


class FailedError(Exception):
    """The call did something wrong; the message says what."""


def check(call: Call) -> str:
    """Make a call.

    Returns:
        ``"right"``, or ``"refused"`` for a call with a flaw.

    Raises:
        FailedError: it is neither.
    """
    under_test = subject(call)
    values = draw_values(call, under_test.shapes)
    if call.flaw:
        _check_refusal(call, under_test, values)
        return "refused"
    _check_values(call, under_test, values)
    return "right"


@contextmanager
def _settings(call: Call) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(call.threads)
    known = ops.cpu.instruction_sets()
    with ExitStack() as stack:
        if known:
            stack.enter_context(ops.cpu.instruction_set(known[call.instructions % len(known)]))
        if call.backend and (call.backend != "cpu" or known):
            stack.enter_context(ops.backend(call.backend))
        try:
            yield
        finally:
            torch.set_num_threads(before)


def _check_refusal(call: Call, under_test: Subject, values: dict[str, Tensor]) -> None:
    known = OPERATOR_FLAWS if call.subject in ("operator", "scan") else NETWORK_FLAWS
    placed = dict(zip(values, _placed(call, values), strict=True))
    arguments, options = flaws.spoil(call, placed)
    try:
        with _settings(call), torch.set_grad_enabled(call.way == "gradients"):
            under_test.run(*arguments.values(), **options)
    except CLEAR as error:
        if not re.search(known[call.flaw], str(error)):
            raise FailedError(f"an unclear {type(error).__name__}: {error}") from error
        return
    raise FailedError("was not refused")


def _placed(call: Call, values: dict[str, Tensor]) -> list[Tensor]:
    dtype = getattr(torch, call.dtype)
    placed = []
    for at, (name, drawn) in enumerate(values.items()):
        mixed = call.way == "autocast" and name != "input"
        how = dealt(call.layouts, at)
        placed.append(place(drawn, torch.float32 if mixed else dtype, how))
    return placed


def _cotangents(call: Call, results: Sequence[Tensor]) -> list[Tensor | None]:
    """Values in float64 that the dtype has, None where no loss looks."""
    dtype = getattr(torch, call.dtype)
    source = generator(call, 2)
    scale = torch.finfo(dtype).tiny / 4 if call.values == "denormal" and call.seed % 2 else 1.0
    found: list[Tensor | None] = []
    for at, result in enumerate(results):
        how = dealt(call.cotangents, at)
        drawn = scale * torch.randn(result.shape, generator=source, dtype=torch.float64)
        found.append(None if how == "none" else as_laid_out(drawn.to(dtype).double(), how))
    return found


def _check_values(call: Call, under_test: Subject, values: dict[str, Tensor]) -> None:
    dtype = getattr(torch, call.dtype)
    exact_arguments = [*values.values()]
    wanted = [dealt(call.wanted, at) for at in range(len(values))]
    if call.way in ("functional gradients", "vmap") and not any(wanted):
        wanted[0] = True
    with torch.no_grad():
        cotangents = _cotangents(call, under_test.steps(*exact_arguments))
    way, plain = PAIRS.get(call.way, (programs.way(call), gradients))
    exact = plain(under_test.steps, exact_arguments, cotangents, wanted)
    # Nothing is more exact than float64: its error is that of float32, scaled.
    rough_dtype = {"autocast": torch.bfloat16}.get(call.way, min(dtype, torch.float32, key=_size))
    rough = plain(
        under_test.steps,
        [value.to(rough_dtype) for value in exact_arguments],
        [None if c is None else c.to(rough_dtype) for c in cotangents],
        wanted,
    )
    arguments = _placed(call, values)
    before = [(argument.clone(), argument._version) for argument in arguments]
    placed = [
        None if c is None else place(c, dtype, dealt(call.cotangents, at))
        for at, c in enumerate(cotangents)
    ]
    with _settings(call):
        got = way(under_test.run, arguments, placed, wanted)
    for name, argument, (copy, version) in zip(values, arguments, before, strict=True):
        torch.testing.assert_close(
            argument, copy, rtol=0, atol=0, equal_nan=True, msg=f"{name} was written to"
        )
        if argument._version != version:
            raise FailedError(f"{name} was written to: its version changed")
    compare(call, got, exact, rough)
    if call.way in ("gradients", "backward") and call.subject == "operator":
        _check_storage(got)


def compare(
    call: Call, got: Sequence[Tensor], exact: Sequence[Tensor], rough: Sequence[Tensor]
) -> None:
    """Compare with the float64 results, as precisely as single steps in the same dtype compute.

    The same dtype is float32 for float64, and their error is scaled.

    Where a result is finite, or is not, in both of these, it must be so here.

    Raises:
        FailedError: a result differs.
    """
    if len(got) != len(exact):
        raise FailedError(f"expected {len(exact)} tensors, got {len(got)}")
    epsilon = EPSILON[torch.bfloat16 if call.way == "autocast" else getattr(torch, call.dtype)]
    finite_parts = [want[want.isfinite()].abs() for want in exact]
    largest = max((float(part.max()) for part in finite_parts if part.numel()), default=0.0)
    for at, (want, naive_low, value_low) in enumerate(zip(exact, rough, got, strict=True)):
        if value_low.shape != want.shape:
            raise FailedError(
                f"tensor {at}: expected {tuple(want.shape)}, got {tuple(value_low.shape)}"
            )
        value, naive = value_low.double(), naive_low.double()
        finite = want.isfinite() & naive.isfinite()
        infinite = ~want.isfinite() & ~naive.isfinite()
        if not value[finite].isfinite().all():
            raise FailedError(f"tensor {at}: not finite where the reference is")
        if value[infinite].isfinite().any():
            raise FailedError(f"tensor {at}: finite where the reference is not")
        if not finite.any():
            continue
        error = float((naive - want)[finite].abs().max())
        own = float(want[finite].abs().max())
        allowed = _allowed(call, epsilon, error, own, largest)
        distance = float((value - want)[finite].abs().max())
        if not distance <= allowed:
            raise FailedError(
                f"tensor {at}: off by {distance:.3g}, allowed {allowed:.3g}, largest {own:.3g}"
            )


def _allowed(call: Call, epsilon: float, error: float, own: float, largest: float) -> float:
    """How far off a result may be.

    Args:
        call: the call.
        epsilon: that of its dtype.
        error: how far off the single steps are.
        own: the largest number of this tensor.
        largest: the largest number of all.
    """
    # What the kernels flush, weights make larger again.
    steps_from_zero = 1e4 if call.values == "denormal" else 100
    floor = steps_from_zero * torch.finfo(torch.float32 if epsilon > 1e-15 else torch.float64).tiny
    if epsilon > 1e-3:  # kernels compute in float32, and round what they write
        return 4 * error + 4 * epsilon * largest + floor
    if epsilon < EPSILON[torch.float32]:
        error *= epsilon / EPSILON[torch.float32]
    if call.values == "huge":  # one tensor's rounding says nothing of another's
        # The slope of a saturated gate, 1 - tanh^2, is exact to some epsilon and meets a state, or
        # its square; float32's gates may be all saturated where those of float64 are not yet.
        met = HUGE if epsilon >= EPSILON[torch.float32] else HUGE**2
        floor += 10 * epsilon * met
        return 20 * error + 100 * epsilon * own + floor
    if call.values == "saturated" or call.steps > 9:
        # What the dynamics make of a rounding is a matter of luck.
        return 100 * error + 1000 * epsilon * largest + floor
    # Where the terms of a sum cancel, their rounding stays.
    return 10 * error + 50 * epsilon * largest + floor


def _check_storage(got: Sequence[Tensor]) -> None:
    """A gradient must not hold memory that is not its own."""
    for at, tensor in enumerate(got):
        own = tensor.numel() * tensor.element_size()
        held = tensor.untyped_storage().nbytes()
        if (
            held > 2 * own + 64 * tensor.element_size()
            and tensor.numel()
            and 0 not in tensor.stride()
        ):
            raise FailedError(f"tensor {at}: {own} bytes hold {held}")
