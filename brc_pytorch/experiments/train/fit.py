"""Lightning, set up for a run: its training, and the tests of its last model."""

import contextlib
import logging
import os
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from brc_pytorch.experiments.files import CHECKPOINT, LAST, TEST, write_table
from brc_pytorch.experiments.tasks import random_stream
from brc_pytorch.experiments.tasks.task import Data, Inputs
from brc_pytorch.experiments.train.recorder import Recorder, restore
from brc_pytorch.experiments.train.run import Progress, Report, Run
from brc_pytorch.experiments.weights import read_weights

if TYPE_CHECKING:
    from brc_pytorch.experiments.train.tensorboard import TensorBoardLog

_SECONDS_BETWEEN_UPDATES = 0.2


def _batches(data: Data, order: Tensor, batch_size: int) -> DataLoader[tuple[Inputs, Tensor]]:
    """Load whole batches by index, so that nothing is collated and no worker is needed."""
    # With a generator of its own it leaves the global one, the cells', alone.
    return DataLoader(
        data,
        sampler=torch.split(order, batch_size),
        batch_size=None,
        generator=torch.Generator(),
    )


class _Module(LightningModule):
    """The network with its task, as Lightning wants it."""

    def __init__(self, run: Run, network: nn.Module) -> None:
        super().__init__()
        self.run = run
        self.network = network
        self._length = -1
        self._data: tuple[Data, Data]

    def _current_data(self) -> tuple[Data, Data]:
        length = self.run.task.length_at(self.current_epoch)
        if length != self._length:
            self._length, self._data = length, self.run.task.data(self.run.seed, length)
        return self._data

    def train_dataloader(self) -> DataLoader[tuple[Inputs, Tensor]]:
        data, _ = self._current_data()
        generator = random_stream(self.run.seed, "order", self.current_epoch)
        order = torch.randperm(len(data), generator=generator)
        return _batches(data, order, self.run.task.batch_size)

    def val_dataloader(self) -> DataLoader[tuple[Inputs, Tensor]]:
        _, data = self._current_data()
        return _batches(data, torch.arange(len(data)), self.run.task.batch_size)

    def on_train_epoch_start(self) -> None:
        # Whatever a cell draws itself, as dropout does, must not depend on earlier epochs.
        noise = random_stream(self.run.seed, "noise", self.current_epoch)
        torch.manual_seed(noise.initial_seed())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.network.parameters(), lr=self.run.task.learning_rate)

    def training_step(self, batch: tuple[Inputs, Tensor]) -> Tensor:
        inputs, targets = batch
        return self.run.task.loss(self.network(inputs), targets)

    def validation_step(self, batch: tuple[Inputs, Tensor]) -> None:
        inputs, targets = batch
        metrics = self.run.task.metrics(self.network(inputs), targets)
        self.log_dict(metrics, on_epoch=True, batch_size=len(targets))


class _Reporter(Callback):
    """Tells how far the run has come, a few times a second."""

    def __init__(self, report: Report, recorder: Recorder) -> None:
        self.report = report
        self.recorder = recorder
        self._loss: Tensor | None = None
        self._next = 0.0

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,  # noqa: ARG002 - Lightning's signature
        outputs: Any,  # noqa: ANN401 - Lightning's signature
        batch: Any,  # noqa: ANN401, ARG002 - Lightning's signature
        batch_idx: int,  # noqa: ARG002 - Lightning's signature
    ) -> None:
        self._loss = outputs["loss"]
        task = self.recorder.run.task
        length = task.length_at(trainer.current_epoch)
        changes = task.length_at(0) != task.length_at(task.total_epochs - 1)
        self._tell(trainer, f"length {length}" if changes else "")

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:  # noqa: ANN401 - unused
        self._tell(trainer, self.recorder.run.task.held_out)

    def _tell(self, trainer: Trainer, doing: str) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _SECONDS_BETWEEN_UPDATES
        run, held_out = self.recorder.run, self.recorder.held_out_losses
        self.report(
            Progress(
                directory=self.recorder.directory,
                iteration=trainer.global_step,
                iterations=run.task.total_epochs * int(trainer.num_training_batches),
                doing=doing,
                loss=None if self._loss is None else float(self._loss),
                held_out=held_out[-1] if held_out else None,
                held_out_name=run.task.held_out,
            )
        )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep to itself what Lightning says of its own choices, which are made here on purpose."""
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            # The data are in memory and loaded by the batch: workers would only slow it down.
            warnings.filterwarnings("ignore", "The '.*_dataloader' does not have many")
            # The user chose the CPU.
            warnings.filterwarnings("ignore", "GPU available but not used")
            # On a GPU torch copies the baselines' weights together, which are those of cells.
            warnings.filterwarnings("ignore", "RNN module weights are not part of single")
            # Lightning 2.6 asks torch for its trees in a way that torch 2.13 will drop.
            warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\)", FutureWarning)
            yield
    finally:
        logger.setLevel(level)


def _trainer(
    directory: Path, device: torch.device, epochs: int, callbacks: list[Callback]
) -> Trainer:
    return Trainer(
        default_root_dir=directory,
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=[device.index or 0] if device.type == "cuda" else 1,
        # Runs are independent: within a cluster's job, too, each one is a process by itself.
        plugins=[LightningEnvironment()],
        use_distributed_sampler=False,
        max_epochs=epochs,
        # The order of the batches, and for binary addition the length, change with the epoch.
        reload_dataloaders_every_n_epochs=1,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        callbacks=callbacks,
    )


class _TensorBoard(Callback):
    """Adds to the log what the recorder has written, checkpoint included."""

    def __init__(self, log: "TensorBoardLog", recorder: Recorder) -> None:
        self._log = log
        self.recorder = recorder

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002 - Lightning's signature
        self._log.add(self.recorder.losses, self.recorder.epochs)


def fit(
    run: Run,
    network: nn.Module,
    directory: Path,
    device: torch.device,
    report: Report | None,
    log: "TensorBoardLog | None",
    stopper: Callback,
) -> Recorder:
    """Train from the checkpoint, or from the start, to the end."""
    recorder = Recorder(run, network, directory)
    checkpoint = directory / CHECKPOINT
    resumed = os.path.lexists(checkpoint)
    if resumed:
        restore(recorder, checkpoint)
    if log is not None:
        log.add(recorder.losses, recorder.epochs)
    if not recorder.is_over:
        callbacks = [recorder, stopper]
        if report is not None:
            callbacks.append(_Reporter(report, recorder))
        if log is not None:
            callbacks.append(_TensorBoard(log, recorder))
        trainer = _trainer(directory, device, run.task.total_epochs, callbacks)
        try:
            trainer.fit(
                _Module(run, network),
                ckpt_path=checkpoint if resumed else None,
                weights_only=True,
            )
        except SystemExit as stop:
            # Lightning makes an exit of a callback's KeyboardInterrupt; here it stays one.
            if isinstance(stop.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from stop
            raise
    network.load_state_dict(read_weights(directory / LAST))
    return recorder


def test(
    recorder: Recorder, device: torch.device, report: Report | None, stopper: Callback
) -> list[dict[str, Any]]:
    """Test the last model on every test length that the task has; return the rows of the table."""
    run, iterations = recorder.run, len(recorder.losses)
    trainer = _trainer(recorder.directory, device, 1, [stopper])
    module = _Module(run, recorder.network)

    def evaluate(data: Data) -> dict[str, float]:
        batches = _batches(data, torch.arange(len(data)), run.task.batch_size)
        (metrics,) = trainer.validate(module, batches, verbose=False, weights_only=True)
        return dict(metrics)

    recorder.network.to(device)
    rows = []
    for row in run.task.final_tests(recorder.network, run.seed, evaluate):
        rows.append(row)
        if report is not None:
            doing = f"tested up to length {row['length']:,}"
            report(Progress(recorder.directory, iterations, iterations, doing))
    if rows:
        write_table(recorder.directory / TEST, pd.DataFrame(rows))
    return rows
