"""The same networks in JAX: `lax.scan` over the steps of a layer, the whole call jitted.

The input's part of the gates is one product ahead of the scan. The scan is not unrolled: steps
unrolled by 4, 8 or 10 were slower on two cores.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from cases import Case
from jax import numpy as jnp
from torch import Tensor, nn

# Of a layer: the input's weights (I, gates * H) and bias, and what the step itself needs.
Layer = tuple[jax.Array, jax.Array, tuple[jax.Array, ...]]
Step = Callable[..., tuple[jax.Array, ...]]


def gru_step(
    drive: jax.Array, weight: jax.Array, bias: jax.Array, h: jax.Array
) -> tuple[jax.Array, ...]:
    """One step of torch's GRU; weight (H, 3H)."""
    size = h.shape[-1]
    own = h @ weight + bias
    gates = jax.nn.sigmoid(drive[:, : 2 * size] + own[:, : 2 * size])
    new = jnp.tanh(drive[:, 2 * size :] + gates[:, :size] * own[:, 2 * size :])
    return (new + gates[:, size:] * (h - new),)


def lstm_step(
    drive: jax.Array, weight: jax.Array, bias: jax.Array, h: jax.Array, c: jax.Array
) -> tuple[jax.Array, ...]:
    """One step of torch's LSTM; weight (H, 4H)."""
    write, keep, new, out = jnp.split(drive + h @ weight + bias, 4, axis=-1)
    c = jax.nn.sigmoid(keep) * c + jax.nn.sigmoid(write) * jnp.tanh(new)
    return jax.nn.sigmoid(out) * jnp.tanh(c), c


def bistable_step(drive: jax.Array, memory: jax.Array, h: jax.Array) -> tuple[jax.Array, ...]:
    """One step of the BRC, memory (2H), or of the nBRC, (H, 2H)."""
    size = h.shape[-1]
    own = jnp.tile(h, (1, 2)) * memory if memory.ndim == 1 else h @ memory
    c = jax.nn.sigmoid(drive[:, :size] + own[:, :size])
    a = 1 + jnp.tanh(drive[:, size : 2 * size] + own[:, size:])
    return (c * h + (1 - c) * jnp.tanh(drive[:, 2 * size :] + a * h),)


def outputs(step: Step, states: int, hidden: int, layers: list[Layer], x: jax.Array) -> jax.Array:
    """The last layer's outputs, (T, B, H), from states of zero."""
    for weight, bias, own in layers:

        def body(
            state: tuple[jax.Array, ...], drive: jax.Array, own: tuple[jax.Array, ...] = own
        ) -> tuple[tuple[jax.Array, ...], jax.Array]:
            state = step(drive, *own, *state)
            return state, state[0]

        zeros = (jnp.zeros((x.shape[1], hidden), x.dtype),) * states
        _, x = jax.lax.scan(body, zeros, x @ weight + bias)
    return x


def _array(tensor: Tensor) -> jax.Array:
    return jnp.asarray(np.array(tensor.detach()))


def _layers(network: nn.Module) -> tuple[Step, int, list[Layer]]:
    """The step, the number of states and the parameters of one of torch's networks or ours."""
    if isinstance(network, nn.GRU | nn.LSTM):
        layers = [
            (_array(ih.t()), _array(b_ih), (_array(hh.t()), _array(b_hh)))
            for ih, hh, b_ih, b_hh in network.all_weights
        ]
        return (gru_step, 1, layers) if isinstance(network, nn.GRU) else (lstm_step, 2, layers)
    layers = []
    for cell in network.cells:
        kernel = np.concatenate([_array(p) for p in (cell.kernelz, cell.kernelr, cell.kernelh)], -1)
        memory = np.concatenate([_array(p) for p in (cell.memoryz, cell.memoryr)], -1)
        bias = np.concatenate([_array(cell.bz), _array(cell.br), np.zeros_like(_array(cell.bz))])
        layers.append((jnp.asarray(kernel), jnp.asarray(bias), (jnp.asarray(memory),)))
    return bistable_step, 1, layers


def contenders(
    networks: dict[str, nn.Module], case: Case, input: Tensor
) -> dict[str, Callable[[], Any]]:
    """For each network what one training step, or one forward pass, of its like in JAX is.

    The first call compiles. A training step returns the gradients, a forward pass the outputs.
    """
    x = _array(input)
    found: dict[str, Callable[[], Any]] = {}
    for name, network in networks.items():
        step, states, layers = _layers(network)

        def forward(
            layers: list[Layer], x: jax.Array, step: Step = step, states: int = states
        ) -> jax.Array:
            return outputs(step, states, case.hidden, layers, x)

        def loss(
            layers: list[Layer],
            x: jax.Array,
            forward: Callable[[list[Layer], jax.Array], jax.Array] = forward,
        ) -> jax.Array:
            y = forward(layers, x)
            return jnp.square(y if case.loss == "all" else y[-1]).mean()

        call = jax.jit(jax.grad(loss) if case.loss else forward)

        def turn(call: Any = call, layers: list[Layer] = layers) -> Any:  # noqa: ANN401 - a pytree
            return jax.block_until_ready(call(layers, x))

        found[name] = turn
    return found
