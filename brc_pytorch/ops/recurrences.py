"""Each recurrence as data: its states, its parameters, its equations.

Operators, checks and backends read what they need here. A recurrence is known by its name.

Symbols: T time, B batch, I input size, H hidden size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, NamedTuple

from torch import Tensor

from brc_pytorch.ops import reference


class Parameter(NamedTuple):
    """Parameters of several gates, each (rows, H) or (H), side by side along the last dimension.

    Attributes:
        name: what errors call it.
        rows: ``"I"`` or ``"H"``, which is how many rows there are; None for vectors.
        gates: how many gates may lie side by side; 0 among them if it can be left out.
    """

    name: str
    rows: str | None
    gates: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Recurrence:
    """One recurrence.

    Attributes:
        name: what operators and backends call it.
        states: the names of its states before the first step, each (B, H), the output's first.
        parameters: what one layer has, in the operators' order; only the last may be left out.
        project: what the input contributes to all gates, from x_t (*, I) and the parameters.
        update: the next state, from that, the state and the parameters.
        apart: where several layers run at once, how many gates a tensor of parameters holds.
        layouts: for the number of such tensors of a layer, what they are: how many each of
            ``parameters`` has, and the ``rows`` of every tensor.
    """

    name: str
    states: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    project: Callable[..., Tensor]
    update: Callable[..., Any]
    apart: int = 1
    layouts: dict[int, tuple[tuple[int, ...], tuple[str | None, ...]]] = field(init=False)

    def __post_init__(self) -> None:
        layouts = {}
        for gates in product(*(parameter.gates for parameter in self.parameters)):
            tensors = tuple(count // self.apart for count in gates)
            rows = [
                parameter.rows
                for parameter, count in zip(self.parameters, tensors, strict=True)
                for _ in range(count)
            ]
            layouts[len(rows)] = tensors, tuple(rows)
        object.__setattr__(self, "layouts", layouts)

    def scan(
        self,
        input: Tensor,
        states: tuple[Tensor, ...],
        parameters: Sequence[Tensor],
        lengths: Tensor | None,
        reverse: bool,
        resets: Tensor | None = None,
        reset_states: tuple[Tensor, ...] | None = None,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Run the equations over time, in plain PyTorch: the output (T, B, H), the last states."""
        input, valid = reference.mask_padding(input, lengths)

        def step(projected: Tensor, state: Any) -> Any:  # noqa: ANN401 - one tensor or a tuple
            return self.update(projected, state, *parameters)

        projected = self.project(input, *parameters)
        state: Any = states[0] if len(states) == 1 else states
        reset: Any = reset_states
        if reset_states is not None and len(reset_states) == 1:
            reset = reset_states[0]
        output, last = reference.loop(step, projected, state, valid, reverse, resets, reset)
        return output, (last,) if isinstance(last, Tensor) else last


RECURRENCES = {
    recurrence.name: recurrence
    for recurrence in (
        Recurrence(
            "brc",
            states=("h_0",),
            parameters=(
                Parameter("kernel", "I", (3,)),
                Parameter("memory", None, (2,)),
                Parameter("bias", None, (2, 3, 0)),
            ),
            project=reference.project,
            update=reference.brc_update,
        ),
        Recurrence(
            "nbrc",
            states=("h_0",),
            parameters=(
                Parameter("kernel", "I", (3,)),
                Parameter("memory", "H", (2,)),
                Parameter("bias", None, (2, 3, 0)),
            ),
            project=reference.project,
            update=reference.nbrc_update,
        ),
        Recurrence(
            "gru",
            states=("h_0",),
            parameters=(
                Parameter("kernel", "I", (3,)),
                Parameter("memory", "H", (3,)),
                Parameter("bias", None, (6, 0)),
            ),
            project=reference.torch_project,
            update=reference.gru_update,
            apart=3,
        ),
        Recurrence(
            "lstm",
            states=("h_0", "c_0"),
            parameters=(
                Parameter("kernel", "I", (4,)),
                Parameter("memory", "H", (4,)),
                Parameter("bias", None, (8, 0)),
            ),
            project=reference.torch_project,
            update=reference.lstm_update,
            apart=4,
        ),
    )
}
