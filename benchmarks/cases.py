"""What is measured: sizes, what a training step's loss reads, how often."""

from dataclasses import dataclass

LAYERS = 2


@dataclass(frozen=True)
class Case:
    """One row of the comparison: 2 layers, float32.

    Attributes:
        name: What the tables call it.
        steps: T.
        batch: B.
        inputs: I.
        hidden: H.
        loss: What a training step takes the mean square of: the "last" state or "all" outputs; None
            for a forward pass without gradients.
        rounds: Turns that are timed of every network.
        slow_rounds: The same of those that loop in Python; 0 leaves them out.
        calls: Calls in one turn.
    """

    name: str
    steps: int
    batch: int
    inputs: int
    hidden: int
    loss: str | None
    rounds: int
    slow_rounds: int
    calls: int = 1


CASES = (
    Case("T300 B100 H100 training", 300, 100, 1, 100, "last", 9, slow_rounds=3),
    Case("T300 B100 H100 training, all", 300, 100, 1, 100, "all", 9, slow_rounds=0),
    Case("T300 B100 H100 no_grad", 300, 100, 1, 100, None, 9, slow_rounds=3),
    Case("T300 B100 I100 H100 training", 300, 100, 100, 100, "last", 7, slow_rounds=3),
    Case("T600 B100 H100 training", 600, 100, 1, 100, "last", 7, slow_rounds=3),
    Case("T100 B32 H512 training", 100, 32, 1, 512, "last", 7, slow_rounds=3),
    Case("T10000 B8 H64 training", 10000, 8, 1, 64, "last", 3, slow_rounds=0),
    Case("T10000 B8 H64 training, all", 10000, 8, 1, 64, "all", 3, slow_rounds=0),
    Case("T1000 B1 H128 no_grad", 1000, 1, 1, 128, None, 15, slow_rounds=5, calls=5),
    Case("T1 B1 H100 no_grad", 1, 1, 1, 100, None, 15, slow_rounds=5, calls=200),
)
