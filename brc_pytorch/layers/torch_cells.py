"""Torch's own cells over a sequence: by our operator where its kernels can run, else by torch's.

Our kernels compute a GRU and an LSTM; torch's, which every device and dtype has, these and the
plain RNN.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from brc_pytorch.layers.form import State, joined, parts
from brc_pytorch.ops.backends import kernels_compute
from brc_pytorch.ops.entry import scan, scan_layers


class TorchCell:
    """A cell of torch's kind, known by its parameters.

    Attributes:
        kernel: the function of torch that runs it over a sequence.
        recurrence: what our operator calls it, None where it does not know it.
        weights: weight_ih (G * H, I), weight_hh (G * H, H); and bias_ih, bias_hh, each (G * H), or
            none; G is 3 for a GRU, 4 for an LSTM, 1 for a plain RNN.
        training: whether a backward pass may follow.
    """

    def __init__(
        self,
        kernel: Callable[..., Any],
        recurrence: str | None,
        weights: Sequence[Tensor],
        training: bool,
    ) -> None:
        self.kernel = kernel
        self.recurrence = recurrence
        self.weights = weights
        self.training = training

    def scan(
        self,
        input: Tensor,
        state: State,
        lengths: Tensor | None,
        reverse: bool,
        resets: Tensor | None = None,
        reset_state: State | None = None,
    ) -> tuple[Tensor, State]:
        """All steps of a sequence.

        Args:
            input: x_1 to x_T, (T, B, I).
            state: the state before the first step, (B, H), an LSTM's a pair of these.
            lengths: how many steps of each row are data, (B) integers, or None for all T.
            reverse: go from each row's last step to its first.
            resets: where segments begin, (T, B) booleans, or None for one of all steps; only for a
                recurrence that our operator knows.
            reset_state: the state that segments start from, like ``state``, None for zero.

        Returns:
            The hidden states (T, B, H), zero where a row has ended, and each row's last state.
        """
        if self.recurrence is None or (
            resets is None and not kernels_compute(self.recurrence, input)
        ):
            return self._scan_by_torch(input, state, lengths, reverse)
        weight_ih, weight_hh, *biases = self.weights
        parameters = [weight_ih.t(), weight_hh.t()]
        if biases:
            parameters.append(torch.cat(biases))
        reset_states = None if reset_state is None else parts(reset_state)
        options = lengths, reverse, resets, reset_states
        output, last = scan(self.recurrence, input, parts(state), parameters, *options)
        return output, joined(last)

    @staticmethod
    def scan_layers(
        cells: "Sequence[TorchCell]",
        input: Tensor,
        state: State,
        lengths: Tensor | None,
        resets: Tensor | None = None,
        reset_states: State | None = None,
    ) -> tuple[Tensor, State] | None:
        """All steps of a sequence through cells of one kind, each fed by the one before.

        Args:
            cells: L cells.
            input: x_1 to x_T of the first, (T, B, I).
            state: those of all before the first step, (L, B, H), or a pair of these.
            lengths: how many steps of each row are data, (B) integers, or None for all T.
            resets: where segments begin, (T, B) booleans, or None for one of all steps.
            reset_states: the states that segments start from, like ``state``, None for zero.

        Returns:
            The last cell's hidden states (T, B, H) and the last states of all; or None where
            nothing is gained over :meth:`scan` of each.
        """
        recurrence = cells[0].recurrence
        if recurrence is None or not kernels_compute(recurrence, input):
            return None
        layers = [(cell.weights[0].t(), cell.weights[1].t(), *cell.weights[2:]) for cell in cells]
        reset = None if reset_states is None else parts(reset_states)
        found = scan_layers(recurrence, input, parts(state), layers, lengths, resets, reset)
        return None if found is None else (found[0], joined(found[1]))

    def _scan_by_torch(
        self, input: Tensor, state: State, lengths: Tensor | None, reverse: bool
    ) -> tuple[Tensor, State]:
        sequence = _reverse(input, lengths) if reverse else input
        h_0 = joined(tuple(part.unsqueeze(0) for part in parts(state)))
        # One layer, no dropout, one direction: the network is built above, out of any cells.
        options = len(self.weights) > 2, 1, 0.0, self.training, False  # noqa: PLR2004 - biases
        output, last = run_by_torch(self.kernel, self.weights, options, sequence, h_0, lengths)
        if reverse:
            output = _reverse(output, lengths)
        return output, joined(tuple(part.squeeze(0) for part in parts(last)))


def run_by_torch(
    kernel: Callable[..., Any],
    weights: Sequence[Tensor],
    options: tuple[bool, int, float, bool, bool],
    input: Tensor,
    state: State,
    lengths: Tensor | None,
) -> tuple[Tensor, State]:
    """Run a network by one of torch's kernels.

    Args:
        kernel: ``torch.gru`` or its like.
        weights: those of all layers and directions, in torch's order.
        options: whether there are biases, how many layers, dropout, whether to drop, whether there
            are two directions.
        input: x_1 to x_T, (T, B, I).
        state: the states before the first step, (layers * directions, B, H), or a pair of these.
        lengths: how many steps of each row are data, (B) integers, or None for all T.

    Returns:
        The last layer's hidden states, zero where a row has ended, and the last states of all.
    """
    given = [*weights], *options
    if lengths is None:
        output, *last = kernel(input, state, *given, False)
        return output, joined(tuple(last))
    packed = pack_padded_sequence(input, lengths.cpu(), enforce_sorted=False)
    data, batch_sizes, order, inverse = packed
    assert order is not None  # noqa: S101 - enforce_sorted=False sorts
    assert inverse is not None  # noqa: S101 - and knows the way back
    state = joined(tuple(part.index_select(1, order) for part in parts(state)))
    data, *last = kernel(data, batch_sizes, state, *given)
    packed = PackedSequence(data, batch_sizes, order, inverse)
    output, _ = pad_packed_sequence(packed, total_length=len(input))
    return output, joined(tuple(part.index_select(1, inverse) for part in last))


def torch_cell(cell: nn.Module) -> TorchCell | None:
    """What runs one of torch's cells over a sequence.

    Args:
        cell: any cell.

    Returns:
        It, or None for a cell that is not torch's, or has a ``forward`` of its own.
    """
    forward = type(cell).forward
    kernel: Callable[..., Any]
    recurrence = None
    if forward is nn.GRUCell.forward:
        kernel, recurrence = torch.gru, "gru"
    elif forward is nn.LSTMCell.forward:
        kernel, recurrence = torch.lstm, "lstm"
    elif forward is nn.RNNCell.forward:
        kernel = torch.rnn_tanh if cell.nonlinearity == "tanh" else torch.rnn_relu
    else:
        return None
    weights: list[Any] = [cell.weight_ih, cell.weight_hh]
    if cell.bias:
        weights += [cell.bias_ih, cell.bias_hh]
    return TorchCell(kernel, recurrence, weights, cell.training)


def _reverse(sequence: Tensor, lengths: Tensor | None) -> Tensor:
    """Turn each row's data around in time, (T, B, *); the padding stays where it is."""
    if lengths is None:
        return sequence.flip(0)
    lengths = lengths.to(sequence.device)
    steps = torch.arange(len(sequence), device=sequence.device).unsqueeze(1)
    source = torch.where(steps < lengths, lengths - 1 - steps, steps)
    return sequence.gather(0, source.unsqueeze(-1).expand_as(sequence))
