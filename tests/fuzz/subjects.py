"""What is called: an operator, a network or a cell, and the same as a loop of single steps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from brc_pytorch import BRC, NBRC, MultiLayerBase, PeepholeLSTMCell, ops
from brc_pytorch.layers import BistableRecurrentCell, NeuromodulatedBistableRecurrentCell
from tests.fuzz.call import Call
from tests.fuzz.tensors import draw_lengths, options
from tests.layers.cells import LeakyCell

Function = Callable[..., tuple[Tensor, ...]]
Step = Callable[[Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Subject:
    """A function of named tensors.

    Attributes:
        shapes: shape and scale of each of its arguments, by name.
        run: the code under test, a function of these tensors, by position; options by name take the
            place of the call's own.
        steps: what it must compute, from the cells' single steps alone.
    """

    shapes: dict[str, tuple[tuple[int, ...], float]]
    run: Function
    steps: Function


CELLS: dict[str, list[type[nn.Module]]] = {
    "GRU": [nn.GRUCell],
    "LSTM": [nn.LSTMCell],
    "RNN": [nn.RNNCell],
    "BRC": [BistableRecurrentCell],
    "nBRC": [NeuromodulatedBistableRecurrentCell],
    "peephole": [PeepholeLSTMCell],
    "leaky": [LeakyCell],
    "mixed": [NeuromodulatedBistableRecurrentCell, nn.GRUCell, BistableRecurrentCell],
}
MODES = {"peephole": "LSTM", "leaky": "RNN", "mixed": "RNN"}


def _call(
    module: nn.Module, parameters: dict[str, Tensor], *arguments: object, **options: object
) -> Any:
    """Call a module with these tensors for its parameters, also where functional_call cannot."""
    paths = [name.rpartition(".")[::2] for name in parameters]
    homes = [(module.get_submodule(path)._parameters, name) for path, name in paths]
    before = [home[name] for home, name in homes]
    try:
        for (home, name), tensor in zip(homes, parameters.values(), strict=True):
            home[name] = tensor
        return module(*arguments, **options)
    finally:
        for (home, name), parameter in zip(homes, before, strict=True):
            home[name] = parameter


def subject(call: Call) -> Subject:
    """What a call calls."""
    make = {"operator": _operator, "step": _step, "scan": _scan}
    return make.get(call.subject, _network)(call)


def _lengths(call: Call) -> list[int]:
    if not call.lengths:
        return [call.steps] * call.batch
    return [min(max(length, 0), call.steps) for length in draw_lengths(call)]


def over_time(
    layers: Sequence[Sequence[tuple[Step, bool]]],
    input: Tensor,
    states: Sequence[tuple[Tensor, ...]],
    lengths: list[int],
    anew: Sequence[tuple[Tensor, ...]] | None = None,
    resets: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Step through a sequence; only rows that have data at a step take part in it.

    Between step t - 1 and step t of a row that ``resets`` (T, B) mark lies a border: who crosses
    it, in either direction, goes on from another state.

    Args:
        layers: for each layer the step of each of its directions, and whether it goes backwards.
        input: (T, B, I).
        states: the first state of each layer and direction.
        lengths: how many steps of each row are data.
        anew: the states beyond a border, of each layer and direction.
        resets: where the borders are.

    Returns:
        The last layer's output (T, B, directions * H) and the parts of all last states.
    """
    last = []
    for directions in layers:
        outputs = []
        for step, reverse in directions:
            state = states[len(last)]
            output = [torch.zeros_like(state[0])] * len(input)
            for t in reversed(range(len(input))) if reverse else range(len(input)):
                rows = [row for row, length in enumerate(lengths) if t < length]
                border = t + 1 if reverse else t
                if resets is not None and border < len(input):
                    has_data = torch.tensor(
                        [border < length for length in lengths], dtype=torch.bool
                    )
                    crosses = (resets[border] & has_data).unsqueeze(-1)
                    pairs = zip(anew[len(last)], state, strict=True)
                    state = tuple(torch.where(crosses, new, old) for new, old in pairs)
                if len(rows) == len(lengths):
                    state = step(input[t], state)
                    output[t] = state[0]
                elif rows:
                    at = (torch.tensor(rows),)
                    new = step(input[t][at], tuple(part[at] for part in state))
                    state = tuple(old.index_put(at, n) for old, n in zip(state, new, strict=True))
                    output[t] = output[t].index_put(at, new[0])
            outputs.append(torch.stack(output))
            last.append(state)
        input = torch.cat(outputs, -1)
    return input, *(torch.stack(part) for part in zip(*last, strict=True))


def _operator(call: Call) -> Subject:
    hidden = call.hidden
    name = call.cell.lower()
    memory = (hidden, 2 * hidden) if name == "nbrc" else (2 * hidden,)
    shapes = {
        "input": ((call.steps, call.batch, call.inputs), 1.0),
        "h_0": ((call.batch, hidden), 0.5),
        "kernel": ((call.inputs, 3 * hidden), (1 + call.inputs) ** -0.5),
        "memory": (memory, (1 + hidden) ** -0.5),
    }
    if call.bias:
        shapes["bias"] = ((call.bias * hidden,), 0.5)
    if call.reset_state:
        shapes["reset_state"] = ((call.batch, hidden), 0.5)
    drawn = options(call)

    def run(*tensors: Tensor, **given: Tensor) -> tuple[Tensor, ...]:
        known = {**drawn, **given}
        if call.reset_state:
            *tensors, known["reset_state"] = tensors
        return getattr(ops, name)(*tensors, **known, reverse=call.reverse)

    def steps(input: Tensor, h_0: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        reset_state = torch.zeros_like(h_0)
        if call.reset_state:
            *parameters, reset_state = parameters
        given = parameters if call.bias else (*parameters, None)

        def step(input_t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (getattr(ops, f"{name}_step")(input_t, *state, *given),)

        borders = [(reset_state,)], drawn.get("resets")
        layers = [[(step, call.reverse)]]
        output, last = over_time(layers, input, [(h_0,)], _lengths(call), *borders)
        return output, last[0]

    return Subject(shapes, run, steps)


def _make_cells(call: Call) -> list[nn.Module]:
    kinds = CELLS[call.cell]
    width = call.hidden * (2 if call.bidirectional else 1)
    cells = []
    for layer in range(call.layers):
        kind = kinds[layer % len(kinds)]
        options = {}
        if kind in (BistableRecurrentCell, NeuromodulatedBistableRecurrentCell):
            options = {"bias": call.bias > 0, "candidate_bias": call.bias == 3}
        with torch.device("meta"):  # the call brings the parameters' values
            cells.append(kind(width if layer else call.inputs, call.hidden, **options))
    return cells


def _parameters(module: nn.Module) -> dict[str, tuple[tuple[int, ...], float]]:
    """The shapes of a module's parameters, and a scale that keeps its activity in bounds."""
    return {
        name: (tuple(p.shape), 0.5 if p.dim() == 1 else (1 + min(p.shape)) ** -0.5)
        for name, p in module.named_parameters()
    }


class _Steps(nn.Module):
    """A network's cells, stepped one by one."""

    def __init__(self, network: MultiLayerBase, call: Call) -> None:
        super().__init__()
        self.network = network
        self.call = call
        self.resets = options(call).get("resets")

    def forward(self, input: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        cells, call = self.network.cells, self.call
        zeros = input.new_zeros(len(cells), call.batch, call.hidden)
        initial = (zeros,) * (1 + (MODES.get(call.cell, call.cell) == "LSTM"))
        if hasattr(self.network, "initial_state"):
            initial = (self.network.initial_state.unsqueeze(1).expand_as(zeros),)
        state = state or initial

        def step_of(cell: nn.Module) -> Step:
            def step(input_t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
                new = cell(input_t, state if len(state) > 1 else state[0])
                return new if isinstance(new, tuple) else (new,)

            return step

        directions = 2 if call.bidirectional else 1
        steps = [(step_of(cell), at % directions == 1) for at, cell in enumerate(cells)]
        layers = [steps[at : at + directions] for at in range(0, len(steps), directions)]
        states, anew = (
            [tuple(part[at] for part in parts) for at in range(len(cells))]
            for parts in (state, initial)
        )
        return over_time(layers, input, states, _lengths(call), anew, self.resets)


def _make_network(call: Call) -> MultiLayerBase:
    options = {"batch_first": call.form == "batch_first", "bidirectional": call.bidirectional}
    if call.subject == "network":
        return {"BRC": BRC, "nBRC": NBRC}[call.cell](
            call.inputs,
            call.hidden,
            call.layers,
            call.bias > 0,
            device="meta",
            candidate_bias=call.bias == 3,
            learn_initial_state=(not call.state or call.resets != "") and call.seed % 2 == 0,
            **options,
        )
    mode = MODES.get(call.cell, call.cell)
    return MultiLayerBase(mode, _make_cells(call), call.hidden, return_sequences=True, **options)


def _enter(
    call: Call, input: Tensor, state: Sequence[Tensor]
) -> tuple[Tensor | PackedSequence, Sequence[Tensor]]:
    """Give (T, B, I) and the states the form that the call hands over."""
    if call.form == "single":
        return input.squeeze(1), [part.squeeze(1) for part in state]
    if call.form == "packed":
        return pack_padded_sequence(
            input, torch.tensor(_lengths(call)), enforce_sorted=False
        ), state
    return input.transpose(0, 1) if call.form == "batch_first" else input, state


def _enter_resets(call: Call, resets: Tensor | PackedSequence) -> Tensor | PackedSequence:
    """Give (T, B) the form that the call hands over."""
    if call.form == "single":
        return resets.squeeze(1)
    if call.form == "packed":
        return pack_padded_sequence(resets, torch.tensor(_lengths(call)), enforce_sorted=False)
    return resets.transpose(0, 1) if call.form == "batch_first" else resets


def _leave(
    call: Call, output: Tensor | PackedSequence, last: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Bring what comes back to (T, B, H) and states with a batch."""
    if call.form == "single":
        return output.unsqueeze(1), *(part.unsqueeze(1) for part in last)
    if call.form == "packed":
        output, _ = pad_packed_sequence(output, total_length=call.steps)
    return output.transpose(0, 1) if call.form == "batch_first" else output, *last


def _network(call: Call) -> Subject:
    module = _make_network(call)
    state_shape = ((len(module.cells), call.batch, call.hidden), 0.5)
    parts = ["h_0", "c_0"][: 1 + (module.mode == "LSTM")] if call.state else []
    of_module = _parameters(module)
    drawn = options(call)
    shapes = {
        "input": ((call.steps, call.batch, call.inputs), 1.0),
        **dict.fromkeys(parts, state_shape),
        **of_module,
    }

    def run(*tensors: Tensor, **given: Tensor | PackedSequence) -> tuple[Tensor, ...]:
        at = 1 + len(parts)
        named = {**drawn, **given}
        if "resets" in named:
            named["resets"] = _enter_resets(call, named["resets"])
        sequence, state = _enter(call, tensors[0], tensors[1:at])
        first = [tuple(state) if len(state) == 2 else state[0]] if state else []
        parameters = dict(zip(of_module, tensors[at:], strict=True))
        output, last = _call(module, parameters, sequence, *first, **named)
        return _leave(call, output, last if isinstance(last, tuple) else (last,))

    def steps(*tensors: Tensor) -> tuple[Tensor, ...]:
        at = 1 + len(parts)
        names = [f"network.{name}" for name in of_module]
        parameters = dict(zip(names, tensors[at:], strict=True))
        return _call(_Steps(module, call), parameters, *tensors[:at])

    return Subject(shapes, run, steps)


def _scan(call: Call) -> Subject:
    """A cell's own ``scan``."""
    (cell,) = _make_cells(call)
    of_module = _parameters(cell)
    shapes = {"input": ((call.steps, call.batch, call.inputs), 1.0)}
    if call.state:
        shapes["h_0"] = ((call.batch, call.hidden), 0.5)
    if call.reset_state:
        shapes["reset_state"] = ((call.batch, call.hidden), 0.5)
    at = len(shapes)
    shapes |= of_module

    class Scan(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = cell

        def forward(self, *given: Tensor, **named: Tensor) -> tuple[Tensor, ...]:
            state = given[1] if call.state else None
            if call.reset_state:
                named["reset_state"] = given[-1]
            return self.cell.scan(given[0], state, reverse=call.reverse, **named)

    scan = Scan()
    drawn = options(call)

    def named(tensors: Sequence[Tensor], prefix: str) -> dict[str, Tensor]:
        return dict(zip((prefix + name for name in of_module), tensors[at:], strict=True))

    def run(*tensors: Tensor, **given: Tensor) -> tuple[Tensor, ...]:
        return _call(scan, named(tensors, "cell."), *tensors[:at], **{**drawn, **given})

    def steps(*tensors: Tensor) -> tuple[Tensor, ...]:
        def step(input_t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (_call(cell, named(tensors, ""), input_t, *state),)

        zero = tensors[0].new_zeros(call.batch, call.hidden)
        h_0 = tensors[1] if call.state else zero
        borders = [(tensors[at - 1] if call.reset_state else zero,)], drawn.get("resets")
        layers = [[(step, call.reverse)]]
        output, last = over_time(layers, tensors[0], [(h_0,)], _lengths(call), *borders)
        return output, last[0]

    return Subject(shapes, run, steps)


def _step(call: Call) -> Subject:
    """One step of a cell; the state's leading dimensions broadcast with the input's."""
    (cell,) = _make_cells(call)
    of_module = _parameters(cell)
    leading = [(call.batch,), (call.batch, 1), (call.steps, call.batch), ()][call.seed % 4]
    of_state = leading if call.seed % 3 else (1,) * len(leading)
    shapes = {"input": ((*leading, call.inputs), 1.0)}
    names = ["h_0", "c_0"][: 1 + (call.cell == "peephole")] if call.state else []
    shapes |= dict.fromkeys(names, ((*of_state, call.hidden), 0.5))
    at = len(shapes)
    shapes |= of_module

    def run(*tensors: Tensor) -> tuple[Tensor, ...]:
        parameters = dict(zip(of_module, tensors[at:], strict=True))
        new = _call(cell, parameters, *tensors[:at])
        return new if isinstance(new, tuple) else (new,)

    return Subject(shapes, run, run)
