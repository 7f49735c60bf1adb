"""The cells as modules: parameters, calls, states and what they say of bad input."""

import copy
import pickle

import pytest
import torch
from torch import nn

from brc_pytorch.layers import (
    BistableRecurrentCell,
    NeuromodulatedBistableRecurrentCell,
    PeepholeLSTMCell,
)

BISTABLE = [BistableRecurrentCell, NeuromodulatedBistableRecurrentCell]
CELLS = [*BISTABLE, PeepholeLSTMCell]


def hidden(state):
    return state if isinstance(state, torch.Tensor) else state[0]


@pytest.mark.parametrize("cell_type", BISTABLE)
def test_parameters_have_the_authors_names_shapes_and_start(cell_type):
    cell = cell_type(3, 5)
    memory = (5,) if cell_type is BistableRecurrentCell else (5, 5)
    shapes = {name: tuple(parameter.shape) for name, parameter in cell.named_parameters()}
    kernels = dict.fromkeys(("kernelz", "kernelr", "kernelh"), (3, 5))
    assert shapes == {**kernels, "memoryz": memory, "memoryr": memory, "bz": (5,), "br": (5,)}
    bound = (6 / (3 + 5)) ** 0.5  # Xavier uniform, of one gate
    for name in ("kernelz", "kernelr", "kernelh"):
        assert 0.5 * bound < getattr(cell, name).abs().max() <= bound
    for memory in (cell.memoryz, cell.memoryr):
        if cell_type is BistableRecurrentCell:
            assert bool((memory == 1).all())
        else:
            torch.testing.assert_close(memory @ memory.T, torch.eye(5))
    assert not cell.bz.any()
    assert not cell.br.any()


@pytest.mark.parametrize("cell_type", CELLS)
def test_parameters_can_be_drawn_again(cell_type):
    cell = cell_type(3, 5)
    torch.manual_seed(0)
    cell.reset_parameters()
    first = {name: parameter.clone() for name, parameter in cell.named_parameters()}
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.fill_(7)
    torch.manual_seed(0)
    cell.reset_parameters()
    torch.testing.assert_close(dict(cell.named_parameters()), first)


@pytest.mark.parametrize("cell_type", CELLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_the_factory_arguments_reach_every_tensor(cell_type, dtype):
    cell = cell_type(3, 5, dtype=dtype)
    assert {parameter.dtype for parameter in cell.parameters()} == {dtype}
    x = torch.randn(2, 3, dtype=dtype)
    assert hidden(cell(x)).dtype == dtype
    elsewhere = cell_type(3, 5, device="meta", dtype=dtype)
    assert {parameter.device.type for parameter in elsewhere.parameters()} == {"meta"}
    assert hidden(elsewhere(x.to("meta"))).device.type == "meta"


@pytest.mark.parametrize("cell_type", CELLS)
@pytest.mark.parametrize("leading", [(), (4,), (4, 1), (2, 4)])
def test_any_leading_dimensions(cell_type, leading):
    cell = cell_type(3, 5)
    x = torch.randn(*leading, 3)
    from_zeros = cell(x)
    zeros = torch.zeros(*leading, 5)
    pair = cell_type is PeepholeLSTMCell
    torch.testing.assert_close(from_zeros, cell(x, (zeros, zeros) if pair else zeros))
    assert hidden(from_zeros).shape == (*leading, 5)
    one = torch.zeros(5)  # a state for all rows broadcasts
    torch.testing.assert_close(cell(x, (one, one) if pair else one), from_zeros)


@pytest.mark.parametrize("cell_type", BISTABLE)
def test_a_scan_is_its_steps(cell_type):
    cell = cell_type(3, 5)
    x, state = torch.randn(7, 2, 3), torch.randn(2, 5)
    output, last = cell.scan(x, state)
    for t in range(7):
        state = cell(x[t], state)
        torch.testing.assert_close(output[t], state)
    torch.testing.assert_close(last, state)
    torch.testing.assert_close(cell.scan(x), cell.scan(x, torch.zeros(2, 5)))


def test_the_peephole_cell_takes_its_state_both_ways():
    cell = PeepholeLSTMCell(3, 5)
    x, h, c = torch.randn(2, 3), torch.randn(2, 5), torch.randn(2, 5)
    torch.testing.assert_close(cell(x, (h, c)), cell(x, h, c))
    with pytest.raises(ValueError, match="cell_state: expected none beside the pair"):
        cell(x, (h, c), c)
    with pytest.raises(ValueError, match="cell_state: expected both states or neither"):
        cell(x, h)
    with pytest.raises(ValueError, match="hidden_state: expected both states or neither"):
        cell(x, None, c)


def test_a_peephole_cell_without_bias_moves_and_saves_none():
    cell = PeepholeLSTMCell(3, 5, bias=False)
    assert [*cell.state_dict()] == ["weights_x", "weights_h", "weights_c"]
    cell = cell.to(torch.float64)
    h, _ = cell(torch.randn(2, 3, dtype=torch.float64))
    assert h.dtype == torch.float64
    torch.testing.assert_close(cell.bias, torch.zeros(20, dtype=torch.float64))
    cell.to("meta")(torch.randn(2, 3, dtype=torch.float64, device="meta"))


@pytest.mark.parametrize("cell_type", CELLS)
def test_copies_are_equal_and_apart(cell_type):
    cell = cell_type(3, 5)
    x = torch.randn(2, 3)
    for twin in (copy.deepcopy(cell), pickle.loads(pickle.dumps(cell))):  # noqa: S301 - our own
        torch.testing.assert_close(twin(x), cell(x))
        with torch.no_grad():
            next(twin.parameters()).zero_()
        assert next(cell.parameters()).any()


@pytest.mark.parametrize("cell_type", BISTABLE)
def test_initial_states_follow_the_parameters(cell_type):
    cell = cell_type(3, 5, dtype=torch.float64)
    assert cell.get_initial_state(2).dtype == torch.float64
    state = cell.get_initial_state(2, dtype=torch.float32, device="meta")
    assert (tuple(state.shape), state.dtype, state.device.type) == ((2, 5), torch.float32, "meta")


@pytest.mark.parametrize("cell_type", CELLS)
def test_bad_sizes_are_named(cell_type):
    with pytest.raises(ValueError, match="input_size: expected at least 1, got 0"):
        cell_type(0, 5)
    with pytest.raises(ValueError, match="hidden_size: expected at least 1, got -1"):
        cell_type(3, -1)
    with pytest.raises(TypeError, match=r"hidden_size: expected an int, got 5\.0"):
        cell_type(3, 5.0)


@pytest.mark.parametrize("cell_type", BISTABLE)
def test_the_old_keyword_is_another_name(cell_type):
    assert cell_type(3, output_dim=5).hidden_size == 5
    assert cell_type(3, 5, output_dim=5).hidden_size == 5
    with pytest.raises(ValueError, match="another name of hidden_size, got 6 and 5"):
        cell_type(3, 5, output_dim=6)
    with pytest.raises(TypeError, match="hidden_size: expected an int, got nothing"):
        cell_type(3)


@pytest.mark.parametrize("cell_type", CELLS)
@pytest.mark.parametrize(
    ("x", "h", "expected"),
    [
        ((2, 4), None, r"expected shape \(\*, 3\), got \(2, 4\)"),
        ((), None, r"expected shape \(\*, 3\), got \(\)"),
        ((2, 3), (2, 6), r"hidden_state: expected shape \(\*, 5\), got \(2, 6\)"),
        ((2, 3), (4, 5), r"hidden_state: expected leading dimensions .* \(2, 3\), got \(4, 5\)"),
    ],
)
def test_bad_shapes_are_named(cell_type, x, h, expected):
    cell = cell_type(3, 5)
    states = [] if h is None else [torch.zeros(h)] * (2 if cell_type is PeepholeLSTMCell else 1)
    with pytest.raises(ValueError, match=expected):
        cell(torch.zeros(x), *states)


@pytest.mark.parametrize("cell_type", CELLS)
def test_bad_dtypes_and_devices_are_named(cell_type):
    cell = cell_type(3, 5)
    copies = 2 if cell_type is PeepholeLSTMCell else 1
    with pytest.raises(ValueError, match=r"expected dtype torch.float32, that of the parameters"):
        cell(torch.zeros(2, 3, dtype=torch.float64))
    with pytest.raises(ValueError, match="expected device cpu, that of the parameters, got meta"):
        cell(torch.zeros(2, 3, device="meta"))
    with pytest.raises(ValueError, match="hidden_state: expected dtype"):
        cell(torch.zeros(2, 3), *[torch.zeros(2, 5, dtype=torch.float64)] * copies)
    with pytest.raises(ValueError, match="hidden_state: expected device cpu"):
        cell(torch.zeros(2, 3), *[torch.zeros(2, 5, device="meta")] * copies)


@pytest.mark.parametrize("cell_type", BISTABLE)
@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"input": torch.zeros(7, 4, 2)}, r"input: expected \(T, B, I\) = \(\*, \*, 3\), got \(7"),
        ({"input": torch.zeros(7, 3)}, r"input: expected \(T, B, I\) = .* got \(7, 3\)"),
        ({"input": torch.zeros(7, 4, 3).double()}, "input: expected dtype torch.float32, that of"),
        ({"input": torch.zeros(7, 4, 3, device="meta")}, "input: expected device cpu, that of"),
        ({"output": torch.zeros(6, 4, 5)}, r"output: expected \(T, B, H\) = \(7, 4, 5\), got \(6"),
        ({"output": torch.zeros(7, 4, 5).double()}, "output: expected dtype torch.float32"),
        ({"state": torch.zeros(1, 4, 5)}, r"state: expected \(B, H\) = \(4, 5\), got \(1, 4, 5\)"),
        ({"lengths": torch.tensor([7, 7])}, r"lengths: expected 4 integers, .* got shape \(2,\)"),
        ({"lengths": torch.full((4,), 7.0)}, "lengths: expected 4 integers, .* of torch.float32"),
        ({"lengths": torch.ones(4, dtype=torch.bool)}, "lengths: expected 4 integers, .*bool"),
        ({"lengths": torch.full((4,), 7 + 0j)}, "lengths: expected 4 integers, .*complex64"),
    ],
)
def test_bad_arguments_of_gates_are_named(cell_type, changed, expected):
    arguments = {
        "input": torch.zeros(7, 4, 3),
        "output": torch.zeros(7, 4, 5),
        "state": torch.zeros(4, 5),
    }
    cell = cell_type(3, 5)
    cell.gates(**arguments)
    with pytest.raises(ValueError, match=expected):
        cell.gates(**{**arguments, **changed})


@pytest.mark.parametrize("cell_type", BISTABLE)
def test_bad_input_of_a_scan_is_named(cell_type):
    cell = cell_type(3, 5)
    with pytest.raises(ValueError, match=r"input: expected \(T, B, I\) = .*, got \(7, 4, 2\)"):
        cell.scan(torch.zeros(7, 4, 2))
    with pytest.raises(ValueError, match=r"input: expected \(T, B, I\) = .*, got \(3,\)"):
        cell.scan(torch.zeros(3))
    with pytest.raises(ValueError, match=r"input: expected dtype torch\.float32, that of the"):
        cell.scan(torch.zeros(7, 4, 3).double())


def test_representations():
    assert repr(BistableRecurrentCell(3, 5)) == "BistableRecurrentCell(3, 5)"
    assert repr(PeepholeLSTMCell(3, 5)) == "PeepholeLSTMCell(3, 5)"
    assert repr(PeepholeLSTMCell(3, 5, bias=False)) == "PeepholeLSTMCell(3, 5, bias=False)"


@pytest.mark.parametrize("cell_type", CELLS)
def test_a_cell_learns(cell_type):
    """Every parameter gets a gradient, and following it lowers the loss."""
    torch.manual_seed(0)
    cell = cell_type(3, 5)
    readout = nn.Linear(5, 1)
    optimizer = torch.optim.SGD([*cell.parameters(), *readout.parameters()], lr=0.1)
    x, target = torch.randn(6, 16, 3), torch.randn(16, 1)
    losses = []
    for _ in range(20):
        state = None
        for x_t in x:
            state = cell(x_t, state)
        loss = nn.functional.mse_loss(readout(hidden(state)), target)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        assert all(parameter.grad.any() for parameter in cell.parameters())
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]
