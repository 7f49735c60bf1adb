"""The benchmark tasks, one a file, and the cells they compare, as plain data."""

from brc_pytorch.experiments.tasks.binary_addition import BinaryAdditionTask
from brc_pytorch.experiments.tasks.cells import CELLS, cell_type, known_cell, recurrent_network
from brc_pytorch.experiments.tasks.copy_first_input import CopyFirstInputTask
from brc_pytorch.experiments.tasks.denoising import DenoisingTask
from brc_pytorch.experiments.tasks.sequential_mnist import SequentialMNISTTask
from brc_pytorch.experiments.tasks.settings import nearest, own_settings, plural, settings
from brc_pytorch.experiments.tasks.state_tracking import StateTrackingTask
from brc_pytorch.experiments.tasks.task import VALIDATION_SEED, Task, random_stream

TASKS: dict[str, type[Task]] = {
    task.name: task
    for task in (
        CopyFirstInputTask,
        BinaryAdditionTask,
        DenoisingTask,
        SequentialMNISTTask,
        StateTrackingTask,
    )
}
"""Every task by the name of its command; `TASKS[name](**settings)` makes one."""

__all__ = [
    "CELLS",
    "TASKS",
    "VALIDATION_SEED",
    "BinaryAdditionTask",
    "CopyFirstInputTask",
    "DenoisingTask",
    "SequentialMNISTTask",
    "StateTrackingTask",
    "Task",
    "cell_type",
    "known_cell",
    "nearest",
    "own_settings",
    "plural",
    "random_stream",
    "recurrent_network",
    "settings",
]
