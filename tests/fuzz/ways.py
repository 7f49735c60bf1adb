"""The ways to call a function of tensors, and what each must give.

A way takes the function, its arguments, a cotangent for each result (None for a result that no loss
looks at) and which arguments want a gradient. It returns tensors; those that the plain way returns
for the loop of single steps are the right ones.
"""

import ctypes
import mmap
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from tests.fuzz.subjects import Function

Tensors = Sequence[Tensor]
Cotangents = Sequence[Tensor | None]
Way = Callable[[Function, Tensors, Cotangents, Sequence[bool]], list[Tensor]]


def _leaves(tensors: Tensors, wanted: Sequence[bool]) -> tuple[list[Tensor], list[Tensor]]:
    """Leaves of a graph, and those of them that want a gradient."""
    leaves = [t.detach().requires_grad_(want) for t, want in zip(tensors, wanted, strict=True)]
    return leaves, [leaf for leaf in leaves if leaf.requires_grad]


def _seen(results: Tensors, cotangents: Cotangents) -> tuple[list[Tensor], list[Tensor]]:
    """The results that a loss looks at, and their cotangents."""
    pairs = [
        (result, cotangent)
        for result, cotangent in zip(results, cotangents, strict=True)
        if cotangent is not None and result.requires_grad
    ]
    return [result for result, _ in pairs], [cotangent for _, cotangent in pairs]


def _or_zeros(gradients: Sequence[Tensor | None], leaves: Tensors) -> list[Tensor]:
    return [
        torch.zeros_like(leaf) if gradient is None else gradient
        for gradient, leaf in zip(gradients, leaves, strict=True)
    ]


def _pull_back(
    results: Tensors, leaves: Tensors, cotangents: Cotangents, **options: bool
) -> list[Tensor]:
    seen, given = _seen(results, cotangents)
    if not seen or not leaves:
        return [torch.zeros_like(leaf) for leaf in leaves]
    found = torch.autograd.grad(seen, leaves, given, allow_unused=True, **options)
    return _or_zeros(found, leaves)


def gradients(
    function: Function, tensors: Tensors, cotangents: Cotangents, wanted: Sequence[bool]
) -> list[Tensor]:
    """The results, and the gradients by ``torch.autograd.grad``: the plain way."""
    leaves, wanting = _leaves(tensors, wanted)
    results = function(*leaves)
    return [*(r.detach() for r in results), *_pull_back(results, wanting, cotangents)]


def backward(
    function: Function, tensors: Tensors, cotangents: Cotangents, wanted: Sequence[bool]
) -> list[Tensor]:
    """The results, and the gradients that a backward pass leaves in the leaves."""
    leaves, wanting = _leaves(tensors, wanted)
    results = function(*leaves)
    seen, given = _seen(results, cotangents)
    if seen:
        torch.autograd.backward(seen, given)
    return [*(r.detach() for r in results), *_or_zeros([w.grad for w in wanting], wanting)]


def forward(
    function: Function, tensors: Tensors, _cotangents: Cotangents, _wanted: Sequence[bool]
) -> list[Tensor]:
    """The results alone."""
    with torch.no_grad():
        return [*function(*tensors)]


def _inference(
    function: Function, tensors: Tensors, _cotangents: Cotangents, _wanted: Sequence[bool]
) -> list[Tensor]:
    with torch.inference_mode():
        return [*function(*tensors)]


def _twice(
    function: Function, tensors: Tensors, cotangents: Cotangents, wanted: Sequence[bool]
) -> list[Tensor]:
    leaves, wanting = _leaves(tensors, wanted)
    results = function(*leaves)
    first = _pull_back(results, wanting, cotangents, retain_graph=True)
    kept = [gradient.clone() for gradient in first]
    second = _pull_back(results, wanting, cotangents)
    for before, now, again in zip(kept, first, second, strict=True):
        torch.testing.assert_close(now, before, rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(again, before, rtol=0, atol=0, equal_nan=True)
    return [*(r.detach() for r in results), *second]


def _several(cotangents: Cotangents) -> list[Tensor | None]:
    return [None if c is None else torch.stack((c, -c.flip(0), 0.5 * c)) for c in cotangents]


def _batched(
    function: Function, tensors: Tensors, cotangents: Cotangents, wanted: Sequence[bool]
) -> list[Tensor]:
    leaves, wanting = _leaves(tensors, wanted)
    results = function(*leaves)
    if not _seen(results, cotangents)[0]:
        return [torch.zeros(3, *leaf.shape, dtype=leaf.dtype) for leaf in wanting]
    return _pull_back(results, wanting, _several(cotangents), is_grads_batched=True)


def _one_by_one(
    function: Function, tensors: Tensors, cotangents: Cotangents, wanted: Sequence[bool]
) -> list[Tensor]:
    leaves, wanting = _leaves(tensors, wanted)
    results = function(*leaves)
    several = [(None,) * 3 if c is None else c.unbind() for c in _several(cotangents)]
    found = [
        _pull_back(results, wanting, one, retain_graph=True) for one in zip(*several, strict=True)
    ]
    return [torch.stack(of_leaf) for of_leaf in zip(*found, strict=True)]


def _pairs(tensors: Tensors) -> list[Tensor]:
    return [torch.stack((tensor, 0.5 * tensor.flip(-1))) for tensor in tensors]


def _vmap(
    function: Function, tensors: Tensors, _cotangents: Cotangents, wanted: Sequence[bool]
) -> list[Tensor]:
    pairs = [p if want else p[0] for p, want in zip(_pairs(tensors), wanted, strict=True)]
    in_dims = tuple(0 if want else None for want in wanted)
    return [*torch.func.vmap(function, in_dims)(*pairs)]


def _each(
    function: Function, tensors: Tensors, _cotangents: Cotangents, wanted: Sequence[bool]
) -> list[Tensor]:
    results = [
        function(*(p[at if want else 0] for p, want in zip(_pairs(tensors), wanted, strict=True)))
        for at in range(2)
    ]
    return [torch.stack(result) for result in zip(*results, strict=True)]


def _functional(
    function: Function, tensors: Tensors, cotangents: Cotangents, wanted: Sequence[bool]
) -> list[Tensor]:
    def loss(*given: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        results = function(*given)
        pairs = zip(results, cotangents, strict=True)
        return sum((r * c).sum() for r, c in pairs if c is not None), results

    places = tuple(at for at, want in enumerate(wanted) if want)
    found, results = torch.func.grad(loss, places, has_aux=True)(*tensors)
    return [*results, *found]


def _forward_mode(
    function: Function, tensors: Tensors, _cotangents: Cotangents, _wanted: Sequence[bool]
) -> list[Tensor]:
    tangents = tuple(0.5 * tensor.flip(-1) + 0.1 for tensor in tensors)
    results, derivatives = torch.func.jvp(function, tuple(tensors), tangents)
    return [*results, *derivatives]


def _second(
    function: Function, tensors: Tensors, cotangents: Cotangents, wanted: Sequence[bool]
) -> list[Tensor]:
    leaves, wanting = _leaves(tensors, wanted)
    first = _pull_back(function(*leaves), wanting, cotangents, create_graph=True)
    weights = [torch.linspace(-1, 1, g.numel(), dtype=g.dtype).view(g.shape) for g in first]
    return [*(g.detach() for g in first), *_pull_back(first, wanting, weights)]


class InterruptionError(Exception):
    """Stands for a signal, or an error of the user's own hook."""


def _interrupted(
    function: Function, tensors: Tensors, cotangents: Cotangents, wanted: Sequence[bool]
) -> list[Tensor]:
    leaves, wanting = _leaves(tensors, wanted)
    results = function(*leaves)
    interruptions = 0

    def interrupt(_gradient: Tensor) -> None:
        nonlocal interruptions
        interruptions += 1
        if interruptions == 1:
            raise InterruptionError

    for leaf in wanting:
        leaf.register_hook(interrupt)
    with suppress(InterruptionError):
        _pull_back(results, wanting, cotangents)
    try:
        found = _pull_back(results, wanting, cotangents)
    except RuntimeError as error:
        if "second time" not in str(error):
            raise
        return gradients(function, tensors, cotangents, wanted)
    return [*(r.detach() for r in results), *found]


def _saved(pack: Callable[[Tensor], Tensor]) -> Way:
    def way(
        function: Function, tensors: Tensors, cotangents: Cotangents, wanted: Sequence[bool]
    ) -> list[Tensor]:
        kept: list[tuple[Tensor, Tensor]] = []

        def keep(tensor: Tensor) -> Tensor:
            packed = pack(tensor)
            kept.append((packed, packed.clone()))
            return packed

        with saved_tensors_hooks(keep, lambda packed: packed):
            found = gradients(function, tensors, cotangents, wanted)
        for packed, before in kept:
            assert _same(packed, before), "a tensor that autograd saved was written to"
        return found

    return way


def _read_only(tensor: Tensor) -> Tensor:
    """The same values in memory that no one may write to."""
    tensor = tensor.detach().resolve_neg().contiguous()
    if tensor.numel() == 0:
        return tensor
    with tempfile.TemporaryFile() as file:
        file.write(ctypes.string_at(tensor.data_ptr(), tensor.numel() * tensor.element_size()))
        file.flush()
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return torch.frombuffer(mapped, dtype=tensor.dtype).view(tensor.shape)


def _same(one: Tensor, other: Tensor) -> bool:
    return bool(((one == other) | (one.isnan() & other.isnan())).all())


def _checkpoint(
    function: Function, tensors: Tensors, cotangents: Cotangents, wanted: Sequence[bool]
) -> list[Tensor]:
    def checkpointed(*leaves: Tensor) -> tuple[Tensor, ...]:
        return checkpoint(function, *leaves, use_reentrant=len(tensors) % 2 == 0)

    return backward(checkpointed, tensors, cotangents, wanted)


class _HandOn(TorchDispatchMode):
    """Sees every operation and does it."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


def _dispatched(
    function: Function, tensors: Tensors, cotangents: Cotangents, wanted: Sequence[bool]
) -> list[Tensor]:
    with _HandOn():
        return gradients(function, tensors, cotangents, wanted)


class _Own(Tensor):
    """A tensor type of the user's own."""


def _subclass(
    function: Function, tensors: Tensors, cotangents: Cotangents, wanted: Sequence[bool]
) -> list[Tensor]:
    own = [tensor.as_subclass(_Own) for tensor in tensors]
    return [t.as_subclass(Tensor) for t in gradients(function, own, cotangents, wanted)]


def _fake(
    function: Function, tensors: Tensors, cotangents: Cotangents, wanted: Sequence[bool]
) -> list[Tensor]:
    found = gradients(function, tensors, cotangents, wanted)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fakes = [mode.from_tensor(tensor) for tensor in tensors]
        of_results = [None if c is None else mode.from_tensor(c) for c in cotangents]
        expected = gradients(function, fakes, of_results, wanted)
    for got, fake in zip(found, expected, strict=True):
        assert got.shape == fake.shape, f"fake tensors promise {fake.shape}, got {got.shape}"
        assert got.dtype == fake.dtype, f"fake tensors promise {fake.dtype}, got {got.dtype}"
    return found


def _threads(
    function: Function, tensors: Tensors, cotangents: Cotangents, wanted: Sequence[bool]
) -> list[Tensor]:
    found: list[list[Tensor]] = []

    def call() -> None:
        found.append(gradients(function, tensors, cotangents, wanted))

    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first, second = found
    assert all(map(_same, first, second)), "two threads that compute the same differ"
    return first


def _autocast(
    function: Function, tensors: Tensors, cotangents: Cotangents, wanted: Sequence[bool]
) -> list[Tensor]:
    with torch.autocast("cpu", torch.bfloat16):
        return gradients(function, tensors, cotangents, wanted)


# The way, and the plain way that gives the same.
PAIRS: dict[str, tuple[Way, Way]] = {
    "gradients": (gradients, gradients),
    "backward": (backward, gradients),
    "no gradients": (forward, forward),
    "inference": (_inference, forward),
    "twice": (_twice, gradients),
    "batched gradients": (_batched, _one_by_one),
    "vmap": (_vmap, _each),
    "functional gradients": (_functional, gradients),
    "forward mode": (_forward_mode, _forward_mode),
    "second derivatives": (_second, _second),
    "interrupted": (_interrupted, gradients),
    "saved in another place": (_saved(torch.clone), gradients),
    "saved read-only": (_saved(_read_only), gradients),
    "checkpoint": (_checkpoint, gradients),
    "dispatch mode": (_dispatched, gradients),
    "subclass": (_subclass, gradients),
    "fake": (_fake, gradients),
    "two threads": (_threads, gradients),
    "autocast": (_autocast, gradients),
}
