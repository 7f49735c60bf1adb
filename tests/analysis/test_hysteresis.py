"""Loops and pitchforks beside the closed form, and beside cells that are driven slowly."""

import pytest
import torch

from brc_pytorch import BistableRecurrentCell, NeuromodulatedBistableRecurrentCell
from brc_pytorch.analysis import bifurcation, bistable_range, fixed_points, hysteresis


def plain(a):
    """A cell of units whose candidate sees the input as it is, and whose gate a is a constant."""
    cell = BistableRecurrentCell(1, len(a), dtype=torch.float64)
    for parameter in cell.parameters():
        torch.nn.init.zeros_(parameter)
    with torch.no_grad():
        cell.br.copy_(torch.atanh(a - 1))
        cell.kernelh.fill_(1)
    return cell


def test_a_loop_ends_where_the_closed_form_says():
    a = torch.tensor([0.5, 1.0, 1.2, 1.5, 1.9], dtype=torch.float64)
    path = torch.linspace(-0.6, 0.6, 601, dtype=torch.float64)
    loop = hysteresis(plain(a), path.unsqueeze(1))
    for unit, bound in enumerate(bistable_range(a).tolist()):
        two = path[(loop.there[:, unit] - loop.back[:, unit]).abs() > 1e-6]
        assert len(two) == 0 if bound == 0 else two.abs().max() == pytest.approx(bound, abs=2e-3)
        assert (loop.there[:, unit] <= loop.back[:, unit] + 1e-9).all()
    assert bistable_range(a)[3].item() == pytest.approx(0.208, abs=5e-4)
    assert loop.there[:, 3].diff().max() > 1, "the unit jumps"


@torch.no_grad()
def test_a_loop_is_what_a_slowly_driven_cell_does():
    torch.manual_seed(5)
    cell = BistableRecurrentCell(2, 24, dtype=torch.float64)
    torch.nn.init.normal_(cell.memoryr)
    torch.nn.init.normal_(cell.br)
    path = torch.linspace(-3, 3, 40, dtype=torch.float64).unsqueeze(1) * torch.tensor([1.0, -0.5])
    loop = hysteresis(cell, path)
    assert ((loop.there - loop.back).abs() > 0.1).any()
    h = torch.zeros(1, 24, dtype=torch.float64)
    for x, expected in zip(
        torch.cat((path, path.flip(0))), torch.cat((loop.there, loop.back.flip(0))), strict=True
    ):
        _, h = cell.scan(x.expand(1000, 1, 2), h)
        torch.testing.assert_close(h[0], expected, rtol=0, atol=1e-4)


def test_the_states_of_a_loop_are_fixed_points():
    cell = NeuromodulatedBistableRecurrentCell(3, 6)
    path, h = torch.randn(9, 3), torch.rand(6)
    loop = hysteresis(cell, path, h)
    expected = fixed_points(cell, path, h.expand(9, -1))
    torch.testing.assert_close(loop.points, expected, equal_nan=True)
    for states in (loop.there, loop.back):
        assert (states.unsqueeze(-1) == expected.state).any(-1).all()
    some = hysteresis(cell, path, h, units=torch.tensor([4, 1]))
    assert (some.there == loop.there[:, [4, 1]]).all()


def test_a_pitchfork_opens_beyond_one():
    a = torch.linspace(0.1, 1.9, 37, dtype=torch.float64)
    cell = plain(torch.tensor([0.3], dtype=torch.float64))  # its own gate is replaced
    points = bifurcation(cell, a, torch.zeros(1, dtype=torch.float64))
    assert ((points.is_stable.sum(-1) == 2) == (a > 1.001).unsqueeze(1)).all()
    upper = points.state[a > 1.001].amax(-1).squeeze(1)
    torch.testing.assert_close(torch.atanh(upper), a[a > 1.001] * upper)


def test_input_moves_where_the_second_state_appears():
    a = torch.linspace(0.1, 1.9, 37, dtype=torch.float64)
    for x in (0.05, 0.208, 0.4):
        points = bifurcation(plain(a[:1]), a, torch.tensor([x], dtype=torch.float64))
        assert ((points.is_stable.sum(-1)[:, 0] == 2) == (x < bistable_range(a))).all()


def test_bad_arguments_are_named():
    cell, x = BistableRecurrentCell(3, 2), torch.zeros(3)
    with pytest.raises(ValueError, match=r"^inputs: expected a path \(K, I\), got shape \(3,\)"):
        hysteresis(cell, x)
    with pytest.raises(ValueError, match=r"^a: expected feedback strengths between 0 and 2"):
        bifurcation(cell, torch.tensor([0.5, 2.0]), x)
    with pytest.raises(ValueError, match=r"^a: .* got shape \(1, 1\)"):
        bifurcation(cell, torch.ones(1, 1), x)
    with pytest.raises(ValueError, match=r"^input_t: expected one input"):
        bifurcation(cell, torch.tensor([0.5]), torch.zeros(4, 3))
    with pytest.raises(ValueError, match=r"^state: expected the state at which"):
        hysteresis(NeuromodulatedBistableRecurrentCell(3, 2), torch.zeros(4, 3))
