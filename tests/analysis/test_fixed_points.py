"""Fixed points: beside the closed form, and beside what a unit does when it is left alone."""

import pytest
import torch

from brc_pytorch import BistableRecurrentCell, NeuromodulatedBistableRecurrentCell
from brc_pytorch.analysis import bistable_range, fixed_points


@pytest.fixture
def any_brc():
    """A cell whose units have one stable state, two, or one beside a cycle."""
    cell = BistableRecurrentCell(3, 64, dtype=torch.float64)
    for parameter in cell.parameters():
        torch.nn.init.normal_(parameter, std=2)
    return cell


def frozen(a, u):
    """A cell of independent units whose gate a is a constant, and the input that gives them u."""
    cell = BistableRecurrentCell(1, len(a), dtype=torch.float64)
    for parameter in cell.parameters():
        torch.nn.init.zeros_(parameter)
    with torch.no_grad():
        cell.br.copy_(torch.atanh(a - 1))
        cell.kernelh.copy_(u)
    return cell, torch.ones(1, dtype=torch.float64)


def test_two_stable_states_exactly_within_the_closed_form():
    a = torch.linspace(0.05, 1.95, 39, dtype=torch.float64)
    bound = bistable_range(a)
    for share, expected in ((0.999, a > 1), (1.001, torch.zeros(39, dtype=torch.bool))):
        u = share * bound + (bound == 0) * 0.3
        for sign in (1, -1):
            cell, x = frozen(a, sign * u)
            points = fixed_points(cell, x)
            assert ((points.is_stable.sum(-1) == 2) == expected).all()


def test_a_fixed_point_is_where_the_cell_stays(any_brc):
    x = torch.randn(5, 3, dtype=torch.float64)
    points = fixed_points(any_brc, x)
    assert points.state.shape == points.is_stable.shape
    assert points.state.shape[:-1] == (5, 64)
    assert {1, 3} <= {*(~points.state.isnan()).sum(-1).flatten().tolist()}
    for state in points.state.unbind(-1):
        there = ~state.isnan()
        after = any_brc(x, state.nan_to_num())
        torch.testing.assert_close(after[there], state[there], rtol=0, atol=1e-12)
    ascending = points.state.diff(dim=-1)
    assert (ascending[~ascending.isnan()] > 0).all()


def test_stable_is_where_the_cell_s_own_slope_is_below_one(any_brc):
    x = torch.randn(5, 3, dtype=torch.float64)
    points = fixed_points(any_brc, x)
    assert points.is_stable.any()
    assert (~points.is_stable & ~points.state.isnan()).any()
    for state, stable in zip(points.state.unbind(-1), points.is_stable.unbind(-1), strict=True):
        h = state.nan_to_num().requires_grad_()
        (slope,) = torch.autograd.grad(any_brc(x, h).sum(), h)  # a unit sees itself alone
        there = ~state.isnan()
        assert ((slope.abs() < 1) == stable)[there].all()
        assert not stable[~there].any()


def test_every_unit_rests_somewhere(any_brc):
    points = fixed_points(any_brc, 100 * torch.randn(20, 3, dtype=torch.float64))
    assert not points.state[..., 0].isnan().any()


def test_gates_of_the_nbrc_are_frozen_at_the_state():
    cell = NeuromodulatedBistableRecurrentCell(3, 6, dtype=torch.float64)
    x, h = torch.randn(4, 3, dtype=torch.float64), torch.rand(4, 6, dtype=torch.float64)
    points = fixed_points(cell, x, h)
    output, _ = cell.scan(x.unsqueeze(0), h)
    a, _ = cell.gates(x.unsqueeze(0), output, h)
    u = (x @ cell.kernelh).unsqueeze(-1)
    rest = points.state
    residual = torch.tanh(u + a[0].unsqueeze(-1) * rest) - rest
    assert residual.abs().nan_to_num().max() < 1e-12


def test_no_units_have_no_fixed_points():
    cell = BistableRecurrentCell(3, 2)
    assert fixed_points(cell, torch.zeros(0, 3)).state.shape == (0, 2, 0)


def test_a_state_is_for_the_nbrc_alone():
    x, h = torch.zeros(3), torch.zeros(2)
    with pytest.raises(ValueError, match=r"^state: expected the state at which"):
        fixed_points(NeuromodulatedBistableRecurrentCell(3, 2), x)
    with pytest.raises(ValueError, match=r"^state: expected None"):
        fixed_points(BistableRecurrentCell(3, 2), x, h)
