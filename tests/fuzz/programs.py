"""Recorded programs: exported or traced once, then run with arguments of other kinds.

What Python checks above the operators is not recorded. Where the code itself refuses arguments, a
program of it must too; otherwise it refuses, or computes what the code computes.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from tests.fuzz.call import Call
from tests.fuzz.subjects import Function
from tests.fuzz.tensors import options, place
from tests.fuzz.ways import Way, gradients

# A program may refuse by an assertion of torch's own.
REFUSALS = (ValueError, TypeError, RuntimeError, AssertionError)


class _Module(nn.Module):
    """A function as a module, for torch.export."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        return self.function(*tensors)


def _export(function: Function, tensors: Sequence[Tensor]) -> Function:
    open_dims = tuple(dict.fromkeys(range(t.dim()), torch.export.Dim.AUTO) for t in tensors)
    module = _Module(function)
    program = torch.export.export(module, tuple(tensors), dynamic_shapes={"tensors": open_dims})
    return program.module()


_RECORDERS: dict[str, Callable[[Function, Sequence[Tensor]], Function]] = {
    "make_fx": lambda function, tensors: make_fx(function)(*tensors),
    "symbolic make_fx": lambda f, tensors: make_fx(f, tracing_mode="symbolic")(*tensors),
    "jit.trace": lambda f, tensors: torch.jit.trace(f, tuple(tensors)),
    "export": _export,
}


def way(call: Call) -> Way:
    """Record a program, and use it in the place of the function it was made of."""

    def run(
        function: Function,
        tensors: Sequence[Tensor],
        cotangents: Sequence[Tensor | None],
        wanted: Sequence[bool],
    ) -> list[Tensor]:
        named = options(call)
        after = [*named.values()]

        def forward(*given: Tensor) -> tuple[Tensor, ...]:
            found = function(
                *given[: len(tensors)], **dict(zip(named, given[len(tensors) :], strict=True))
            )
            return tuple(found)

        record = _RECORDERS[call.way]
        program = record(forward, [*tensors, *after])
        _run_otherwise(call, forward, program, [*tensors, *after])
        if "make_fx" not in call.way:
            return gradients(lambda *t: program(*t, *after), tensors, cotangents, wanted)
        known = [c for c in cotangents if c is not None]

        def both_ways(*given: Tensor) -> tuple[Tensor, ...]:
            ahead, back = given[len(tensors) : -len(known) or None], iter(given[-len(known) :])
            of_results = [None if c is None else next(back) for c in cotangents]
            function = lambda *t: forward(*t, *ahead)  # noqa: E731
            return tuple(gradients(function, given[: len(tensors)], of_results, wanted))

        arguments = [*tensors, *after, *known]
        return [*record(both_ways, arguments)(*arguments)]

    return run


def _run_otherwise(
    call: Call, function: Function, program: Function, arguments: Sequence[Tensor]
) -> None:
    for name, changed, autocast in _variations(call, arguments):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            try:
                got = program(*changed)
            except REFUSALS:
                continue
            try:
                expected = function(*changed)
            except REFUSALS as error:
                message = f"program with {name}: computes what the code refuses: {error}"
                raise AssertionError(message) from error
        low = autocast or got[0].dtype.itemsize == 2
        close = 0.1 if low else 1e-3 if call.dtype == "float32" else 1e-8
        for one, other in zip(got, expected, strict=True):
            torch.testing.assert_close(
                one,
                other,
                rtol=close,
                atol=close,
                equal_nan=True,
                msg=lambda text, name=name: f"program with {name}: {text}",
            )


def _variations(
    call: Call, arguments: Sequence[Tensor]
) -> Iterator[tuple[str, list[Tensor], bool]]:
    """Other arguments of the same program, each with its name, and whether under autocast."""
    input, *rest = arguments
    state, *others = rest if call.state else [None, *rest]
    rows = 1 if call.subject in ("network", "MultiLayerBase") else 0
    last = len(others) - len(options(call))
    others, named = others[:last], dict(zip(options(call), others[last:], strict=True))

    def given(input: Tensor, state: Tensor | None, **changed: Tensor) -> list[Tensor]:
        return [input, *([] if state is None else [state]), *others, *{**named, **changed}.values()]

    def doubled(tensor: Tensor | None, dim: int) -> Tensor | None:
        return None if tensor is None else torch.cat((tensor, tensor), dim)

    yield "the same", [*arguments], False
    yield "other values", given(0.5 * input, state), False
    two = doubled(input, 1), doubled(state, rows)
    of_two = {name: doubled(each, each.dim() - 1) for name, each in named.items()}
    yield "another batch", given(*two, **of_two), False
    yield "another batch of the input", given(two[0], state), False
    if state is not None:
        yield "another batch of the state", given(input, two[1]), False
        yield "one row of the state", given(input, state.mean(rows, keepdim=True)), False
        yield "a state in bfloat16", given(input, state.bfloat16()), False
        yield "a state of other units", given(input, doubled(state, -1)), False
    longer = {"resets": doubled(named["resets"], 0)} if "resets" in named else {}
    yield "more steps", given(doubled(input, 0), state, **longer), False
    yield "one step", given(input[:1], state, **{name: named[name][:1] for name in longer}), False
    yield "no steps", given(input[:0], state), False
    yield "other features", given(doubled(input, -1), state), False
    yield "an input in bfloat16", given(input.bfloat16(), state), False
    yield "an input in float64", given(input.double(), state), False
    yield "an input of integers", given(input.long(), state), False
    low = [t.bfloat16() if t.is_floating_point() else t for t in arguments]
    yield "bfloat16", low, False
    yield "autocast", [*arguments], True
    yield "autocast and an input in bfloat16", given(input.bfloat16(), state), True
    yield "a strided input", given(place(input, input.dtype, "strided"), state), False
    yield "a negated input", given(place(input, input.dtype, "negated"), state), False
    for name, each in named.items():
        yield f"float {name}", given(input, state, **{name: each.float()}), False
        yield f"short {name}", given(input, state, **{name: each[:-1]}), False
        yield f"complex {name}", given(input, state, **{name: each.to(torch.complex64)}), False
    if "resets" in named:
        yield "other resets", given(input, state, resets=~named["resets"]), False
