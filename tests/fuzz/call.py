"""One generated call as data: everything it does follows from these fields."""

import json
from dataclasses import asdict, dataclass, fields


@dataclass(frozen=True)
class Call:
    """A call of an operator, a network or a cell.

    ``layouts`` and ``wanted`` are dealt out to the tensors in their order, again and again,
    ``cotangents`` to the results; "none" is for a result that no loss looks at.
    """

    subject: str = "operator"
    cell: str = "nBRC"
    way: str = "gradients"
    flaw: str = ""
    steps: int = 3
    batch: int = 2
    inputs: int = 3
    hidden: int = 4
    layers: int = 1
    bidirectional: bool = False
    bias: int = 2
    state: bool = True
    form: str = "batch"
    lengths: str = ""
    reverse: bool = False
    resets: str = ""
    reset_state: bool = False
    dtype: str = "float32"
    values: str = "normal"
    layouts: tuple[str, ...] = ("dense",)
    wanted: tuple[bool, ...] = (True,)
    cotangents: tuple[str, ...] = ("dense",)
    backend: str = ""
    instructions: int = 0
    threads: int = 1
    seed: int = 0

    def __str__(self) -> str:
        """The fields that are not at their default, as JSON."""
        shown = asdict(self)
        return json.dumps(
            {f.name: shown[f.name] for f in fields(self) if shown[f.name] != f.default}
        )

    @classmethod
    def read(cls, text: str) -> "Call":
        """The call that is shown as ``text``."""
        given = json.loads(text)
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})
