"""What the BRC and the nBRC share: everything but the shape of their memory."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from brc_pytorch.layers.checks import (
    check_broadcast,
    check_features,
    check_like,
    check_size,
)


class BistableCell(nn.Module):
    """Parameters, checks and calls of the bistable cells; not a cell by itself.

    A subclass names its operators and gives the shape of its two memory parameters.
    """

    _step: Callable[..., Tensor]
    _scan: Callable[..., tuple[Tensor, Tensor]]

    def __init__(
        self,
        input_size: int,
        hidden_size: int | None,
        output_dim: int | None,
        memory_rank: int,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
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
        self.input_size = check_size("input_size", input_size)
        self.hidden_size = check_size("hidden_size", hidden_size)

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape, device=device, dtype=dtype))

        self.kernelz = parameter(input_size, hidden_size)
        self.kernelr = parameter(input_size, hidden_size)
        self.kernelh = parameter(input_size, hidden_size)
        memory_shape = (hidden_size,) * memory_rank
        self.memoryz = parameter(*memory_shape)
        self.memoryr = parameter(*memory_shape)
        self.bz = parameter(hidden_size)
        self.br = parameter(hidden_size)
        self.reset_parameters()

    @property
    def output_dim(self) -> int:
        """H, under the name it has in Keras."""
        return self.hidden_size

    @property
    def state_size(self) -> int:
        """H: the state is one tensor (B, H)."""
        return self.hidden_size

    def reset_parameters(self) -> None:
        """Draw all parameters anew: kernels Xavier uniform, gate by gate; biases zero."""
        for kernel in (self.kernelz, self.kernelr, self.kernelh):
            nn.init.xavier_uniform_(kernel)
        for memory in (self.memoryz, self.memoryr):
            self._reset_memory(memory)
        for bias in (self.bz, self.br):
            nn.init.zeros_(bias)

    def _reset_memory(self, memory: Tensor) -> None:
        raise NotImplementedError

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
        check_features("input_t", input_t, self.input_size)
        check_like("input_t", input_t, "the parameters", self.kernelz)
        if hidden_state is None:
            hidden_state = input_t.new_zeros(*input_t.shape[:-1], self.hidden_size)
        else:
            check_features("hidden_state", hidden_state, self.hidden_size)
            check_like("hidden_state", hidden_state, "input_t", input_t)
            check_broadcast("hidden_state", hidden_state, "input_t", input_t)
        return self._step(input_t, hidden_state, *self._stacked())

    def scan(
        self,
        input: Tensor,
        state: Tensor | None = None,
        lengths: Tensor | None = None,
        reverse: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """All steps of a sequence in one call of the operator.

        Args:
            input: x_1 to x_T, (T, B, I).
            state: h_0, (B, H). Default: zeros.
            lengths: how many steps of each row are data, (B) integers. Default: all.
            reverse: go from each row's last step to its first. Default: False.

        Returns:
            The output sequence (T, B, H), zero where a row has ended, and each row's last state
            (B, H).

        Raises:
            ValueError: an argument has the wrong shape, dtype or device.
        """
        if state is None:
            state = input.new_zeros(*input.shape[1:-1], self.hidden_size)
        return self._scan(input, state, *self._stacked(), lengths=lengths, reverse=reverse)

    def _stacked(self) -> tuple[Tensor, Tensor, Tensor]:
        """The parameters as the operators take them: kernel, memory, bias."""
        return (
            torch.cat((self.kernelz, self.kernelr, self.kernelh), dim=-1),
            torch.cat((self.memoryz, self.memoryr), dim=-1),
            torch.cat((self.bz, self.br), dim=-1),
        )

    def extra_repr(self) -> str:
        """Sizes, as torch's cells show them."""
        return f"{self.input_size}, {self.hidden_size}"
