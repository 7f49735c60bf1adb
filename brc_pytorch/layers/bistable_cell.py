"""What the BRC and the nBRC share: everything but the shape of their memory."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from brc_pytorch.layers.checks import (
    check_broadcast,
    check_features,
    check_lengths,
    check_like,
    check_resets,
    check_shape,
    check_size,
)
from brc_pytorch.ops.entry import scan, scan_layers
from brc_pytorch.ops.reference import mask_padding, states_before
from brc_pytorch.ops.side_by_side import side_by_side
from brc_pytorch.ops.single_step import step

Initializer = Callable[[Tensor], object]
# In the operators' order.
_PARAMETERS = ("kernelz", "kernelr", "kernelh", "memoryz", "memoryr", "bz", "br", "bh")


class BistableCell(nn.Module):
    """Parameters, checks and calls of the bistable cells; not a cell by itself.

    A subclass names its recurrence, and the rank and the initial values of its memory.
    """

    _recurrence: str
    _step: Callable[..., Tensor]
    _gates: Callable[..., tuple[Tensor, Tensor]]
    _memory_rank: int
    _memory_initializer: Initializer
    bz: Tensor
    br: Tensor
    bh: Tensor

    def __init__(
        self,
        input_size: int,
        hidden_size: int | None = None,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        candidate_bias: bool = False,
        output_dim: int | None = None,
    ) -> None:
        super().__init__()
        if hidden_size is None:
            hidden_size = output_dim
        elif output_dim is not None and output_dim != hidden_size:
            raise ValueError(
                f"output_dim: is another name of hidden_size, got {output_dim} and {hidden_size}"
            )
        if hidden_size is None:
            raise TypeError("hidden_size: expected an int, got nothing")
        if candidate_bias and not bias:
            raise ValueError("candidate_bias: expected False where bias=False, got True")
        self.input_size = check_size("input_size", input_size)
        self.hidden_size = check_size("hidden_size", hidden_size)
        self.bias = bias
        self.candidate_bias = candidate_bias

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape, device=device, dtype=dtype))

        self.kernelz = parameter(input_size, hidden_size)
        self.kernelr = parameter(input_size, hidden_size)
        self.kernelh = parameter(input_size, hidden_size)
        memory_shape = (hidden_size,) * self._memory_rank
        self.memoryz = parameter(*memory_shape)
        self.memoryr = parameter(*memory_shape)
        self.register_parameter("bz", parameter(hidden_size) if bias else None)
        self.register_parameter("br", parameter(hidden_size) if bias else None)
        if candidate_bias:
            self.register_parameter("bh", parameter(hidden_size))
        self.reset_parameters()

    @property
    def output_dim(self) -> int:
        """H, under the name it has in Keras."""
        return self.hidden_size

    @property
    def state_size(self) -> int:
        """H: the state is one tensor (B, H)."""
        return self.hidden_size

    def reset_parameters(
        self,
        kernel: Initializer = nn.init.xavier_uniform_,
        memory: Initializer | None = None,
        bias: Initializer = nn.init.zeros_,
    ) -> None:
        """Draw all parameters anew, gate by gate.

        Args:
            kernel: fills U_c, U_a and U, each (I, H), in place. Default: Xavier uniform.
            memory: fills w_c and w_a, each (H), or W_c and W_a, each (H, H), in place.
                Default: ones in the BRC, orthogonal in the nBRC.
            bias: fills the biases, each (H), in place. Default: zeros.
        """
        parameters = self.parameters_by_gate()
        for weight in parameters[:3]:
            kernel(weight)
        for weight in parameters[3:5]:
            (memory or self._memory_initializer)(weight)
        for offset in parameters[5:]:
            bias(offset)

    def get_initial_state(
        self,
        batch_size: int,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Zeros of shape (B, H).

        Args:
            batch_size: B.
            dtype: default, that of the parameters.
            device: default, that of the parameters.
        """
        return torch.zeros(
            batch_size,
            self.hidden_size,
            dtype=dtype or self.kernelz.dtype,
            device=device or self.kernelz.device,
        )

    def forward(self, input_t: Tensor, hidden_state: Tensor | None = None) -> Tensor:
        """One step.

        Args:
            input_t: x_t, (*, I).
            hidden_state: h_{t-1}, (*, H), its leading dimensions broadcast with those of
                ``input_t``. Default: zeros.

        Returns:
            h_t, (*, H).

        Raises:
            ValueError: an argument has the wrong shape, dtype or device.
        """
        by_gate = self.parameters_by_gate()
        if hidden_state is None:
            check_features("input_t", input_t, self.input_size)
            hidden_state = input_t.new_zeros(*input_t.shape[:-1], self.hidden_size)
        x, h, like = input_t, hidden_state, by_gate[0]
        shape, leading = x.shape, None
        if not (  # (B, I) and (B, H), which needs nothing else
            len(shape) == 2  # noqa: PLR2004
            and shape[1] == self.input_size
            and h.shape == (shape[0], self.hidden_size)
            and x.dtype is h.dtype is like.dtype
            and x.device == h.device == like.device
        ):
            check_features("input_t", x, self.input_size)
            check_like("input_t", x, "the parameters", like)
            check_features("hidden_state", h, self.hidden_size)
            check_like("hidden_state", h, "input_t", x)
            check_broadcast("hidden_state", h, "input_t", x)
            leading = torch.broadcast_shapes(x.shape[:-1], h.shape[:-1])  # type: ignore[no-untyped-call]
            x = x.expand(*leading, -1).reshape(-1, self.input_size)
            h = h.expand(*leading, -1).reshape(-1, self.hidden_size)
        updated = step(self._recurrence, x, h, by_gate)
        if updated is not None:
            return updated if leading is None else updated.view(*leading, self.hidden_size)
        (parameters,) = side_by_side(self._recurrence, [by_gate])
        return self._step(input_t, hidden_state, *parameters)

    def scan(
        self,
        input: Tensor,
        state: Tensor | None = None,
        lengths: Tensor | None = None,
        reverse: bool = False,
        resets: Tensor | None = None,
        reset_state: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """All steps of a sequence in one call of the operator.

        Args:
            input: x_1 to x_T, (T, B, I).
            state: h_0, (B, H). Default: zeros.
            lengths: how many steps of each row are data, (B) integers. Default: all.
            reverse: go from each row's last step to its first. Default: False.
            resets: where segments begin that know nothing of the steps before, (T, B) booleans:
                True at step t starts it from ``reset_state`` instead of from step t - 1; in
                reverse, step t - 1 instead of from step t. Default: one segment of all steps.
            reset_state: the state that such segments start from, (B, H). Default: zeros.

        Returns:
            The output sequence (T, B, H), zero where a row has ended, and each row's last state
            (B, H).

        Raises:
            ValueError: an argument has the wrong shape, dtype or device.
        """
        parameters = self._parameters_for(input)
        if state is None:
            state = input.new_zeros(input.shape[1], self.hidden_size)
        reset_states = None if reset_state is None else (reset_state,)
        options = lengths, reverse, resets, reset_states
        output, (h_n,) = scan(self._recurrence, input, (state,), parameters, *options)
        return output, h_n

    @classmethod
    def scan_layers(
        cls,
        cells: "Sequence[BistableCell]",
        input: Tensor,
        states: Tensor,
        lengths: Tensor | None = None,
        resets: Tensor | None = None,
        reset_states: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """All steps of a sequence through cells of one type, each fed by the one before.

        Args:
            cells: L cells.
            input: x_1 to x_T of the first, (T, B, I).
            states: h_0 of each, (L, B, H).
            lengths: how many steps of each row are data, (B) integers. Default: all.
            resets: where segments begin, (T, B) booleans, as for :meth:`scan`. Default: one segment
                of all steps.
            reset_states: the states that such segments start from, (L, B, H). Default: zeros.

        Returns:
            The last cell's output sequence (T, B, H) and the last states of all, (L, B, H).
        """
        by_gate = [cell.parameters_by_gate() for cell in cells]
        reset = None if reset_states is None else (reset_states,)
        of_all = cls._recurrence, input, (states,), by_gate
        found = scan_layers(*of_all, lengths, resets, reset)
        if found is not None:
            output, (h_n,) = found
            return output, h_n
        last = []
        for index, parameters in enumerate(side_by_side(cls._recurrence, by_gate)):
            reset = None if reset_states is None else (reset_states[index],)
            options = lengths, False, resets, reset
            input, (h_n,) = scan(cls._recurrence, input, (states[index],), parameters, *options)
            last.append(h_n)
        return input, torch.stack(last)

    def gates(
        self,
        input: Tensor,
        output: Tensor,
        state: Tensor,
        lengths: Tensor | None = None,
        reverse: bool = False,
        resets: Tensor | None = None,
        reset_state: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The gates at every step of a sequence that :meth:`scan` has run; nothing is run again.

        Args:
            input: x_1 to x_T, (T, B, I), as given to :meth:`scan`.
            output: what it returned for them, (T, B, H).
            state: h_0, (B, H).
            lengths: as given to :meth:`scan`.
            reverse: as given to :meth:`scan`.
            resets: as given to :meth:`scan`.
            reset_state: as given to :meth:`scan`.

        Returns:
            The feedback strength a_t in (0, 2), bistable above 1, and the update gate c_t in
            (0, 1), both (T, B, H), zero where a row has ended.

        Raises:
            ValueError: an argument has the wrong shape, dtype or device.
        """
        parameters = self._parameters_for(input)
        steps, batch, _ = input.shape
        check_shape("output", output, "(T, B, H)", (steps, batch, self.hidden_size))
        check_shape("state", state, "(B, H)", (batch, self.hidden_size))
        given = {"output": output, "state": state}
        if reset_state is not None:
            check_shape("reset_state", reset_state, "(B, H)", (batch, self.hidden_size))
            given["reset_state"] = reset_state
        for name, tensor in given.items():
            check_like(name, tensor, "input", input)
        if lengths is not None:
            check_lengths(lengths, batch)
        input, valid = mask_padding(input, lengths)
        if resets is not None:
            check_resets(resets, steps, batch)
        previous = states_before(output, state, valid, reverse, resets, reset_state)
        a, c = self._gates(input, previous, *parameters)
        if valid is None:
            return a, c
        return torch.where(valid, a, 0), torch.where(valid, c, 0)

    def _parameters_for(self, input: Tensor) -> list[Tensor]:
        """The stacked parameters, where they are for this sequence."""
        check_shape("input", input, "(T, B, I)", (None, None, self.input_size))
        (parameters,) = side_by_side(self._recurrence, [self.parameters_by_gate()])
        check_like("input", input, "the parameters", parameters[0])
        return parameters

    def parameters_by_gate(self) -> list[Tensor]:
        """U_c, U_a, U; w_c, w_a or W_c, W_a; and the biases there are, b_c, b_a and b."""
        count = 8 if self.candidate_bias else 7 if self.bias else 5
        own = self._parameters  # nn.Module's look-up would take a microsecond each
        # One that is parametrized is no longer there.
        return [own[name] if name in own else getattr(self, name) for name in _PARAMETERS[:count]]  # type: ignore[misc]

    def extra_repr(self) -> str:
        """Sizes and options, as torch's cells show them."""
        bias = "" if self.bias else ", bias=False"
        candidate_bias = ", candidate_bias=True" if self.candidate_bias else ""
        return f"{self.input_size}, {self.hidden_size}{bias}{candidate_bias}"
