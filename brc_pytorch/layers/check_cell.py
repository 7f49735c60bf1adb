"""Whether a cell keeps its contract: what it offers for speed agrees with its single steps."""

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from brc_pytorch.layers.checks import check_size
from brc_pytorch.layers.form import State, joined, parts, parts_of_kind
from brc_pytorch.layers.scan import has_pair_state, scan_by_steps, takes_resets
from brc_pytorch.layers.stack import defines

_STEPS, _LENGTHS = 6, (6, 4, 1)
_BATCH = len(_LENGTHS)

# From the input and the parts of the state to the output and the parts of the last state.
_Way = Callable[..., tuple[Tensor, ...]]


def check_cell(
    cell: nn.Module,
    input_size: int | None = None,
    hidden_size: int | None = None,
    *,
    dtypes: Sequence[torch.dtype] = (torch.float32, torch.float64),
) -> list[str]:
    """Test whether a cell of your own keeps the contract of :class:`MultiLayerBase`.

    ``forward(input_t, state)`` defines the cell. From (B, I) and (B, H), or a pair of states, it
    makes the next state, which has the dtype and the device of its arguments. It leaves these as
    they are and keeps nothing between calls, and a row does not depend on the others.

    Whatever else the cell has must agree with single steps, but for rounding:

    - ``scan(input, state, lengths, reverse)`` returns the output (T, B, H), zero where a row has
      ended, and each row's state after its own last step, whatever the padding holds; with all
      gradients. If it takes ``resets`` and ``reset_state``, segments start anew from this state, or
      from zero where it is None.
    - ``scan_layers(cells, input, states, lengths)``, a class method, does the same for several
      cells, each fed by the one before; again with ``resets`` and ``reset_states`` if it takes
      them.
    - ``gates(input, output, state, lengths, reverse)`` returns tensors (T, B, H), zero where a row
      has ended; a step's gates depend on that step alone. It may take ``resets`` too.

    What is tested is a copy in evaluation mode, its parameters moved a little, so that a bias of
    zero shows.

    Args:
        cell: the cell. One whose state is a pair says so by ``state_size``, two numbers.
        input_size: I. Default: the cell's attribute.
        hidden_size: H. Default: the cell's attribute.
        dtypes: the dtypes to test it in. Default: float32 and float64.

    Returns:
        The names of the methods that were tested.

    Raises:
        TypeError: the cell is no module, or a size is missing.
        ValueError: the cell breaks the contract; the message says where.

    Example:
        >>> from torch import nn
        >>> from brc_pytorch import BistableRecurrentCell, check_cell
        >>> check_cell(BistableRecurrentCell(3, 5))
        ['forward', 'scan', 'scan_layers', 'gates']
        >>> check_cell(nn.GRUCell(3, 5))
        ['forward']
    """
    if not isinstance(cell, nn.Module):
        raise TypeError(f"cell: expected a torch.nn.Module, got a {type(cell).__name__}")
    input_size = _size(cell, "input_size", input_size)
    hidden_size = _size(cell, "hidden_size", hidden_size)
    kind = type(cell)
    others = {"scan": ("forward",), "scan_layers": ("scan", "forward"), "gates": ()}
    offered = [name for name, rivals in others.items() if defines(kind, name, *rivals)]
    for dtype in dtypes:
        _check(cell, input_size, hidden_size, offered, dtype)
    return ["forward", *offered]


def _size(cell: nn.Module, name: str, size: int | None) -> int:
    found = getattr(cell, name, None) if size is None else size
    if found is None:
        raise TypeError(f"{name}: expected an int, for the cell has no such attribute")
    return check_size(name, found)


class _Call(NamedTuple):
    """One call to test; ``resets`` holds the mask and the reset state, or nothing."""

    input: Tensor
    state: State
    lengths: Tensor | None
    reverse: bool
    resets: tuple[Any, ...]

    def options(self) -> str:
        """What is not at its default."""
        shown = [] if self.lengths is None else [f"lengths={self.lengths.tolist()}"]
        shown += ["reverse=True"] * self.reverse + ["resets"] * bool(self.resets)
        shown += ["reset_state"] * (len(self.resets) > 0 and self.resets[1] is not None)
        return f" with {', '.join(shown)}" if shown else ""


def _check(
    cell: nn.Module, input_size: int, hidden_size: int, offered: list[str], dtype: torch.dtype
) -> None:
    """Test a cell in one dtype."""
    cell = copy.deepcopy(cell).eval().to(dtype)
    device = next((parameter.device for parameter in cell.parameters()), torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        drawn = torch.randn(shape, dtype=torch.float64, generator=generator)
        return drawn.to(device, dtype)

    def state() -> State:
        count = 2 if has_pair_state(cell) else 1
        return joined(tuple(random(_BATCH, hidden_size) for _ in range(count)))

    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.add_(0.1 * random(*parameter.shape))
    _check_step(cell, random(_BATCH, input_size), state())
    checks = {"scan": _check_scan, "scan_layers": _check_layers, "gates": _check_gates}
    for name in offered:
        lengths, reset_state = torch.tensor(_LENGTHS), state()
        resets = (torch.rand(_STEPS, _BATCH, generator=generator) < 0.4).to(device)  # noqa: PLR2004
        masks: list[tuple[Any, ...]] = [()]
        if takes_resets(getattr(cell, name)):
            masks += [(resets, None), (resets, reset_state)]
        directions = (False,) if name == "scan_layers" else (False, True)
        for mask, each, reverse in itertools.product(masks, (None, lengths), directions):
            # The input as a network has it with batch_first, (B, T, I) in memory.
            input = random(_BATCH, _STEPS, input_size).transpose(0, 1)
            checks[name](cell, _Call(input, state(), each, reverse, mask))


def _check_step(cell: nn.Module, input_t: Tensor, state: State) -> None:
    """Test forward."""
    where = f"{type(cell).__name__}.forward"
    names = _state_names("the next", len(parts(state)))

    def step(input_t: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        return _state(where, _result(where, cell, input_t, joined(state)), len(state))

    given = tuple(tensor.clone().requires_grad_() for tensor in (input_t, *parts(state)))
    found = step(*given)
    for name, tensor in zip(names, found, strict=True):
        _check_like(where, name, tensor, parts(state)[0])
    _check_unchanged(where, given, (input_t, *parts(state)))
    reached = _gradients(found, given)
    if reached[0] is None or all(gradient is None for gradient in reached[1:]):
        missing = "input_t" if reached[0] is None else "state"
        raise _broken(where, f"a gradient of {missing}", "none: it was cut off")
    again = step(*given)
    for name, first, second in zip(names, found, again, strict=True):
        _check_same(f"{where}, called a second time", name, second, first)
    for row in range(_BATCH):
        alone = step(*(tensor[row : row + 1] for tensor in given))
        for name, first, second in zip(names, found, alone, strict=True):
            _check_same(f"{where}, with row {row} alone", name, second, first[row : row + 1])


def _check_scan(cell: Any, call: _Call) -> None:  # noqa: ANN401 - with such a method
    where = f"{type(cell).__name__}.scan{call.options()}"

    def scan(input: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        arguments = input, joined(state), call.lengths, call.reverse, *call.resets
        return _output_and_state(where, _result(where, cell.scan, *arguments), len(state))

    def by_steps(input: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        options = call.lengths, call.reverse, *call.resets
        output, last = scan_by_steps(cell, input, joined(state), *options)
        return output, *parts(last)

    _check_way(
        where, scan, by_steps, (call.input, *parts(call.state)), dict(cell.named_parameters())
    )


def _check_layers(cell: Any, call: _Call) -> None:  # noqa: ANN401 - with such a method
    where = f"{type(cell).__name__}.scan_layers{call.options()}"
    cells = [cell]
    if call.input.shape[-1] == parts(call.state)[0].shape[-1]:
        cells.append(cell)

    def of_all(state: State) -> State:
        return joined(tuple(torch.stack([part] * len(cells)) for part in parts(state)))

    mask: tuple[Any, ...] = ()
    if call.resets:
        resets, reset_state = call.resets
        mask = resets, None if reset_state is None else of_all(reset_state)

    def scan_layers(input: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        arguments = cells, input, joined(states), call.lengths, *mask
        result = _result(where, type(cell).scan_layers, *arguments)
        return _output_and_state(where, result, len(states))

    def one_by_one(input: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        last = []
        for index, each in enumerate(cells):
            state = joined(tuple(part[index] for part in states))
            options = call.lengths, False, *call.resets
            input, after = scan_by_steps(each, input, state, *options)
            last.append(parts(after))
        return input, *map(torch.stack, zip(*last, strict=True))

    given = call.input, *parts(of_all(call.state))
    _check_way(where, scan_layers, one_by_one, given, dict(cell.named_parameters()))


def _check_way(
    where: str,
    way: _Way,
    by_steps: _Way,
    given: tuple[Tensor, ...],
    parameters: dict[str, nn.Parameter],
) -> None:
    """Test that a way over a sequence gives what single steps give, gradients included."""
    names = ["the output", *_state_names("the last", len(given) - 1)]
    before = tuple(tensor.clone() for tensor in given)
    with torch.no_grad():
        without = way(*given)
    _check_unchanged(where, given, before)
    ours, theirs = (tuple(tensor.detach().requires_grad_() for tensor in given) for _ in range(2))
    found, expected = way(*ours), by_steps(*theirs)
    _check_unchanged(where, given, before)
    for name, result, quick, wanted in zip(names, found, without, expected, strict=True):
        _check_same(where, name, result, wanted)
        _check_same(f"{where}, under no_grad", name, quick, wanted)
    trained = {name: each for name, each in parameters.items() if each.requires_grad}
    leaves = ["input", *(f"state {n}" for n in range(len(given) - 1)), *trained]
    gradients = (
        _gradients(results, (*arguments, *trained.values()))
        for results, arguments in ((found, ours), (expected, theirs))
    )
    for name, got, wanted, leaf in zip(
        leaves, *gradients, (*given, *trained.values()), strict=True
    ):
        got, wanted = (torch.zeros_like(leaf) if each is None else each for each in (got, wanted))  # noqa: PLW2901
        _check_same(where, f"the gradient of {name}", got, wanted)


def _check_gates(cell: Any, call: _Call) -> None:  # noqa: ANN401 - with such a method
    where = f"{type(cell).__name__}.gates{call.options()}"
    with torch.no_grad():
        options = call.lengths, call.reverse, *call.resets
        output, _ = scan_by_steps(cell, call.input, call.state, *options)
        found = _result(where, cell.gates, call.input, output, call.state, *options)
        if not isinstance(found, tuple | list):
            raise _broken(where, "a tuple", _described(found))
        expected = tuple(torch.zeros_like(output) for _ in found)
        for row in range(_BATCH):
            _gates_by_steps(cell, call, row, expected)
        for number, (gate, wanted) in enumerate(zip(found, expected, strict=True)):
            _check_same(where, f"gate {number}", gate, wanted)


def _gates_by_steps(
    cell: Any,  # noqa: ANN401 - with gates
    call: _Call,
    row: int,
    gates: tuple[Tensor, ...],
) -> None:
    """Fill in the gates of one row, (T, B, H), from calls with a single step."""
    one = slice(row, row + 1)
    steps = _STEPS if call.lengths is None else int(call.lengths[row])
    state = tuple(part[one] for part in parts(call.state))
    resets, reset_state = call.resets or (None, None)
    for t in reversed(range(steps)) if call.reverse else range(steps):
        begins = t + 1 if call.reverse else t
        if resets is not None and begins < steps and resets[begins, row]:
            source = tuple(map(torch.zeros_like, state)) if reset_state is None else reset_state
            state = tuple(part[one] if reset_state is not None else part for part in parts(source))
        x = call.input[t : t + 1, one]
        after = parts(cell(x[0], joined(state)))
        found = cell.gates(x, after[0].unsqueeze(0), joined(state), None, False)
        for gate, value in zip(gates, found, strict=True):
            gate[t, row] = value[0, 0]
        state = after


def _broken(where: str, expected: str, got: object) -> ValueError:
    return ValueError(f"{where}: expected {expected}, got {got}")


def _result(where: str, method: Callable[..., Any], *arguments: object) -> Any:  # noqa: ANN401 - whatever it returns
    try:
        return method(*arguments)
    except Exception as error:
        raise _broken(where, "a result", f"{type(error).__name__}: {error}") from error


def _state(where: str, state: object, count: int) -> tuple[Tensor, ...]:
    """The parts of a state that a cell returned."""
    found = parts_of_kind(state, count)
    if found is not None:
        return found
    wanted = "one tensor" if count == 1 else "a pair of tensors"
    hint = "state_size, one number or two, says what a cell's state is"
    raise _broken(where, f"the state to be {wanted}", f"{_described(state)}; {hint}")


def _output_and_state(where: str, result: object, count: int) -> tuple[Tensor, ...]:
    """The output and the parts of the last state that a scan returned."""
    if not isinstance(result, tuple | list) or len(result) != 2:  # noqa: PLR2004 - both
        raise _broken(where, "the output and the last state", _described(result))
    output, last = result
    if not isinstance(output, Tensor):
        raise _broken(where, "the output to be one tensor", _described(output))
    return output, *_state(where, last, count)


def _described(thing: object) -> str:
    if isinstance(thing, Tensor):
        return "one tensor"
    size = f" of {len(thing)}" if isinstance(thing, tuple | list) else ""
    return f"a {type(thing).__name__}{size}"


def _state_names(which: str, count: int) -> list[str]:
    return [f"{which} state{part}" for part in (("",) if count == 1 else (" h", " c"))]


def _check_like(where: str, name: str, found: Tensor, expected: Tensor) -> None:
    """Test the shape, the dtype and the device of a result."""
    for kind in ("shape", "dtype", "device"):
        got, wanted = getattr(found, kind), getattr(expected, kind)
        if got != wanted:
            got, wanted = (tuple(each) if kind == "shape" else each for each in (got, wanted))
            raise _broken(where, f"{name} of {kind} {wanted}", got)


def _check_same(where: str, name: str, found: Tensor, expected: Tensor) -> None:
    """Test that a result is the expected one, but for rounding."""
    if not isinstance(found, Tensor):
        raise _broken(where, f"{name} to be a tensor", _described(found))
    _check_like(where, name, found, expected)
    difference = (found - expected).detach().abs().nan_to_num(nan=math.inf)
    bound = torch.finfo(found.dtype).eps ** 0.6 * max(1.0, float(expected.detach().abs().max()))
    worst = float(difference.max())
    if worst > bound:
        place = [int(n) for n in torch.unravel_index(difference.argmax(), found.shape)]
        raise _broken(where, f"{name} that single steps give", f"one {worst:.2g} away at {place}")


def _check_unchanged(where: str, given: tuple[Tensor, ...], before: tuple[Tensor, ...]) -> None:
    names = "the input", *_state_names("the", len(given) - 1)
    for name, tensor, original in zip(names, given, before, strict=True):
        if not torch.equal(tensor, original):
            raise _broken(where, f"{name} it is given to stay as it is", "it changed")


def _gradients(results: Sequence[Tensor], leaves: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    """The gradients of the results' sum under fixed random weights; None where none arrives."""
    generator = torch.Generator().manual_seed(1)
    total: Any = sum(
        (result * torch.randn(result.shape, generator=generator).to(result)).sum()
        for result in results
    )
    if not total.requires_grad:
        return (None,) * len(leaves)
    return torch.autograd.grad(total, leaves, allow_unused=True)
