r"""How many of a network's stable states its inputs reach, and how to have it reach more.

The variability amongst attractors (VAA) of Lambrechts, De Geeter, Vecoven, Ernst and Drion,
"Warming up recurrent neural networks to maximise reachable multistability greatly improves
learning", Neural Networks 2023 (arXiv 2106.01001): sequences take the network to states, a constant
random input that is the same for all lets these settle for M steps, and what is left of their
variety is

.. math::
    \text{VAA} = \frac{1}{N} \sum_{i=1}^{N} \frac{1}{\#\{j : \|h_i - h_j\| < \varepsilon\}}

which is 1 where each of N sequences is remembered in an attractor of its own, and 1/N where all are
forgotten. Its differentiable form counts with a slope: with distances d of tanh(h),

.. math::
    \text{VAA}^* = \frac{1}{N} \sum_{i=1}^{N} \frac{1}{C_i}, \qquad
    C_i = \sum_{j=1}^{N} \left(1 - \frac{\max(d_{ij} - \varepsilon, 0)}{d_{ij} + 10^{-6}}\right)
"""

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from brc_pytorch.layers.double import DoubleCell
from brc_pytorch.layers.form import Input, State, joined, parts
from brc_pytorch.layers.multilayer_rnnbase import MultiLayerBase

_LEAST_DISTANCE = 1e-6
# A cell for each mode of torch's networks, and what else it is made with.
_CELLS_OF_TORCH: dict[str, tuple[Any, ...]] = {
    "GRU": (nn.GRUCell,),
    "LSTM": (nn.LSTMCell,),
    "RNN_TANH": (nn.RNNCell, "tanh"),
    "RNN_RELU": (nn.RNNCell, "relu"),
}
_STEPS_AT_A_TIME = 1000  # an LSTM or a GRU of torch's needs memory for the outputs of all


def vaa(states: Tensor, eps: float = 1e-4) -> Tensor:
    """The variability amongst states: the share of them that differ, 1/N to 1.

    Args:
        states: settled states of N sequences, (*, N, H).
        eps: Euclidean distance below which two are the same. Default: 1e-4.

    Returns:
        One number for each of the leading dimensions, (*).

    Example:
        >>> import torch
        >>> from brc_pytorch.analysis import vaa
        >>> vaa(torch.tensor([[0.0], [0.0], [1.0], [2.0]])).item()
        0.75
    """
    return (1 / (_distances(states) < eps).sum(-1)).mean(-1)


def soft_vaa(states: Tensor, eps: float = 1e-4) -> Tensor:
    """The differentiable form VAA* of :func:`vaa`, for training.

    Args:
        states: states of N sequences, (*, N, H).
        eps: distance of tanh(h) below which two states count as one. Default: 1e-4.

    Returns:
        One number for each of the leading dimensions, (*).
    """
    distances = _distances(torch.tanh(states))
    alike = 1 - torch.relu(distances - eps) / (distances + _LEAST_DISTANCE)
    return (1 / alike.sum(-1)).mean(-1)


def _distances(states: Tensor) -> Tensor:
    # Not by a product of matrices: that is inexact where states are near to one another.
    return torch.cdist(states, states, compute_mode="donot_use_mm_for_euclid_dist")


def last_states(network: nn.Module, input: Input, state: State | None = None) -> State:
    """The last states of all layers and directions, whatever the network itself returns.

    Args:
        network: ``BRC``, ``NBRC``, a ``MultiLayerBase``, or torch's ``GRU``, ``LSTM`` or ``RNN``.
        input: what it takes.
        state: the states to start from. Default: the network's own.

    Returns:
        (layers * directions, N, H), of an LSTM a pair of these.
    """
    if isinstance(network, MultiLayerBase) and not network.return_seq:
        network = copy.copy(network)  # which shares the cells
        network.return_seq = True
    last: State = network(input, state)[1]
    return last


def settle(
    network: nn.Module,
    input: Tensor,
    steps: int = 10_000,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The states in which sequences leave a network, after some steps of a constant input.

    Args:
        network: ``BRC``, ``NBRC``, a ``MultiLayerBase``, or torch's ``GRU``, ``LSTM`` or ``RNN``.
        input: N sequences in the form that the network takes, (T, N, I), or (N, T, I) with
            ``batch_first``.
        steps: M, how long the states are given to settle. Default: 10,000.
        generator: of the constant input, which is normal and one for all sequences. Default:
            torch's own.

    Returns:
        The states of each layer and direction, (layers * directions, N, H); of an LSTM h and c side
        by side, (layers * directions, N, 2H).

    Raises:
        ValueError: ``input`` is no batch of sequences, or ``steps`` is below 0.
    """
    _check_batch(input)
    if steps < 0:
        raise ValueError(f"steps: expected 0 or more, got {steps}")
    constant = torch.randn(input.shape[-1], generator=generator, dtype=input.dtype)
    constant = constant.to(input.device)
    time = 1 if network.batch_first else 0
    shape = [*input.shape]
    state = last_states(network, input)
    for first in range(0, steps, _STEPS_AT_A_TIME):
        shape[time] = min(_STEPS_AT_A_TIME, steps - first)
        state = last_states(network, constant.expand(shape), state)
    return state if isinstance(state, Tensor) else torch.cat(state, dim=-1)


def warmup(
    network: nn.Module,
    batches: Iterable[Tensor],
    target: float = 0.95,
    learning_rate: float = 1e-2,
    growth: int = 10,
    most_steps: int = 200,
    generator: torch.Generator | None = None,
) -> list[float]:
    """Train a network, before its task, to have many stable states that its inputs reach.

    One gradient step a batch (Adam) on (VAA* - target)^2, the mean over layers and directions. The
    sequences of a batch, each cut at a random step, bring the network to its states. From there
    each layer and direction settles for itself, as in the authors' code: under a constant normal
    input of its own, so that none can lean on what the layer below remembers. It settles for a
    random number of steps, 1 to ``most``, where ``most`` is 1 for the first batch, and for each
    further one ``growth`` more, up to ``most_steps``. That it is random matters: after many steps
    the states of a network that forgets differ by less than VAA* counts, and have no gradient. The
    article takes 100 batches of 32 sequences.

    Of a :class:`~brc_pytorch.DoubleCell` the first half is warmed up, and the second left as it is.

    Args:
        network: ``BRC``, ``NBRC``, ``GRU``, ``LSTM``, a ``MultiLayerBase``, or torch's ``GRU``,
            ``LSTM`` or ``RNN``; its parameters are changed.
        batches: inputs of the task, each a batch of sequences in the form that the network takes.
        target: the VAA* to reach. Default: 0.95.
        learning_rate: Adam's. Default: 0.01.
        growth: by how many steps the states may settle longer after each batch. Default: 10.
        most_steps: how many they settle at the most. Default: 200.
        generator: of the constant inputs, of the steps at which sequences are cut, and of the
            numbers of steps; on the CPU. Default: torch's own.

    Returns:
        VAA* at each batch, the mean over layers and directions, before its gradient step. It goes
        up and down with the number of steps.

    Raises:
        ValueError: a batch is no batch of sequences, the network has projections, or ``growth`` or
            ``most_steps`` is below 1.

    Source: Lambrechts et al. 2023, the warm-up procedure; code at github.com/glambrechts/warmup.
    """
    cells = _cells(network)
    warmed = [cell.first if isinstance(cell, DoubleCell) else cell for cell in cells]
    optimizer = torch.optim.Adam(nn.ModuleList(warmed).parameters(), learning_rate)
    for name, value in (("growth", growth), ("most_steps", most_steps)):
        if value < 1:
            raise ValueError(f"{name}: expected 1 or more, got {value}")
    reached = []
    for count, input in enumerate(batches):
        _check_batch(input)
        states = parts(last_states(network, _cut(input, bool(network.batch_first), generator)))
        most = min(1 + growth * count, most_steps)
        steps = int(torch.randint(1, most + 1, (), generator=generator))
        settled = [
            _settle_alone(cell, tuple(part[index] for part in states), steps, generator)
            for index, cell in enumerate(cells)
        ]
        variety = torch.stack([soft_vaa(of) for of in settled])
        optimizer.zero_grad()
        (variety - target).square().mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        reached.append(float(variety.detach().mean()))
    network.zero_grad()
    return reached


def _cut(input: Tensor, is_batch_first: bool, generator: torch.Generator | None) -> PackedSequence:
    """A batch whose sequences end at random steps."""
    time, row = (1, 0) if is_batch_first else (0, 1)
    lengths = torch.randint(1, input.shape[time] + 1, (input.shape[row],), generator=generator)
    return pack_padded_sequence(input, lengths, is_batch_first, enforce_sorted=False)


def _check_batch(input: Tensor) -> None:
    if input.dim() != 3:  # noqa: PLR2004 - (T, N, I)
        raise ValueError(f"input: expected a batch of sequences, got shape {tuple(input.shape)}")


def _cells(network: nn.Module) -> list[nn.Module]:
    """The cells of a network; of one of torch's, cells that share its parameters."""
    if not isinstance(network, nn.RNNBase):
        return [*network.cells]  # type: ignore[misc]  # a list of modules
    if network.proj_size:
        raise ValueError(f"network: expected one without projections, got {network}")
    directions = 2 if network.bidirectional else 1
    kind, *options = _CELLS_OF_TORCH[network.mode]
    cells = []
    for index in range(network.num_layers * directions):
        layer, is_backward = divmod(index, directions)
        size = network.input_size if layer == 0 else directions * network.hidden_size
        cell = kind(size, network.hidden_size, network.bias, *options, device="meta")
        for name in [name for name, _ in cell.named_parameters()]:
            own = f"{name}_l{layer}{'_reverse' if is_backward else ''}"
            setattr(cell, name, getattr(network, own))
        cells.append(cell)
    return cells


def _settle_alone(
    cell: nn.Module, state: tuple[Tensor, ...], steps: int, generator: torch.Generator | None
) -> Tensor:
    """The states (N, H), or (N, 2H), of one cell after some steps of a constant normal input."""
    if isinstance(cell, DoubleCell):
        cell = cell.first
        state = tuple(part[:, : cell.hidden_size] for part in state)
    alone = MultiLayerBase(
        "LSTM" if len(state) > 1 else "RNN",
        [cell],
        state[0].shape[-1],
        batch_first=False,
        return_sequences=True,
    )
    constant = torch.randn(int(cell.input_size), generator=generator, dtype=state[0].dtype)  # type: ignore[arg-type]
    input = constant.to(state[0].device).expand(steps, len(state[0]), -1)
    _, last = alone(input, joined(tuple(part.unsqueeze(0) for part in state)))
    return torch.cat(parts(last), dim=-1).squeeze(0)
