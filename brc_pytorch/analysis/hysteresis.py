"""What a unit does when its input, or its feedback, is changed slowly.

Slowly means that the unit has come to rest before the next change. It then stays with the fixed
point it is at for as long as there is one, and moves to the next one in the direction in which it
is driven when there is none any more. A bistable unit changes at other inputs on the way back than
on the way there: its hysteresis.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from brc_pytorch.analysis.fixed_points import FixedPoints, Unit, solve, unit_maps
from brc_pytorch.layers.bistable_cell import BistableCell

_SAME = 1e-9  # states that are nearer to one another than this are one


class Hysteresis(NamedTuple):
    """The states of units along a path of K inputs and back: float64.

    Attributes:
        there: where they rest on the way there, (K, H).
        back: where they rest at the same inputs on the way back, (K, H).
        points: all fixed points at each input, (K, H, N).
    """

    there: Tensor
    back: Tensor
    points: FixedPoints


@torch.no_grad()
def hysteresis(
    cell: BistableCell,
    inputs: Tensor,
    state: Tensor | None = None,
    units: Tensor | slice = slice(None),
) -> Hysteresis:
    """Take the units of a cell slowly along a path of inputs and back.

    Exact for the BRC, whose gates depend on the unit's own state. The gates of the nBRC see the
    whole layer: they are frozen at its state of the moment, and see the input alone change.

    Args:
        cell: a BRC or an nBRC cell.
        inputs: the path x_1 to x_K, (K, I). The units start from h = 0 at the first.
        state: the state h, (H), at which the gates of the nBRC are frozen; none for the BRC.
        units: which of the H units. Default: all.

    Returns:
        The states there and back, and all fixed points at each input. They differ where the unit is
        bistable and has been in another state on the way there. A unit that would cycle around a
        fixed point is given as at rest in it; ``points.is_stable`` says so.

    Raises:
        ValueError: ``inputs`` is no path, or a state is missing for the nBRC, or given for the BRC.

    Example:
        >>> import torch
        >>> from brc_pytorch import BistableRecurrentCell
        >>> from brc_pytorch.analysis import hysteresis
        >>> cell = BistableRecurrentCell(1, 1)
        >>> for parameter in cell.parameters():
        ...     _ = torch.nn.init.zeros_(parameter)
        >>> _ = torch.nn.init.constant_(cell.br, 0.5493)  # a = 1.5
        >>> _ = torch.nn.init.ones_(cell.kernelh)  # u = x
        >>> path = torch.linspace(-0.5, 0.5, 501).unsqueeze(1)
        >>> loop = hysteresis(cell, path)
        >>> apart = (loop.there - loop.back).abs().squeeze(1) > 0.1
        >>> round(path[apart].abs().max().item(), 2)  # where the loop ends
        0.21
    """
    if inputs.dim() != 2:  # noqa: PLR2004 - (K, I)
        raise ValueError(f"inputs: expected a path (K, I), got shape {tuple(inputs.shape)}")
    if state is not None:
        state = state.expand(len(inputs), -1)
    maps = Unit(*(part[:, units] for part in unit_maps(cell, inputs, state)))
    points = solve(maps)
    at_each = [Unit(*parts) for parts in zip(*maps, strict=True)]
    h = torch.zeros_like(maps.u[0])
    there = []
    for unit, states in zip(at_each, points.state, strict=True):
        h = _come_to_rest(unit, states, h)
        there.append(h)
    back = []
    for unit, states in zip(reversed(at_each), reversed(points.state), strict=True):
        h = _come_to_rest(unit, states, h)
        back.append(h)
    return Hysteresis(torch.stack(there), torch.stack(back[::-1]), points)


def _come_to_rest(unit: Unit, states: Tensor, h: Tensor) -> Tensor:
    """The fixed points (H), out of (H, N), that H units reach from where they are."""
    beside = h.unsqueeze(-1)
    above = torch.where(states >= beside - _SAME, states, torch.inf).amin(-1)
    below = torch.where(states <= beside + _SAME, states, -torch.inf).amax(-1)
    return torch.where(unit.candidate(h)[0] >= h, above, below)


@torch.no_grad()
def bifurcation(
    cell: BistableCell, a: Tensor, input_t: Tensor, state: Tensor | None = None
) -> FixedPoints:
    """The fixed points of every unit for feedback strengths other than its own.

    Without input they are those of a pitchfork: one stable state up to a = 1, two beyond. With
    input the second one appears where |u| < ``bistable_range(a)``.

    Args:
        cell: a BRC or an nBRC cell.
        a: feedback strengths in (0, 2), (K). Those of a unit of the BRC depend on its own state;
            these are then the ones at h = 0.
        input_t: the input x, (I).
        state: the state h, (H), at which the update gates of the nBRC are frozen; none for the BRC.

    Returns:
        The fixed points, (K, H, N), in float64.

    Raises:
        ValueError: a feedback strength is outside of (0, 2), or a state is missing for the nBRC, or
            given for the BRC.

    Example:
        >>> import torch
        >>> from brc_pytorch import BistableRecurrentCell
        >>> from brc_pytorch.analysis import bifurcation
        >>> cell = BistableRecurrentCell(1, 1)
        >>> _ = torch.nn.init.zeros_(cell.memoryr)  # a does not depend on the state
        >>> points = bifurcation(cell, torch.tensor([0.5, 1.5]), torch.zeros(1))
        >>> points.is_stable.sum(-1).tolist()
        [[1], [2]]
    """
    if a.dim() != 1 or not ((a - 1).abs() < 1).all():
        raise ValueError(
            "a: expected feedback strengths between 0 and 2, (K), got "
            f"{a.tolist() if a.dim() == 1 else f'shape {tuple(a.shape)}'}"
        )
    unit = unit_maps(cell, input_t, state)
    if unit.u.dim() != 1:
        raise ValueError(f"input_t: expected one input (I), got shape {tuple(input_t.shape)}")
    shifted = torch.atanh(a.double().to(unit.u.device) - 1).unsqueeze(1)
    shape = (len(a), len(unit.u))
    parts = unit._replace(u_a=shifted)
    return solve(Unit(*(part.expand(shape) for part in parts)))
