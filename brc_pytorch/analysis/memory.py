"""How well a network's state tells what it was shown some steps ago."""

import torch
from torch import Tensor, nn


@torch.no_grad()
def memory_curve(
    network: nn.Module,
    delays: Tensor,
    sequences: int = 512,
    steps: int | None = None,
    ridge: float = 1e-4,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The share of the variance of the input k steps ago that a linear readout recovers.

    The network reads sequences of independent normal numbers. Half of them fit a ridge regression
    from its last layer's last outputs to the input k steps before, the other half test it. The sum
    over all k is the linear memory capacity of Jaeger, "Short term memory in echo state networks",
    GMD report 152, 2001.

    Args:
        network: ``BRC``, ``NBRC``, a ``MultiLayerBase`` with ``return_sequences=True``, or torch's
            ``GRU``, ``LSTM`` or ``RNN``.
        delays: the k, integers, 0 for the last input, (K).
        sequences: how many are drawn. Default: 512.
        steps: T, how long they are. Default: 100 more than the largest delay.
        ridge: the weight of the readout's squared coefficients, relative to the outputs'
            mean variance. Default: 1e-4.
        generator: of the sequences. Default: torch's own.

    Returns:
        R^2 on the sequences that were not fitted, (K): 1 where the input is known exactly, about 0
        where nothing is left of it (or a little below).

    Raises:
        ValueError: a delay is negative or reaches beyond the first step.
    """
    longest = int(delays.max())
    steps = longest + 100 if steps is None else steps
    if delays.min() < 0 or longest >= steps:
        raise ValueError(
            f"delays: expected 0 to {steps - 1}, the steps of a sequence but one, "
            f"got {int(delays.min())} to {longest}"
        )
    weight = next(network.parameters())
    input = torch.randn(steps, sequences, int(network.input_size), generator=generator)  # type: ignore[arg-type]
    input = input.to(weight.device, weight.dtype)
    output, _ = network(input.transpose(0, 1) if network.batch_first else input)
    features = (output[:, -1] if network.batch_first else output[-1]).double()
    targets = input[steps - 1 - delays.to(input.device)].movedim(0, 1).double()  # (N, K, I)

    half = sequences // 2
    features, targets = features - features[:half].mean(0), targets - targets[:half].mean(0)
    fitted = features[:half]
    gram = fitted.T @ fitted
    gram.diagonal().add_(ridge * gram.diagonal().mean())
    readout = torch.linalg.solve(gram, fitted.T @ targets[:half].flatten(1))
    errors = (features[half:] @ readout).unflatten(1, targets.shape[1:]) - targets[half:]
    found: Tensor = 1 - errors.square().mean(dim=(0, 2)) / targets[half:].square().mean(dim=(0, 2))
    return found
