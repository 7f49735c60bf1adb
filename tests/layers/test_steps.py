"""Single steps of the bistable cells, in the kernels where there are some, beside the equations."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from brc_pytorch import (
    BRC,
    NBRC,
    BistableRecurrentCell,
    NeuromodulatedBistableRecurrentCell,
    ops,
)

CELLS = [BistableRecurrentCell, NeuromodulatedBistableRecurrentCell]
OPTIONS = [{}, {"bias": False}, {"candidate_bias": True}]
compiled = pytest.mark.skipif(
    ops.backend_for(torch.device("cpu")) == "reference", reason="no kernels are installed"
)


def random_cell(cell_type, inputs=3, hidden=5, dtype=torch.float64, **options):
    cell = cell_type(inputs, hidden, dtype=dtype, **options)
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return cell


def gradients(cell, x, h, cotangent):
    """The next state, and the gradients of the input, the state and all parameters."""
    updated = cell(x, h)
    return updated, torch.autograd.grad(updated, (x, h, *cell.parameters()), cotangent)


@pytest.fixture
def calls_of_kernels(monkeypatch):
    """How often the compiled forward pass is called."""
    from brc_pytorch.ops.cpu import interface  # noqa: PLC0415 - where there are kernels

    called, real = [], interface.kernels.brc_forward
    monkeypatch.setattr(
        interface.kernels, "brc_forward", lambda *given: called.append(1) or real(*given)
    )
    return called


@pytest.mark.parametrize("cell_type", CELLS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(
    "leading",
    [
        ((), ()),
        ((4,), (4,)),
        ((0,), (0,)),
        ((2, 1, 4), (3, 1)),
        ((4,), ()),
        ((1,), (4,)),
        ((2, 4), (2, 4)),
    ],
    ids=str,
)
def test_a_step_and_its_gradients_are_the_references(cell_type, options, leading):
    cell = random_cell(cell_type, **options)
    x = torch.randn(*leading[0], 3, dtype=torch.float64, requires_grad=True)
    h = torch.randn(*leading[1], 5, dtype=torch.float64, requires_grad=True)
    with ops.backend("reference"):
        expected = cell(x, h)
        cotangent = torch.randn_like(expected)
        expected = gradients(cell, x, h, cotangent)
    torch.testing.assert_close(gradients(cell, x, h, cotangent), expected, rtol=1e-9, atol=1e-9)
    with torch.no_grad():
        torch.testing.assert_close(cell(x, h), expected[0].detach(), rtol=1e-9, atol=1e-9)


@compiled
@pytest.mark.parametrize("cell_type", CELLS)
@pytest.mark.parametrize("grad", [False, True])
def test_a_step_is_a_sequence_of_one_bit_for_bit(cell_type, grad, calls_of_kernels):
    cell = random_cell(cell_type, 7, 33, torch.float32)
    x, h = torch.randn(6, 7), torch.randn(6, 33)
    with torch.set_grad_enabled(grad):
        updated = cell(x, h)
        assert len(calls_of_kernels) == 1
        _, last = cell.scan(x.unsqueeze(0), h)
        row_by_row = torch.stack([cell(x[i], h[i]) for i in range(6)])
    torch.testing.assert_close(updated, last, rtol=0, atol=0)
    torch.testing.assert_close(row_by_row, last, rtol=0, atol=0)


@compiled
@settings(deadline=None, max_examples=40)
@given(
    cell_type=st.sampled_from(CELLS),
    batch=st.integers(0, 5),
    inputs=st.integers(1, 20),
    hidden=st.integers(1, 40),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    transposed=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_steps_of_any_size_are_the_references(
    cell_type, batch, inputs, hidden, dtype, transposed, seed
):
    torch.manual_seed(seed)
    cell = random_cell(cell_type, inputs, hidden, dtype)
    x, h = torch.randn(batch, inputs, dtype=dtype), torch.randn(batch, hidden, dtype=dtype)
    if transposed:  # of other strides than a new tensor
        x, h = x.t().contiguous().t(), h.t().contiguous().t()
        cell.memoryz.data = cell.memoryz.detach().t().contiguous().t()
    with torch.no_grad():
        found = cell(x, h)
        with ops.backend("reference"):
            expected = cell(x, h)
    tolerance = 2e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("cell_type", CELLS)
@pytest.mark.parametrize("wanted", ["x", "h", "kernelr", "memoryz", "bz"])
def test_only_what_asks_for_a_gradient_gets_one(cell_type, wanted):
    cell = random_cell(cell_type).requires_grad_(False)
    tensors = {
        "x": torch.randn(4, 3, dtype=torch.float64),
        "h": torch.randn(4, 5, dtype=torch.float64),
        **dict(cell.named_parameters()),
    }
    tensors[wanted].requires_grad_()
    x, h = tensors["x"], tensors["h"]
    cotangent = torch.randn_like(h)
    cell(x, h).backward(cotangent)
    with ops.backend("reference"):
        expected = torch.autograd.grad(cell(x, h), tensors[wanted], cotangent)[0]
    torch.testing.assert_close(tensors[wanted].grad, expected, rtol=1e-9, atol=1e-9)
    assert [name for name, t in tensors.items() if t.grad is not None] == [wanted]


def test_gradients_for_many_cotangents_at_once():
    cell, x = random_cell(BistableRecurrentCell), torch.randn(4, 3, dtype=torch.float64)
    h = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    updated, cotangents = cell(x, h), torch.randn(6, 4, 5, dtype=torch.float64)
    (at_once,) = torch.autograd.grad(
        updated, h, cotangents, is_grads_batched=True, retain_graph=True
    )
    one_by_one = [torch.autograd.grad(updated, h, c, retain_graph=True)[0] for c in cotangents]
    torch.testing.assert_close(at_once, torch.stack(one_by_one))


@compiled
def test_a_state_changed_in_place_is_noticed():
    cell, x = random_cell(BistableRecurrentCell), torch.randn(4, 3, dtype=torch.float64)
    updated = cell(x, torch.zeros(4, 5, dtype=torch.float64))
    with torch.no_grad():
        updated.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        updated.sum().backward()


@pytest.mark.parametrize("cell_type", CELLS)
def test_derivatives_of_derivatives(cell_type):
    cell = random_cell(cell_type, 2, 3)
    x = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)
    h = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(cell, (x, h))
    assert torch.autograd.gradgradcheck(cell, (x, h))


@compiled
@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("cell_type", CELLS)
def test_whoever_follows_operations_sees_the_equations(cell_type, calls_of_kernels):
    cell = random_cell(cell_type, 3, 5, torch.float32)
    x, h = torch.randn(4, 3), torch.randn(4, 5)
    expected = cell(x, h)
    calls_of_kernels.clear()
    each = torch.vmap(cell)(x, h)
    traced = torch.jit.trace(cell, (x, h), check_trace=False)(x, h)
    derivative = torch.func.jacfwd(lambda h: cell(x, h))(h)
    with torch.autocast("cpu"):
        narrow = cell(x, h)
    assert not calls_of_kernels
    torch.testing.assert_close(each, expected)
    torch.testing.assert_close(traced, expected)
    assert derivative.shape == (4, 5, 4, 5)
    torch.testing.assert_close(narrow.float(), expected, rtol=0.1, atol=0.1)


@compiled
@pytest.mark.parametrize("cell_type", CELLS)
def test_parameters_that_were_exchanged_for_others_are_looked_at(cell_type):
    cell = random_cell(cell_type, 3, 5, torch.float32)
    cell.kernelr.data = torch.randn(3, 4)
    with (
        torch.no_grad(),
        pytest.raises(ValueError, match=r"parameters\[1\]: expected shape \(3, 5\)"),
    ):
        cell(torch.randn(4, 3), torch.randn(4, 5))


@pytest.mark.parametrize("network_type", [BRC, NBRC])
def test_a_loop_of_steps_learns_as_the_network_does(network_type):
    network = network_type(3, 5, dtype=torch.float64)
    x = torch.randn(6, 2, 3, dtype=torch.float64)
    network(x)[0].square().sum().backward()
    expected = [parameter.grad for parameter in network.parameters()]
    network.zero_grad()
    h, total = x.new_zeros(2, 5), 0.0
    for x_t in x:
        h = network.cells[0](x_t, h)
        total = total + h.square().sum()
    total.backward()
    torch.testing.assert_close([p.grad for p in network.parameters()], expected)
