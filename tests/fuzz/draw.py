"""Draws calls: what is tried, and how often."""

import random
from collections.abc import Mapping
from typing import Any

from tests.fuzz.call import Call

# What may be wrong with a call, and a pattern that its error must then show.
OPERATOR_FLAWS = {
    "input of rank 2": "input",
    "input without steps": "input",
    "input of integers": "input",
    "complex input": "input",
    "sparse input": "input|[Ss]parse",
    "h_0 of another batch": "h_0",
    "h_0 of rank 1": "h_0",
    "h_0 of another dtype": "h_0",
    "h_0 elsewhere": "h_0",
    "sparse h_0": "h_0|[Ss]parse",
    "kernel of two gates": "kernel",
    "kernel of other features": "kernel",
    "kernel of another dtype": "kernel",
    "memory of the other cell": "memory",
    "memory of one gate": "memory",
    "bias too long": "bias",
    "float lengths": "lengths",
    "complex lengths": "lengths",
    "bool lengths": "lengths",
    "too few lengths": "lengths",
    "lengths of rank 2": "lengths",
    "resets of numbers": "resets",
    "too few resets": "resets",
    "resets with features": "resets",
    "resets elsewhere": "resets",
    "a reset state without resets": "reset_state",
    "a reset state of other units": "reset_state",
    "a reset state of another dtype": "reset_state",
}
NETWORK_FLAWS = {
    "input of rank 1": "[Ii]nput",
    "input of rank 4": "[Ii]nput",
    "input without steps": "input|sequence",
    "input of other features": "input",
    "input of another dtype": "input",
    "state of another batch": "state|hidden size|hx",
    "state of other units": "state|hidden size|hx",
    "state of another dtype": "state|hx",
    "state of rank 2": "state|hidden size|hx",
    "resets of numbers": "resets",
    "too few resets": "resets",
    "resets with features": "resets",
    "resets elsewhere": "resets",
    "packed resets": "resets",
}
# How a call is made; each has its weight among the ways that a subject can go.
WAYS = {
    "gradients": 30,
    "backward": 8,
    "no gradients": 8,
    "inference": 4,
    "twice": 4,
    "batched gradients": 4,
    "vmap": 3,
    "functional gradients": 3,
    "forward mode": 3,
    "second derivatives": 3,
    "interrupted": 4,
    "saved in another place": 4,
    "saved read-only": 4,
    "checkpoint": 2,
    "dispatch mode": 3,
    "subclass": 2,
    "fake": 1,
    "two threads": 2,
    "autocast": 5,
    "make_fx": 0.5,
    "symbolic make_fx": 0.25,
    "jit.trace": 0.5,
    "export": 0.1,
}
PROGRAMS = ("make_fx", "symbolic make_fx", "jit.trace", "export")
# What cannot follow torch's own packing, or overlapping memory.
FUNCTIONAL = ("vmap", "functional gradients", "forward mode", "fake", *PROGRAMS)
# Torch's own kernels and steps have limits of their own.
ANY_CELL = (
    "gradients",
    "backward",
    "no gradients",
    "twice",
    "interrupted",
    "checkpoint",
    "dispatch mode",
)
SUBJECTS = {"operator": 45, "network": 25, "MultiLayerBase": 18, "scan": 7, "step": 5}
LAYOUTS = {"dense": 6, "strided": 2, "transposed": 2, "negated": 2, "expanded": 1, "shifted": 1}
VALUES = {"normal": 12, "zero": 1, "huge": 1, "denormal": 1, "saturated": 1, "nan": 1, "inf": 1}
RESETS = {"": 6, "some": 4, "strided": 1, "all": 1, "none": 1}
OURS = ("BRC", "nBRC")
CELLS = ("GRU", "LSTM", "RNN", "BRC", "nBRC", "peephole", "leaky", "mixed")


def draw(seed: int, number: int) -> Call:
    """The call of this number in the sequence of this seed, the same on every machine."""
    rng = random.Random(f"{seed} {number}")  # noqa: S311 - no secret
    subject = _one(rng, SUBJECTS)
    cells = {"MultiLayerBase": CELLS, "step": ("BRC", "nBRC", "peephole")}
    chosen: dict[str, Any] = {
        "subject": subject,
        "cell": rng.choice(cells.get(subject, ("BRC", "nBRC"))),
        "flaw": "",
    }
    if subject != "step" and chosen["cell"] != "leaky" and rng.random() < 0.08:
        chosen["flaw"] = rng.choice(_flaws(subject))
    chosen["way"] = _one(rng, _ways(**chosen))
    chosen |= _draw_sizes(rng, **chosen)
    chosen |= _draw_values(rng, large=chosen["steps"] > 9, **chosen)
    return Call(
        **chosen,
        backend=rng.choice(
            ("", "", "", "", "cpu", "" if chosen["way"] in PROGRAMS else "reference")
        ),
        instructions=rng.choice((0, 0, 1, 2)),
        threads=rng.choice((1, 1, 1, 1, 2, 3)),
        seed=rng.randrange(2**31),
    )


def _one(rng: random.Random, weights: Mapping[str, float]) -> str:
    return rng.choices([*weights], [*weights.values()])[0]


def _flaws(subject: str) -> list[str]:
    if subject not in ("operator", "scan"):
        return [*NETWORK_FLAWS]
    of_parameters = ("kernel", "memory", "bias")  # a module makes these itself
    return [
        flaw
        for flaw in OPERATOR_FLAWS
        if subject == "operator" or not flaw.startswith(of_parameters)
    ]


def _ways(subject: str, cell: str, flaw: str) -> dict[str, float]:
    if flaw:
        return {way: WAYS[way] for way in ("gradients", "no gradients")}
    if cell not in OURS:
        return {way: WAYS[way] for way in ANY_CELL}
    left_out: tuple[str, ...] = ()
    if subject != "operator":  # the threads would share the module that gets its tensors
        left_out = ("two threads",)
    if subject == "step":  # its operations are torch's own, which check in their own way
        left_out += PROGRAMS
    return {way: weight for way, weight in WAYS.items() if way not in left_out}


def _draw_sizes(rng: random.Random, subject: str, cell: str, flaw: str, way: str) -> dict[str, Any]:
    """Sizes, form, lengths and which arguments there are."""
    goes_over_time = subject in ("operator", "scan")
    is_network = subject in ("network", "MultiLayerBase")
    form = "batch"
    if is_network and not flaw and way not in FUNCTIONAL:
        form = rng.choice(("batch", "batch", "batch_first", "packed", "single"))
    lengths = ""
    if form == "packed" or "lengths" in flaw:
        lengths = "within"
    elif goes_over_time:
        lengths = rng.choice(("", "", "within", "outside", "int32", "uint8", "strided"))
    takes_resets = subject != "step" and not flaw
    resets = _one(rng, RESETS) if takes_resets else "some" if "reset" in flaw else ""
    large = rng.random() < 0.01
    some = (1, 2, 2, 3, 3, 5, 9, *((20, 50) if large else ()))
    batch = 1 if form == "single" else rng.choice(some if flaw or form == "packed" else (0, *some))
    none = (0,) if subject == "operator" and not flaw else ()
    needs_state = subject == "operator" or "state" in flaw or "h_0" in flaw
    return {
        "steps": rng.choice((40, 100) if large else (1, 1, 2, 2, 3, 4, 5, 9)),
        "batch": batch,
        "inputs": rng.choice((1, 1, 2, 3, 7, 16, 17, 33, *none)),
        "hidden": rng.choice((1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, *none)),
        "layers": rng.choice((1, 1, 2, 3)) if is_network else 1,
        "bidirectional": is_network and rng.random() < 0.35,
        "bias": rng.choice((0, 2, 3)) if cell in OURS and not flaw else 2,
        "state": needs_state or rng.random() < 0.7,
        "form": form,
        "lengths": lengths,
        "reverse": goes_over_time and rng.random() < 0.4,
        "resets": resets,
        "reset_state": goes_over_time and not flaw and resets != "" and rng.random() < 0.5,
    }


def _draw_values(
    rng: random.Random, *, cell: str, way: str, large: bool, **_: object
) -> dict[str, Any]:
    """Dtype, values and layouts."""
    is_plain = cell not in OURS or way in ("forward mode", "second derivatives", *PROGRAMS)
    dtypes = {"float32": 8, "float64": 3, "bfloat16": 1, "float16": 1}
    if way == "autocast":
        dtypes = {"float32": 4, "bfloat16": 1}
    elif is_plain:
        dtypes = {"float32": 2, "float64": 1}
    is_dense = way in ("subclass", *FUNCTIONAL)
    layouts = {"dense": 1} if is_dense else LAYOUTS
    cotangents = {"dense": 1} if is_dense else {**LAYOUTS, "none": 2}
    return {
        "dtype": _one(rng, dtypes),
        "values": "normal" if is_plain or large or way == "autocast" else _one(rng, VALUES),
        "layouts": tuple(_one(rng, layouts) for _ in range(rng.choice((1, 3, 5)))),
        "wanted": tuple(rng.random() < 0.7 for _ in range(7)) if rng.random() < 0.5 else (True,),
        "cotangents": tuple(_one(rng, cotangents) for _ in range(3)),
    }
