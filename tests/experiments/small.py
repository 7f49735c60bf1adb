"""An experiment that takes a second."""

import dataclasses

from brc_pytorch.experiments.tasks import BinaryAdditionTask

TASK = BinaryAdditionTask(
    hidden_size=4,
    min_length=3,
    max_length=4,
    epochs_per_length=2,
    train_size=40,
    validation_size=10,
    batch_size=10,
    test_size=10,
    max_test_length=5,
)


def options(task):
    """The settings of a task as the command takes them."""
    given = {"seeds": 0, **dataclasses.asdict(task)}
    return [f"--{key.replace('_', '-')}={value}" for key, value in given.items()]
