"""What a run leaves, written after each epoch, and where it goes on after a stop."""

import functools
import math
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from brc_pytorch.experiments.files import (
    BEST,
    CHECKPOINT,
    EPOCHS,
    LAST,
    TRAINING,
    write_file,
    write_table,
)
from brc_pytorch.experiments.train.run import Run
from brc_pytorch.experiments.weights import read_checkpoint, read_weights, write_weights


class Recorder(Callback):
    """Keeps the metrics, writes the tables and the models, and ends training when it is solved.

    Its state is in the checkpoint, so that the tables never hold more or less than the checkpoint
    does: all of them are written anew after each epoch, the checkpoint last.
    """

    def __init__(self, run: Run, network: nn.Module, directory: Path) -> None:
        self.run = run
        self.network = network
        self.directory = directory
        self.losses: list[float] = []
        self.epochs: list[dict[str, Any]] = []
        self.seconds = 0.0
        self._epoch_losses: list[Tensor] = []
        self._epoch_start = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return what goes into the checkpoint."""
        return {"losses": self.losses, "epochs": self.epochs, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what the checkpoint holds."""
        self.losses = state_dict["losses"]
        self.epochs = state_dict["epochs"]
        self.seconds = state_dict["seconds"]

    @property
    def held_out_losses(self) -> list[float]:
        """The held-out loss of every epoch."""
        return [row[f"{self.run.task.held_out}_loss"] for row in self.epochs]

    @property
    def best(self) -> int:
        """The place of the best epoch: of those on the longest sequences, the lowest held-out loss.

        Losses on shorter sequences are lower, and say nothing of the task. Of equal ones the first
        is taken; what is no number is higher than any.
        """

        def rank(place: int) -> tuple[int, bool, float]:
            loss = losses[place]
            return -self.epochs[place]["length"], math.isnan(loss), loss

        losses = self.held_out_losses
        return min(range(len(losses)), key=rank)

    @property
    def is_over(self) -> bool:
        """Whether the run is solved, or has had all of its epochs."""
        held_out = self.held_out_losses
        return len(held_out) == self.run.task.total_epochs or (
            bool(held_out) and self.run.task.is_solved(held_out[-1])
        )

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002 - Lightning's signature
        """Begin an epoch."""
        self._epoch_losses = []
        self._epoch_start = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: Trainer,  # noqa: ARG002 - Lightning's signature
        pl_module: LightningModule,  # noqa: ARG002 - Lightning's signature
        outputs: Any,  # noqa: ANN401 - Lightning's signature
        batch: Any,  # noqa: ANN401, ARG002 - Lightning's signature
        batch_idx: int,  # noqa: ARG002 - Lightning's signature
    ) -> None:
        """Keep the loss of an iteration."""
        self._epoch_losses.append(outputs["loss"])  # no number yet: a GPU need not be waited for

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002 - Lightning's signature
        """Write everything, the checkpoint last."""
        task = self.run.task
        losses = torch.stack(self._epoch_losses).double()
        self.losses += losses.tolist()
        held_out = {
            f"{task.held_out}_{name}": float(value)
            for name, value in trainer.callback_metrics.items()
        }
        epoch = len(self.epochs)
        row = {
            "epoch": epoch + 1,
            "iteration": len(self.losses),
            "length": task.length_at(epoch),
            "train_loss": float(losses.mean()),
            **held_out,
        }
        self.epochs.append(row)
        self.seconds += time.perf_counter() - self._epoch_start

        self.write_tables()
        if self.best == epoch:
            write_weights(self.directory / BEST, self.network.state_dict())
        write_weights(self.directory / LAST, self.network.state_dict())
        # Last: what is written above for an epoch that the checkpoint misses is written again.
        save = functools.partial(trainer.save_checkpoint, weights_only=False)  # the optimizer, too
        write_file(self.directory / CHECKPOINT, save)
        trainer.should_stop = self.is_over

    def write_tables(self) -> None:
        """Write the tables of iterations and epochs."""
        write_table(self.directory / EPOCHS, pd.DataFrame(self.epochs))
        write_table(self.directory / TRAINING, self._training_table())

    def _training_table(self) -> pd.DataFrame:
        epochs = pd.DataFrame(self.epochs)[["epoch", "iteration", "length"]]
        counts = epochs["iteration"].diff().fillna(epochs["iteration"]).astype(int)
        table = epochs.loc[epochs.index.repeat(counts)].reset_index(drop=True)
        table["iteration"] = range(1, len(self.losses) + 1)
        return table[["iteration", "epoch", "length"]].assign(loss=self.losses)


def restore(recorder: Recorder, checkpoint: Path) -> None:
    """Go back to the end of the last whole epoch, the run's files included.

    Raises:
        DamagedFileError: If the checkpoint, or the best model of an earlier epoch, is damaged.
    """
    content = read_checkpoint(checkpoint, recorder.network, recorder.state_key)
    recorder.load_state_dict(content["recorder"])
    directory = recorder.directory
    recorder.write_tables()
    write_weights(directory / LAST, content["weights"])
    if recorder.best == len(recorder.epochs) - 1:
        write_weights(directory / BEST, content["weights"])
    else:
        read_weights(directory / BEST)  # which cannot be made again
