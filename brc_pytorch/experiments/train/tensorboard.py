"""A run's tables as a TensorBoard log.

Needs the extra `brc_pytorch[tensorboard]`.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from brc_pytorch.experiments.files import TENSORBOARD


class TensorBoardLog:
    """The log of one run, in a folder of its directory.

    It holds `train/loss` for every gradient iteration and the held-out metrics, such as
    `test/loss`, for every epoch, over the iteration; and `final_test/...` over the length.

    A log that is there from an earlier start is replaced, not continued: it may hold points that
    the checkpoint, and with it the run, has not come to yet.

    Args:
        directory: The run's directory.
        held_out: What the held-out data are called.
    """

    def __init__(self, directory: Path, held_out: str) -> None:
        if (directory / TENSORBOARD).exists():
            shutil.rmtree(directory / TENSORBOARD)
        # Whoever has TensorBoard open over the earlier log sees its points go, too.
        self._writer = SummaryWriter(str(directory / TENSORBOARD), purge_step=0)
        self._held_out = held_out
        self._iterations = 0
        self._epochs = 0

    def add(self, losses: Sequence[float], epochs: Sequence[Mapping[str, Any]]) -> None:
        """Add what is new.

        Args:
            losses: The training loss of every iteration of the run until now.
            epochs: The rows of its table of epochs until now.
        """
        for iteration in range(self._iterations, len(losses)):
            self._writer.add_scalar("train/loss", losses[iteration], iteration + 1)
        for row in epochs[self._epochs :]:
            for name, value in row.items():
                if name.startswith(f"{self._held_out}_"):
                    tag = name.replace("_", "/", 1)
                    self._writer.add_scalar(tag, value, row["iteration"])
        self._iterations, self._epochs = len(losses), len(epochs)
        self._writer.flush()

    def add_tests(self, tests: Sequence[Mapping[str, Any]]) -> None:
        """Add the rows of the table of tests."""
        for row in tests:
            for name, value in row.items():
                if name != "length":
                    self._writer.add_scalar(f"final_test/{name}", value, row["length"])

    def close(self) -> None:
        """End the log."""
        self._writer.close()
