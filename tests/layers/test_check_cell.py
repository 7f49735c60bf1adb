"""A cell that breaks its contract is told so, in words that name what is wrong."""

import re

import pytest
import torch
from torch import nn

from brc_pytorch import (
    BistableRecurrentCell,
    DoubleCell,
    NeuromodulatedBistableRecurrentCell,
    PeepholeLSTMCell,
    check_cell,
)
from brc_pytorch.layers.scan import scan_by_steps


class Leaky(nn.Module):
    """Keeps the contract; each class below breaks one rule of it."""

    input_size, hidden_size, state_size = 3, 4, 4

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 4)
        self.decay = nn.Parameter(torch.zeros(4))

    def forward(self, input_t, state):
        return torch.sigmoid(self.decay) * state + torch.tanh(self.linear(input_t))

    def scan(self, input, state, lengths, reverse, resets=None, reset_state=None):
        return scan_by_steps(self, input, state, lengths, reverse, resets, reset_state)

    @staticmethod
    def scan_layers(cells, input, states, lengths, resets=None, reset_states=None):
        last = []
        for number, cell in enumerate(cells):
            reset = None if reset_states is None else reset_states[number]
            input, state = cell.scan(input, states[number], lengths, False, resets, reset)
            last.append(state)
        return input, torch.stack(last)

    def gates(self, input, output, state, lengths, reverse, resets=None, reset_state=None):
        drive = torch.tanh(self.linear(input))
        if lengths is not None:
            drive = drive * (torch.arange(len(input)).unsqueeze(1) < lengths).unsqueeze(-1)
        return (drive,)


class Square(Leaky):
    input_size = hidden_size = state_size = 4

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)


class Pair(nn.Module):
    input_size, hidden_size, state_size = 3, 4, (4, 4)

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 4)

    def forward(self, input_t, state):
        h, c = state
        c = 0.9 * c + self.linear(input_t)
        return torch.tanh(c + 0.1 * h), c

    def scan(self, input, state, lengths, reverse, resets=None, reset_state=None):
        return scan_by_steps(self, input, state, lengths, reverse, resets, reset_state)


@pytest.mark.parametrize(
    ("cell", "methods"),
    [
        (BistableRecurrentCell(3, 4), ["scan", "scan_layers", "gates"]),
        (BistableRecurrentCell(4, 4, candidate_bias=True), ["scan", "scan_layers", "gates"]),
        (NeuromodulatedBistableRecurrentCell(4, 4, bias=False), ["scan", "scan_layers", "gates"]),
        (nn.GRUCell(3, 4), []),
        (nn.LSTMCell(3, 4), []),
        (PeepholeLSTMCell(3, 4), []),
        (Leaky(), ["scan", "scan_layers", "gates"]),
        (Square(), ["scan", "scan_layers", "gates"]),
        (Pair(), ["scan"]),
        (DoubleCell(nn.LSTMCell(3, 2), nn.LSTMCell(3, 3)), ["scan"]),
        (DoubleCell(nn.GRUCell(3, 2), BistableRecurrentCell(3, 3)), ["scan"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_cell_that_keeps_the_contract_passes(cell, methods):
    before = [parameter.clone() for parameter in cell.parameters()]
    random_state = torch.get_rng_state()
    assert check_cell(cell) == ["forward", *methods]
    assert torch.equal(torch.get_rng_state(), random_state)
    for parameter, value in zip(cell.parameters(), before, strict=True):
        assert torch.equal(parameter, value)
        assert parameter.grad is None
    assert cell.training


def test_sizes_can_be_given():
    class Sizeless(Leaky):
        input_size = hidden_size = None

    with pytest.raises(TypeError, match="input_size: expected an int"):
        check_cell(Sizeless())
    with pytest.raises(TypeError, match="hidden_size: expected an int"):
        check_cell(Sizeless(), 3)
    assert check_cell(Sizeless(), 3, 4)[0] == "forward"
    with pytest.raises(ValueError, match="hidden_size: expected at least 1, got 0"):
        check_cell(Sizeless(), 3, 0)
    with pytest.raises(TypeError, match=r"cell: expected a torch.nn.Module, got a function"):
        check_cell(lambda x, h: x + h)


BROKEN = []


def broken(*words):
    """Note a cell that breaks a rule, and what its error must say."""

    def note(kind):
        BROKEN.append(pytest.param(kind, words, id=kind.__name__))
        return kind

    return note


@broken("forward: expected a result, got RuntimeError", "shapes cannot be multiplied")
class RaisesInForward(Leaky):
    def forward(self, input_t, state):
        return self.linear(torch.cat((input_t, state), -1))


@broken("forward: expected the state to be one tensor, got a tuple of 2", "state_size")
class ReturnsAPair(Leaky):
    def forward(self, input_t, state):
        return state, state


@broken("forward: expected the state to be a pair of tensors, got one tensor", "state_size")
class ReturnsOneOfAPair(Pair):
    def forward(self, input_t, state):
        return state[0] + self.linear(input_t)


@broken("forward: expected the next state of shape (3, 4), got (3, 3)")
class ReturnsAnotherShape(Leaky):
    def forward(self, input_t, state):
        return super().forward(input_t, state)[:, :3]


@broken("forward: expected the next state of dtype torch.float64, got torch.float32")
class ReturnsFloat32(Leaky):
    def forward(self, input_t, state):
        return super().forward(input_t, state).float()


@broken("forward: expected the next state of device cpu, got meta")
class ReturnsOnAnotherDevice(Leaky):
    def forward(self, input_t, state):
        return super().forward(input_t, state).to("meta")


@broken("forward: expected the state it is given to stay as it is, got it changed")
class ChangesItsState(Leaky):
    def forward(self, input_t, state):
        state.data.mul_(0.9)
        return super().forward(input_t, state)


@broken("forward, called a second time: expected the next state")
class RemembersCalls(Leaky):
    calls = 0

    def forward(self, input_t, state):
        self.calls += 1
        return super().forward(input_t, state) + self.calls


@broken("forward, with row 0 alone: expected the next state")
class MixesRows(Leaky):
    def forward(self, input_t, state):
        return super().forward(input_t, state - state.mean(0))


@broken("forward: expected a gradient of state, got none")
class CutsOffTheState(Leaky):
    def forward(self, input_t, state):
        return super().forward(input_t, state.detach())


@broken("forward: expected a gradient of input_t, got none")
class CutsOffEverything(Leaky):
    def forward(self, input_t, state):
        with torch.no_grad():
            return super().forward(input_t, state)


@broken("scan: expected the output and the last state, got one tensor")
class ScanReturnsTheOutput(Leaky):
    def scan(self, *arguments):
        return super().scan(*arguments)[0]


@broken("scan: expected a result, got TypeError", "takes 4 positional arguments but 5 were given")
class ScanLacksAnArgument(Leaky):
    def scan(self, input, state, lengths):
        return super().scan(input, state, lengths, False)


@broken("scan: expected the output that single steps give", "away at [5, ")
class ScanForgetsTheLastStep(Leaky):
    def scan(self, *arguments):
        output, last = super().scan(*arguments)
        return output.index_fill(0, torch.tensor(5), 0), last


@broken("scan: expected the output that single steps give")
class ScanForgetsTheBias(Leaky):
    def __init__(self):
        super().__init__()
        nn.init.zeros_(self.linear.bias)  # so that only other values show it

    def scan(self, input, *arguments):
        unbiased = Leaky().to(input.dtype)
        unbiased.decay = self.decay
        unbiased.linear.weight = self.linear.weight
        nn.init.zeros_(unbiased.linear.bias)
        return unbiased.scan(input, *arguments)


@broken("scan with reverse=True: expected the output that single steps give")
class ScanIgnoresReverse(Leaky):
    def scan(self, input, state, lengths, reverse):
        return super().scan(input, state, lengths, False)


@broken("scan with lengths=[6, 4, 1]: expected the output that single steps give")
class ScanIgnoresLengths(Leaky):
    def scan(self, input, state, lengths, reverse):
        return super().scan(input, state, None, reverse)


@broken("scan with lengths=[6, 4, 1]: expected the last state that single steps give")
class ScanReturnsTheStateAfterAllSteps(Leaky):
    def scan(self, input, state, lengths, reverse):
        output, _ = super().scan(input, state, lengths, reverse)
        return output, super().scan(input, state, None, reverse)[1]


@broken("scan with lengths=[6, 4, 1], reverse=True: expected the output that single steps give")
class ScanBeginsInThePadding(Leaky):
    def scan(self, input, state, lengths, reverse):
        if not reverse:
            return super().scan(input, state, lengths, reverse)
        output, last = super().scan(input, state, None, reverse)
        if lengths is not None:
            output = output * (torch.arange(len(input)).unsqueeze(1) < lengths).unsqueeze(-1)
        return output, last


@broken("scan with resets: expected the output that single steps give")
class ScanIgnoresResets(Leaky):
    def scan(self, input, state, lengths, reverse, resets=None, reset_state=None):
        return super().scan(input, state, lengths, reverse)


@broken("scan with resets, reset_state: expected the output that single steps give")
class ScanIgnoresTheResetState(Leaky):
    def scan(self, input, state, lengths, reverse, resets=None, reset_state=None):
        return super().scan(input, state, lengths, reverse, resets)


@broken("scan with reverse=True, resets: expected the output that single steps give")
class ScanBeginsAStepTooEarlyInReverse(Leaky):
    def scan(self, input, state, lengths, reverse, resets=None, reset_state=None):
        if reverse and resets is not None:
            resets = resets.roll(-1, 0)
        return super().scan(input, state, lengths, reverse, resets, reset_state)


@broken("scan: expected the gradient of state 0 that single steps give")
class ScanCutsOffTheState(Leaky):
    def scan(self, input, state, *arguments):
        return super().scan(input, state.detach(), *arguments)


@broken("scan: expected the gradient of decay that single steps give")
class ScanCutsOffAParameter(Leaky):
    def scan(self, *arguments):
        untrained = Leaky().to(self.decay.dtype)
        untrained.linear = self.linear
        untrained.decay = nn.Parameter(self.decay.detach(), requires_grad=False)
        return untrained.scan(*arguments)


@broken("scan: expected the gradient of input that single steps give")
class ScanCutsOffTheInput(Leaky):
    def scan(self, input, *arguments):
        return super().scan(input.detach(), *arguments)


@broken("scan, under no_grad: expected the output that single steps give")
class ScanIsWrongWithoutGradients(Leaky):
    def scan(self, *arguments):
        output, last = super().scan(*arguments)
        return output if torch.is_grad_enabled() else output + 1, last


@broken("scan: expected the input it is given to stay as it is, got it changed")
class ScanChangesItsInput(Leaky):
    def scan(self, input, *arguments):
        result = super().scan(input.clone(), *arguments)
        input.data.zero_()
        return result


@broken("scan: expected the output that single steps give")
class ScanReadsDenseMemory(Leaky):
    def scan(self, input, *arguments):
        dense = input.as_strided(input.shape, torch.empty(input.shape).stride())
        return super().scan(dense, *arguments)


@broken("scan: expected the last state of dtype torch.float64, got torch.float32")
class ScanReturnsFloat32(Leaky):
    def scan(self, *arguments):
        output, last = super().scan(*arguments)
        return output, last.float()


@broken("scan: expected the state to be a pair of tensors, got one tensor")
class ScanReturnsOneOfAPair(Pair):
    def scan(self, *arguments):
        output, last = super().scan(*arguments)
        return output, last[0]


@broken("scan: expected the last state c that single steps give")
class ScanMixesUpAPair(Pair):
    def scan(self, *arguments):
        output, (h, _) = super().scan(*arguments)
        return output, (h, h)


@broken("scan with resets: expected the output that single steps give")
class ScanResetsTheFirstOfAPairAlone(Pair):
    def scan(self, input, state, lengths, reverse, resets=None, reset_state=None):
        if resets is None:
            return super().scan(input, state, lengths, reverse)
        h, c = state
        _, (_, kept) = super().scan(input, state, lengths, reverse)
        return super().scan(input, (h, c), lengths, reverse, resets, (0 * h, kept))


@broken("scan_layers: expected the output that single steps give")
class LayersRunTheFirstAlone(Square):
    @staticmethod
    def scan_layers(cells, input, states, *arguments):
        _, last = Leaky.scan_layers(cells, input, states, *arguments)
        return Leaky.scan_layers(cells[:1], input, states, *arguments)[0], last


@broken("scan_layers with lengths=[6, 4, 1]: expected the output that single steps give")
class LayersIgnoreLengths(Leaky):
    @staticmethod
    def scan_layers(cells, input, states, lengths):
        return Leaky.scan_layers(cells, input, states, None)


@broken("gates with lengths=[6, 4, 1]: expected gate 0 that single steps give")
class GatesIgnoreLengths(Leaky):
    def gates(self, input, output, state, lengths, reverse):
        return super().gates(input, output, state, None, reverse)


@broken("gates with reverse=True: expected gate 0 that single steps give")
class GatesIgnoreReverse(Leaky):
    def gates(self, input, output, state, lengths, reverse):
        before = torch.cat((state.unsqueeze(0), output[:-1]))
        if lengths is not None:
            before = before * (torch.arange(len(input)).unsqueeze(1) < lengths).unsqueeze(-1)
        return (before,)


@broken("gates: expected a tuple, got one tensor")
class GatesReturnATensor(Leaky):
    def gates(self, *arguments):
        return super().gates(*arguments)[0]


@pytest.mark.parametrize(("kind", "words"), BROKEN)
def test_a_broken_rule_is_named(kind, words):
    with pytest.raises(ValueError, match=re.escape(f"{kind.__name__}.{words[0]}")) as error:
        check_cell(kind())
    for each in words[1:]:
        assert each in str(error.value)


def test_what_a_network_would_not_use_is_not_tested():
    class OwnStep(BistableRecurrentCell):
        """Its network goes step by step, whatever scan it inherits."""

        def forward(self, input_t, hidden_state=None):
            return 0.5 * super().forward(input_t, hidden_state)

    assert check_cell(OwnStep(3, 4)) == ["forward", "gates"]


def test_dtypes_can_be_chosen():
    check_cell(Leaky(), dtypes=[torch.bfloat16])
    with pytest.raises(ValueError, match=r"got torch\.float32"):
        check_cell(ReturnsFloat32(), dtypes=[torch.bfloat16])
    assert check_cell(ReturnsFloat32(), dtypes=[torch.float32])
