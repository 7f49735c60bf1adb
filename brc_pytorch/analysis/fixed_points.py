r"""Where a bistable unit can rest: its fixed points, and which of them are stable.

With its input fixed, a unit of the BRC is a map of its own state alone,

.. math::
    h' = c(h)\, h + (1 - c(h)) \tanh(u + a(h)\, h), \quad
    a(h) = 1 + \tanh(u_a + w_a h), \quad c(h) = \sigma(u_c + w_c h)

with u = U x, u_a = U_a x + b_a and u_c = U_c x + b_c. It rests where h = tanh(u + a(h) h), whatever
c is, and stays there when it is pushed a little if the map's slope there,
c + (1 - c) d/dh tanh(u + a(h) h), lies between -1 and 1.

With a gate a that does not depend on h there are two stable states exactly where a > 1 and
:math:`|u| < a s - \operatorname{artanh}(s)` with :math:`s = \sqrt{1 - 1/a}`: a > 1 is necessary,
and not sufficient. A unit of the nBRC sees its whole layer; it is such a unit while the gates are
held at their values of the moment ("frozen").
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from brc_pytorch.layers.bistable_cell import BistableCell
from brc_pytorch.layers.neuromodulated_brc_layer import NeuromodulatedBistableRecurrentCell

# Cells of the grid between -1 and 1 in which the turning points of h -> tanh(u + a(h) h) - h are
# looked for; the fixed points lie between these, however near to one another they are.
_CELLS = 128
_BISECTIONS = 60  # to the last bit of float64
# At a turning point an error e of its place is one of e^2 in the value.
_BISECTIONS_OF_TURNING_POINTS = 24
_UNITS_AT_A_TIME = 1 << 12  # their grids fit a cache


class FixedPoints(NamedTuple):
    """The fixed points of units, (*, H, K): K is the most that any of them has.

    Attributes:
        state: where they are, ascending; NaN where a unit has fewer than K.
        is_stable: whether a unit that is pushed away a little comes back.
    """

    state: Tensor
    is_stable: Tensor


class Unit(NamedTuple):
    """What fixes the map of each of N units: tensors (N).

    Attributes:
        u: the input's part of the candidate, U x.
        u_a: the input's part of the feedback gate, its bias included.
        u_c: the input's part of the update gate, its bias included.
        w_a: the weight of its own state in the feedback gate; 0 for a frozen gate.
        w_c: the weight of its own state in the update gate; 0 for a frozen gate.
    """

    u: Tensor
    u_a: Tensor
    u_c: Tensor
    w_a: Tensor
    w_c: Tensor

    def candidate(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """tanh(u + a(h) h) and its slope in h; h is (N) or, each unit with its own row, (N, K)."""
        u, u_a, w_a = (_beside(part, h) for part in (self.u, self.u_a, self.w_a))
        a_less_1 = torch.tanh(u_a + w_a * h)
        value = torch.tanh(u + (1 + a_less_1) * h)
        return value, (1 - value**2) * (1 + a_less_1 + h * w_a * (1 - a_less_1**2))

    def slope(self, h: Tensor) -> Tensor:
        """The slope of the unit's map at a fixed point h, (N, K)."""
        c = torch.sigmoid(_beside(self.u_c, h) + _beside(self.w_c, h) * h)
        return c + (1 - c) * self.candidate(h)[1]


def _beside(part: Tensor, h: Tensor) -> Tensor:
    return part if h.dim() == 1 else part.unsqueeze(-1)


def fixed_points(cell: BistableCell, input_t: Tensor, state: Tensor | None = None) -> FixedPoints:
    """Where each unit of a cell rests under an input that stays.

    Every unit of the BRC is solved exactly, the dependence of its gates on its state included.
    Those of the nBRC depend on one another: their gates are frozen at the values that they have
    in a state.

    Args:
        cell: a BRC or an nBRC cell.
        input_t: the input x, (*, I).
        state: the state h, (*, H), at which the gates of the nBRC are frozen; none for the BRC.

    Returns:
        The fixed points, (*, H, K), in float64.

    Raises:
        ValueError: a state is missing for the nBRC, or given for the BRC.

    Example:
        >>> import torch
        >>> from brc_pytorch import BistableRecurrentCell
        >>> from brc_pytorch.analysis import fixed_points
        >>> cell = BistableRecurrentCell(1, 1)
        >>> for parameter in cell.parameters():
        ...     _ = torch.nn.init.zeros_(parameter)
        >>> _ = torch.nn.init.constant_(cell.br, 0.5493)  # a = 1.5
        >>> points = fixed_points(cell, torch.zeros(1))
        >>> [round(state, 3) for state in points.state[0].tolist()], points.is_stable[0].tolist()
        ([-0.859, 0.0, 0.859], [True, False, True])
    """
    return solve(unit_maps(cell, input_t, state))


@torch.no_grad()
def unit_maps(cell: BistableCell, input_t: Tensor, state: Tensor | None = None) -> Unit:
    """The map of each unit of a cell under an input that stays, in float64: tensors (*, H).

    Args:
        cell: a BRC or an nBRC cell.
        input_t: the input x, (*, I).
        state: the state h, (*, H), at which the gates of the nBRC are frozen; none for the BRC.

    Raises:
        ValueError: a state is missing for the nBRC, or given for the BRC.
    """
    gates = (cell.kernelz, cell.kernelr, cell.kernelh)
    biases = (cell.bz, cell.br, cell.bh if cell.candidate_bias else None)
    x = input_t.double()
    u_c, u_a, u = (
        x @ kernel.double() + (0 if bias is None else bias.double())
        for kernel, bias in zip(gates, biases, strict=True)
    )
    memories = cell.memoryz.double(), cell.memoryr.double()
    if isinstance(cell, NeuromodulatedBistableRecurrentCell):
        if state is None:
            raise ValueError("state: expected the state at which the gates are frozen, got None")
        h = state.double()
        u_c, u_a = u_c + h @ memories[0], u_a + h @ memories[1]
        memories = (torch.zeros_like(u), torch.zeros_like(u))
    elif state is not None:
        raise ValueError("state: expected None for a BRC, whose gates are not frozen, got a tensor")
    return Unit(u, u_a, u_c, memories[1].expand_as(u), memories[0].expand_as(u))


def solve(unit: Unit) -> FixedPoints:
    """All fixed points of units, tensors of any shape (*): (*, K)."""
    shape = unit.u.shape
    flat = Unit(*(part.flatten() for part in unit))
    chunks = [
        _solve(Unit(*(part[first : first + _UNITS_AT_A_TIME] for part in flat)))
        for first in range(0, max(len(flat.u), 1), _UNITS_AT_A_TIME)
    ]
    most = max(chunk.state.shape[1] for chunk in chunks)
    columns = [
        (
            F.pad(found, (0, most - found.shape[1]), value=math.nan),
            F.pad(stable, (0, most - stable.shape[1])),
        )
        for found, stable in chunks
    ]
    states, stable = (torch.cat(part).reshape(*shape, most) for part in zip(*columns, strict=True))
    return FixedPoints(states, stable)


def count_stable(unit: Unit) -> Tensor:
    """How many stable fixed points each unit has, in the shape of the unit's tensors.

    With gates that do not depend on the state it is a formula. Otherwise a pushed unit that does
    not overshoot comes back to every other fixed point, the first and the last among them.
    """
    flat = Unit(*(part.flatten() for part in unit))
    count = 1 + (flat.u.abs() < bistable_range(1 + torch.tanh(flat.u_a))).long()
    (depends,) = ((flat.w_a != 0) | (flat.w_c != 0)).nonzero(as_tuple=True)
    for rows in torch.split(depends, _UNITS_AT_A_TIME):
        part = Unit(*(tensor[rows] for tensor in flat))
        count[rows] = (_brackets(part)[1].sum(1) + 1) // 2
        (steep,) = (part.w_a.abs() > 1).nonzero(as_tuple=True)  # only these may overshoot
        found = _solve(Unit(*(tensor[steep] for tensor in part)))
        count[rows[steep]] = found.is_stable.sum(1)
    return count.reshape(unit.u.shape)


def _solve(unit: Unit) -> FixedPoints:
    """All fixed points of N units, (N, K)."""
    nodes, change = _brackets(unit)
    row, place = change.nonzero(as_tuple=True)
    part = Unit(*(tensor[row] for tensor in unit))
    left, right = nodes[row, place], nodes[row, place + 1]
    # Where the candidate is above h on the left, it is below on the right, or the reverse.
    rises = (change.cumsum(1)[row, place] % 2) == 0
    root = _bisect(lambda h: (part.candidate(h)[0] < h) ^ rises, left, right, _BISECTIONS)
    count = change.sum(1)
    found = unit.u.new_full((len(unit.u), int(count.max()) if len(count) else 0), math.nan)
    found[row, change.cumsum(1)[row, place] - 1] = root
    return FixedPoints(found, unit.slope(found).abs() < 1)


def _brackets(unit: Unit) -> tuple[Tensor, Tensor]:
    """Nodes (N, M) between which candidate(h) - h is monotonous, and where its sign changes."""
    grid = torch.linspace(-1, 1, _CELLS + 1, dtype=unit.u.dtype, device=unit.u.device)
    grid = grid.expand(len(unit.u), -1)
    value, slope = unit.candidate(grid)
    above, falls = value > grid, slope < 1
    above[:, 0], above[:, -1] = True, False  # also where the candidate rounds to -1 or 1

    row, cell = (falls[:, 1:] != falls[:, :-1]).nonzero(as_tuple=True)
    part = Unit(*(tensor[row] for tensor in unit))
    starts = falls[row, cell]
    turning = _bisect(
        lambda h: (part.candidate(h)[1] < 1) != starts,
        grid[row, cell],
        grid[row, cell + 1],
        _BISECTIONS_OF_TURNING_POINTS,
    )
    # A second node in every cell: its turning point, or its left end again where it has none.
    nodes, signs = (of.unsqueeze(-1).repeat(1, 1, 2).flatten(1)[:, :-1] for of in (grid, above))
    nodes[row, 2 * cell + 1] = turning
    signs[row, 2 * cell + 1] = part.candidate(turning)[0] > turning
    return nodes, signs[:, 1:] != signs[:, :-1]


def _bisect(is_past: Callable[[Tensor], Tensor], left: Tensor, right: Tensor, times: int) -> Tensor:
    """Where a condition that is false on the left and true on the right begins to hold."""
    for _ in range(times):
        middle = (left + right) / 2
        past = is_past(middle)
        left, right = torch.where(past, left, middle), torch.where(past, middle, right)
    return (left + right) / 2


def bistable_range(a: Tensor) -> Tensor:
    """The |u| below which h = tanh(u + a h) has two stable solutions: a s - artanh(s).

    Args:
        a: feedback strengths, any shape.

    Returns:
        The bound, with s = sqrt(1 - 1/a); 0 for a <= 1, where there is one solution for every u.

    Example:
        >>> import torch
        >>> from brc_pytorch.analysis import bistable_range
        >>> round(bistable_range(torch.tensor(1.5)).item(), 3)
        0.208
    """
    s = torch.sqrt((1 - 1 / a.clamp(min=1)).clamp(min=0))
    return torch.where(a > 1, a * s - torch.atanh(s), 0)
