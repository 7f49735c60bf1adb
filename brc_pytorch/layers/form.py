"""What users hand to a network, in any form, to the one form that runs, and back.

Users hand in a batch, (T, B, I) or (B, T, I), one sequence (T, I), or a ``PackedSequence``. What
runs is a sequence (T, B, I), a state (cells, B, H), or a pair of these, and lengths (B) where rows
differ in them. The rows of a packed sequence stay in its own order, longest first.

All checks of a network's arguments are here. Each network has its words for what can be wrong.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple, overload

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from brc_pytorch.ops.operator import mixes_dtypes

Input = Tensor | PackedSequence
State = Tensor | tuple[Tensor, ...]
Fault = Literal[
    "state kind",
    "rank",
    "packed rank",
    "state rank",
    "dtype",
    "device",
    "features",
    "steps",
    "state shape",
    "state dtype",
    "state device",
]
# For each fault the error to raise and its text, in which names in braces stand for the facts.
Words = Mapping[Fault, tuple[type[Exception], str]]

_SINGLE, _BATCHED = 2, 3  # dimensions of one sequence, (T, I), and of a batch of them
_PAIR = 2  # parts of a state that is a pair


class Expected(NamedTuple):
    """What a network takes.

    Attributes:
        network: the name of its type.
        mode: its label; the states of ``"LSTM"`` are pairs.
        words: what it says of other input.
        batch_first: whether a batch is (B, T, I) instead of (T, B, I).
        input_size: I, None for any.
        hidden_size: H.
        cells: layers * directions.
        weight: a tensor whose dtype and device the input must have, None for any.
        initial: the states to start from, (cells, H), where none is given; None for zeros.
    """

    network: str
    mode: str
    words: Words
    batch_first: bool
    input_size: int | None
    hidden_size: int
    cells: int
    weight: Tensor | None
    initial: Tensor | None

    def error(self, fault: Fault, **facts: object) -> Exception:
        """The error that says what is wrong."""
        kind, text = self.words[fault]
        return kind(text.format(network=self.network, mode=self.mode, **facts))


def enter(
    input: Input, state: State | None, resets: Input | None, expected: Expected
) -> tuple[Tensor, State, Tensor | None, Tensor | None]:
    """Check the arguments of a network and bring them to the form that runs.

    Args:
        input: a batch, one sequence, or a packed sequence.
        state: the states before the first step, or None for those to start from.
        resets: where segments begin, in the form of the input without its features, or None.
        expected: what the network takes.

    Returns:
        The sequence (T, B, I), the state (cells, B, H) or a pair, the lengths (B) or None, and the
        resets (T, B) or None.

    Raises:
        TypeError: the input is no tensor and no packed sequence, or the resets are not of its form.
        ValueError: the resets do not fit the input.
        Exception: what ``expected.words`` has for the fault that was found.
    """
    given = () if state is None else _checked_parts(state, expected)
    lengths = order = None
    if isinstance(input, PackedSequence):
        data, batch_sizes, order, _ = input
        if data.dim() != _SINGLE:
            raise expected.error("packed rank", shape=tuple(data.shape), rank=data.dim())
        _check_input(data, expected)
        sequence, lengths = pad_packed_sequence(PackedSequence(data, batch_sizes))
    elif isinstance(input, Tensor):
        _check_ranks(input, given, expected)
        _check_input(input, expected)
        if input.dim() == _SINGLE:
            sequence = input.unsqueeze(1)
            given = tuple(part.unsqueeze(1) for part in given)
        else:
            sequence = input.transpose(0, 1) if expected.batch_first else input
        if sequence.shape[0] == 0:
            raise expected.error("steps")
    else:
        raise TypeError(
            f"input: expected a tensor or a PackedSequence, got a {type(input).__name__}"
        )
    if resets is not None:
        resets = _enter_resets(resets, input, expected)
    if not given:
        return sequence, _first_state(sequence, expected), lengths, resets
    _check_states(given, sequence, expected)
    if order is not None:
        given = tuple(part.index_select(1, order) for part in given)
    return sequence, joined(given), lengths, resets


def _enter_resets(resets: Input, input: Input, expected: Expected) -> Tensor:
    """Check resets, and bring them to (T, B)."""
    if isinstance(input, PackedSequence) and isinstance(resets, PackedSequence):
        _check_resets(resets.data, input.data)
        _check_packed_alike(resets, input)
        padded, _ = pad_packed_sequence(PackedSequence(resets.data, resets.batch_sizes))
        return padded
    if isinstance(input, Tensor) and isinstance(resets, Tensor):
        _check_resets(resets, input)
        if resets.dim() == 1:
            return resets.unsqueeze(1)
        return resets.transpose(0, 1) if expected.batch_first else resets
    form = "tensor" if isinstance(input, Tensor) else "PackedSequence"
    raise TypeError(f"resets: expected a {form}, as input is, got a {type(resets).__name__}")


def _check_resets(resets: Tensor, input: Tensor) -> None:
    if resets.dtype != torch.bool:
        raise ValueError(f"resets: expected dtype torch.bool, got {resets.dtype}")
    if resets.device != input.device:
        raise ValueError(
            f"resets: expected device {input.device}, that of input, got {resets.device}"
        )
    if resets.shape != input.shape[:-1]:
        raise ValueError(
            f"resets: expected shape {tuple(input.shape[:-1])}, that of input without its "
            f"features, got {tuple(resets.shape)}"
        )


def _check_packed_alike(resets: PackedSequence, input: PackedSequence) -> None:
    """Check that the rows of both have the same lengths and the same order."""
    if not torch.equal(resets.batch_sizes, input.batch_sizes):
        raise ValueError(
            "resets: expected rows as long as those of input, batch_sizes "
            f"{input.batch_sizes.tolist()}, got {resets.batch_sizes.tolist()}"
        )
    orders = [
        None if packed.sorted_indices is None else packed.sorted_indices.tolist()
        for packed in (resets, input)
    ]
    if orders[0] != orders[1]:
        raise ValueError(
            f"resets: expected rows in the order of those of input, sorted_indices {orders[1]}, "
            f"got {orders[0]}"
        )


def parts(state: State) -> tuple[Tensor, ...]:
    """The tensors of a state, hidden state first."""
    return (state,) if isinstance(state, Tensor) else tuple(state)


def joined(parts: tuple[Tensor, ...]) -> State:
    """A state out of its tensors, as a cell takes it."""
    return parts[0] if len(parts) == 1 else parts


def leave_sequence(
    output: Tensor, input: Input, lengths: Tensor | None, batch_first: bool
) -> Tensor | PackedSequence:
    """Give an output (T, B, *) the form that the input had."""
    if isinstance(input, PackedSequence):
        assert lengths is not None  # noqa: S101 - enter made them
        data, batch_sizes, *_ = pack_padded_sequence(output, lengths)
        return PackedSequence(data, batch_sizes, input.sorted_indices, input.unsorted_indices)
    if input.dim() == _SINGLE:
        return output.squeeze(1)
    return output.transpose(0, 1) if batch_first else output


@overload
def leave_state(state: Tensor, input: Input) -> Tensor: ...
@overload
def leave_state(state: State, input: Input) -> State: ...
def leave_state(state: State, input: Input) -> State:
    """Give a state (cells, B, H), or a pair, the form that the input had."""
    if not isinstance(state, Tensor):
        return tuple(leave_state(part, input) for part in state)
    if isinstance(input, PackedSequence):
        inverse = input.unsorted_indices
        return state if inverse is None else state.index_select(1, inverse)
    return state.squeeze(1) if input.dim() == _SINGLE else state


def leave_gates(gate: Tensor, input: Input, batch_first: bool) -> Tensor:
    """Give gates (cells, T, B, H) the form that the input had, or would have if it were padded."""
    if isinstance(input, PackedSequence):
        if input.unsorted_indices is not None:
            gate = gate.index_select(2, input.unsorted_indices)
    elif input.dim() == _SINGLE:
        return gate.squeeze(2)
    return gate.transpose(1, 2) if batch_first else gate


def parts_of_kind(state: object, count: int) -> tuple[Tensor, ...] | None:
    """The parts of a state: of one tensor (``count`` 1) or of so many; None of anything else."""
    if isinstance(state, Tensor):
        return (state,) if count == 1 else None
    if (
        count > 1
        and isinstance(state, tuple | list)
        and len(state) == count
        and all(isinstance(part, Tensor) for part in state)
    ):
        return tuple(state)
    return None


def _checked_parts(state: State, expected: Expected) -> tuple[Tensor, ...]:
    count = _PAIR if expected.mode == "LSTM" else 1
    found = parts_of_kind(state, count)
    if found is not None:
        return found
    raise expected.error(
        "state kind",
        expected="one tensor h_0" if count == 1 else "a pair (h_0, c_0)",
        got=_described(state),
    )


def _described(state: object) -> str:
    if isinstance(state, Tensor):
        return "one tensor"
    size = f" of {len(state)}" if isinstance(state, tuple | list) else ""
    return f"a {type(state).__name__}{size}"


def _check_ranks(input: Tensor, states: tuple[Tensor, ...], expected: Expected) -> None:
    rank = input.dim()
    if rank not in (_SINGLE, _BATCHED):
        form = "(B, T, I)" if expected.batch_first else "(T, B, I)"
        raise expected.error("rank", form=form, shape=tuple(input.shape), rank=rank)
    for part in states:
        if part.dim() != rank:
            raise expected.error(
                "state rank",
                form="batched" if rank == _BATCHED else "unbatched",
                rank=rank,
                shape=tuple(part.shape),
                state_rank=part.dim(),
            )


def _check_input(input: Tensor, expected: Expected) -> None:
    weight, size = expected.weight, expected.input_size
    if weight is not None:
        if input.dtype != weight.dtype and not mixes_dtypes(input.device):
            raise expected.error("dtype", dtype=input.dtype, weight=weight.dtype)
        if input.device != weight.device:
            raise expected.error("device", device=input.device, weight=weight.device)
    if size is not None and input.shape[-1] != size:
        raise expected.error(
            "features", size=size, shape=tuple(input.shape), features=input.shape[-1]
        )


def _check_states(states: tuple[Tensor, ...], sequence: Tensor, expected: Expected) -> None:
    shape = (expected.cells, sequence.shape[1], expected.hidden_size)
    for part in states:
        if part.shape != shape:
            raise expected.error(
                "state shape", expected=shape, shape=tuple(part.shape), sizes=list(part.shape)
            )
        if part.dtype != sequence.dtype and not mixes_dtypes(sequence.device):
            raise expected.error("state dtype", dtype=part.dtype, input=sequence.dtype)
        if part.device != sequence.device:
            raise expected.error("state device", device=part.device, input=sequence.device)


def _first_state(sequence: Tensor, expected: Expected) -> State:
    batch = sequence.shape[1]
    if expected.initial is not None:
        return expected.initial.unsqueeze(1).expand(-1, batch, -1)
    zeros = sequence.new_zeros(expected.cells, batch, expected.hidden_size)
    return (zeros, zeros) if expected.mode == "LSTM" else zeros
