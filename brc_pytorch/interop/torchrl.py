"""BRC and nBRC in TorchRL's policies, in the place of its ``GRUModule``.

Needs the extra ``[torchrl]``.
"""

from collections.abc import Sequence
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase, unravel_key, unravel_key_list
from tensordict.nn import TensorDictModuleBase, dispatch
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence, unpack_sequence
from torchrl.data import Unbounded
from torchrl.envs import TensorDictPrimer
from torchrl.modules import recurrent_mode

from brc_pytorch.layers.rnn import BRC, NBRC, BistableRNN
from brc_pytorch.layers.stack import Stack

_STATE = "recurrent_state"
_FEWEST_KEYS = 2  # that of the input or output, and that of the state


class RecurrentModule(TensorDictModuleBase):  # type: ignore[misc]  # tensordict has no types
    """A recurrent network in a policy: it reads and writes tensordicts, as ``GRUModule`` does.

    Where an agent acts it takes single steps, where an agent learns whole sequences, as
    ``torchrl.modules.set_recurrent_mode`` says. An episode may begin at any step of a sequence.

    - A step, in the last dimensions: from the input (I) and the state before it (num_layers, H) to
      the output (H) and the state after it. At the first step of an episode, where ``is_init`` (1)
      is True, the state before it is the initial one.
    - A sequence: the last dimension of the tensordict's batch size is time. A row goes on from the
      state that is stored at its first step. An episode starts from the state that is stored at its
      own first step, or from the initial one where that is zero, as environments leave it. Of the
      states only those after the last step of an episode or a row are written; the others are zero.

    The initial state is the learned one of a network that has it, or zero. It is also taken where a
    tensordict has no state.

    Args:
        network: a :class:`~brc_pytorch.BRC`, a :class:`~brc_pytorch.NBRC`, a
            :class:`~brc_pytorch.GRU`, or a :class:`~brc_pytorch.MultiLayerBase` that returns
            sequences and whose states are no pairs; of one direction, with ``batch_first=True``.
        in_key: the key of the input, in the place of ``in_keys``; the state's is then
            ``"recurrent_state"``.
        in_keys: the keys of the input, of the state and, if it is not ``"is_init"``, of the mark of
            an episode's first step.
        out_key: the key of the output, in the place of ``out_keys``; the state's is then
            ``("next", "recurrent_state")``.
        out_keys: the keys of the output and of the state after the step.
        default_recurrent_mode: whether it takes sequences where ``set_recurrent_mode`` says
            nothing. Default: False.

    Raises:
        TypeError: ``network`` is no such network.
        ValueError: its options are others than those above, or keys are missing or too many.

    Example:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.modules import set_recurrent_mode
        >>> from brc_pytorch import NBRC
        >>> from brc_pytorch.interop.torchrl import RecurrentModule
        >>> network = NBRC(4, 8, batch_first=True)
        >>> module = RecurrentModule(network, in_key="observation", out_key="features")
        >>> begins = torch.zeros(2, 10, 1, dtype=torch.bool)
        >>> begins[:, 0] = begins[1, 6] = True
        >>> rollout = {"observation": torch.randn(2, 10, 4), "is_init": begins}
        >>> with set_recurrent_mode(True):
        ...     data = module(TensorDict(rollout, batch_size=[2, 10]))
        >>> data["features"].shape
        torch.Size([2, 10, 8])
    """

    def __init__(
        self,
        network: Stack,
        *,
        in_key: NestedKey | None = None,
        in_keys: Sequence[NestedKey] | None = None,
        out_key: NestedKey | None = None,
        out_keys: Sequence[NestedKey] | None = None,
        default_recurrent_mode: bool = False,
    ) -> None:
        super().__init__()
        _check_network(network)
        self.in_keys = _keys("in", in_key, in_keys, [_STATE, "is_init"])
        self.out_keys = _keys("out", out_key, out_keys, [("next", _STATE)])
        self.network = network
        self.default_recurrent_mode = default_recurrent_mode

    @property
    def recurrent_mode(self) -> bool:
        """Whether it takes sequences now."""
        mode = recurrent_mode()
        return self.default_recurrent_mode if mode is None else mode

    def make_tensordict_primer(self) -> TensorDictPrimer:
        """A transform by which an environment carries the state from step to step.

        ``torchrl.modules.utils.get_primers_from_module`` finds it in a policy; beside it an
        environment needs ``torchrl.envs.InitTracker`` for ``is_init``.

        Raises:
            ValueError: the key of the state after a step is not ``"next"`` and that of the state
                before it, and so nothing would be carried.
        """
        (_, before, _), (_, after) = self.in_keys, self.out_keys
        carried = unravel_key(("next", before))
        if after != carried:
            raise ValueError(f"out_keys: expected the state's to be {carried!r}, got {after!r}")
        network = self.network
        dtype = next(network.parameters()).dtype
        spec = Unbounded(shape=(network.layers, network.hidden_size), dtype=dtype)
        return TensorDictPrimer({before: spec}, expand_specs=True)

    @dispatch  # type: ignore[untyped-decorator]  # tensordict has no types
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Run the network on what a tensordict holds, and add what it gives.

        Args:
            tensordict: with the entries ``in_keys``, of which the state may be missing.

        Returns:
            The same tensordict, with the entries ``out_keys``.

        Raises:
            KeyError: the input or the mark of first steps is missing.
            ValueError: a sequence is expected, and the tensordict has no batch size.
            RuntimeError: an entry has the wrong shape.
        """
        is_sequence, shape = self.recurrent_mode, tensordict.batch_size
        if is_sequence and not shape:
            raise ValueError("tensordict: expected a last dimension for time, got batch size []")
        grid = (shape[:-1].numel(), shape[-1]) if is_sequence else (shape.numel(), 1)
        input, stored, begins = (
            None if entry is None else entry.reshape(*grid, *entry.shape[len(shape) :])
            for entry in (tensordict.get(key, None) for key in self.in_keys)
        )
        if input is None or begins is None:
            missing = self.in_keys[0 if input is None else 2]
            hint = "" if input is None else "; torchrl.envs.InitTracker adds it"
            raise KeyError(f"tensordict: expected an entry {missing!r}, got none{hint}")
        begins = begins.reshape(grid)
        if is_sequence:
            output, states = self._sequence(input, stored, begins)
        else:
            before = None if stored is None else stored.squeeze(1).transpose(0, 1)
            output, last = self.network(input, before, resets=begins)
            states = last.transpose(0, 1)
        tensordict.set(self.out_keys[0], output.reshape(*shape, *output.shape[2:]))
        tensordict.set(self.out_keys[1], states.reshape(*shape, *states.shape[-2:]))
        return tensordict

    def _sequence(
        self, input: Tensor, stored: Tensor | None, begins: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Run sequences (B, T, I) with episodes that begin where ``begins`` (B, T) is True."""
        if stored is None:
            return self._episodes(input, None, begins)
        # Environments leave zeros there. But where a value estimator runs the "next" entries of a
        # rollout, each sequence of them starts from the state after an episode's first step.
        is_own = torch.zeros_like(begins)
        is_own[begins] = (stored[begins] != 0).flatten(1).any(1)
        resets = begins & ~is_own
        if not is_own[:, 1:].any():
            return self._episodes(input, stored[:, 0].transpose(0, 1), resets)
        return self._episodes_apart(input, stored, begins, resets)

    def _episodes(
        self, input: Tensor, before: Tensor | None, resets: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Run sequences from the states ``before`` (layers, B, H), anew where ``resets`` say."""
        passes = self.network.cell_passes(input, before, resets=resets)
        outputs = [each.output for each in passes]  # of each layer, (T, B, H)
        is_end = resets.roll(-1, 1)
        is_end[:, -1] = True
        row, step = is_end.nonzero(as_tuple=True)
        states = outputs[0].new_zeros(*is_end.shape, len(outputs), outputs[0].shape[-1])
        states[row, step] = torch.stack([output[step, row] for output in outputs], 1)
        return outputs[-1].transpose(0, 1), states

    def _episodes_apart(
        self, input: Tensor, stored: Tensor, begins: Tensor, resets: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Run episodes each from its own state, as rows of a packed sequence."""
        starts = begins.clone()
        starts[:, 0] = True
        first = starts.flatten().nonzero().squeeze(1)
        end = torch.diff(first, append=first.new_tensor([starts.numel()])) + first
        pieces = (end - first).tolist()
        packed, packed_resets = (
            pack_sequence([*torch.split(entry.flatten(0, 1), pieces)], enforce_sorted=False)
            for entry in (input, resets)
        )
        before = stored.flatten(0, 1)[first].transpose(0, 1)
        output, last = self.network(packed, before, resets=packed_resets)
        states = last.new_zeros(starts.numel(), *stored.shape[2:])
        states[end - 1] = last.transpose(0, 1)
        outputs = torch.cat(unpack_sequence(output)).reshape(*starts.shape, -1)
        return outputs, states.reshape(stored.shape)


class _BistableModule(RecurrentModule):
    _network: type[BistableRNN]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        in_key: NestedKey | None = None,
        in_keys: Sequence[NestedKey] | None = None,
        out_key: NestedKey | None = None,
        out_keys: Sequence[NestedKey] | None = None,
        default_recurrent_mode: bool = False,
        **options: Any,  # noqa: ANN401 - the network's
    ) -> None:
        options = {"batch_first": True, **options}
        super().__init__(
            self._network(input_size, hidden_size, num_layers, **options),
            in_key=in_key,
            in_keys=in_keys,
            out_key=out_key,
            out_keys=out_keys,
            default_recurrent_mode=default_recurrent_mode,
        )


class BRCModule(_BistableModule):
    """A :class:`RecurrentModule` that makes its :class:`~brc_pytorch.BRC` itself.

    Args:
        input_size: I, the number of features of the input.
        hidden_size: H, the number of units of a layer.
        num_layers: how many layers. Default: 1.
        in_key: as for :class:`RecurrentModule`, as are ``in_keys``, ``out_key``, ``out_keys`` and
            ``default_recurrent_mode``.
        options: the other options of the network.

    Raises:
        TypeError: as the network and :class:`RecurrentModule`.
        ValueError: the same.

    Example:
        >>> from brc_pytorch.interop.torchrl import BRCModule
        >>> module = BRCModule(4, 8, in_key="observation", out_key="features")
        >>> module.in_keys
        ['observation', 'recurrent_state', 'is_init']
    """

    _network = BRC


class NBRCModule(_BistableModule):
    """A :class:`RecurrentModule` that makes its :class:`~brc_pytorch.NBRC` itself.

    Args:
        input_size: I, the number of features of the input.
        hidden_size: H, the number of units of a layer.
        num_layers: how many layers. Default: 1.
        in_key: as for :class:`RecurrentModule`, as are ``in_keys``, ``out_key``, ``out_keys`` and
            ``default_recurrent_mode``.
        options: the other options of the network.

    Raises:
        TypeError: as the network and :class:`RecurrentModule`.
        ValueError: the same.

    Example:
        >>> from brc_pytorch.interop.torchrl import NBRCModule
        >>> in_keys, out_keys = ["observation", "memory"], ["features", ("next", "memory")]
        >>> module = NBRCModule(4, 8, num_layers=2, in_keys=in_keys, out_keys=out_keys)
        >>> module.make_tensordict_primer()
        TensorDictPrimer(...)
    """

    _network = NBRC


def _check_network(network: object) -> None:
    """Refuse what cannot step in an agent, or has more than one state."""
    if not isinstance(network, Stack):
        raise TypeError(
            "network: expected a network of brc_pytorch, such as an NBRC, got a "
            f"{type(network).__module__}.{type(network).__name__}"
        )
    if network.mode == "LSTM":
        raise TypeError("network: expected one state, got an LSTM's pair of them")
    if not network.batch_first:
        raise ValueError("network: expected batch_first=True, got batch_first=False")
    if not network.return_seq:
        raise ValueError("network: expected return_sequences=True, got return_sequences=False")
    if network.num_directions > 1:
        raise ValueError("network: expected one direction, as agents see no later steps, got two")


def _keys(
    side: str, key: NestedKey | None, keys: Sequence[NestedKey] | None, defaults: list[NestedKey]
) -> list[NestedKey]:
    """The keys of one side: that of the input or output, and those that come after it."""
    if (key is None) == (keys is None):
        got = "both" if keys else "neither"
        raise ValueError(f"{side}_key: expected either it or {side}_keys, got {got}")
    if keys is None:
        return list(unravel_key_list([key, *defaults]))
    if isinstance(keys, str) or len(keys) not in (_FEWEST_KEYS, 1 + len(defaults)):
        many = " or ".join(map(str, sorted({_FEWEST_KEYS, 1 + len(defaults)})))
        raise ValueError(f"{side}_keys: expected a list of {many} keys, got {keys!r}")
    return list(unravel_key_list([*keys, *defaults[len(keys) - 1 :]]))
