"""One training run: a task, a cell and a seed, in one directory; `train.files` says what is in it.

A run that is stopped at any moment goes on from its last whole epoch, and ends with the same
metrics and weights as one that was never stopped: the checkpoint holds all that the tables hold,
and every random number is drawn from a stream that the seed and the epoch determine.
"""

import contextlib
import dataclasses
import datetime as dt
import functools
import logging
import math
import os
import platform
import re
import shlex
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor, nn
from torch.utils.data import DataLoader

from brc_pytorch import ops
from brc_pytorch.experiments.locks import hold
from brc_pytorch.experiments.tasks import Data, Inputs, Task, random_stream, settings
from brc_pytorch.experiments.train.denormals import flushed
from brc_pytorch.experiments.train.files import (
    BEST,
    CHECKPOINT,
    CONFIG,
    EPOCHS,
    LAST,
    LOCK,
    RESULT,
    TEST,
    TRAINING,
    DamagedFileError,
    FileError,
    read_config,
    read_result,
    write_file,
    write_json,
    write_table,
)
from brc_pytorch.experiments.train.weights import read_checkpoint, read_weights, write_weights

if TYPE_CHECKING:
    from brc_pytorch.experiments.tensorboard import TensorBoardLog

_SECONDS_BETWEEN_UPDATES = 0.2
_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Run:
    """What is trained; two runs that are equal give the same result.

    Attributes:
        task: The task with its settings.
        cell: Name of the cell, one of `tasks.CELLS` or `module:Class`.
        seed: Seed of the data, the first weights and the order of the batches.
    """

    task: Task
    cell: str
    seed: int

    @property
    def name(self) -> str:
        """Name of the run's directory: the cell, the task's dimensions and the seed."""
        dimensions = [f"{key}{getattr(self.task, key)}" for key in self.task.dimensions]
        return "-".join([self.cell.replace(":", "."), *dimensions, f"seed{self.seed}"])

    @property
    def settings(self) -> dict[str, Any]:
        """Everything the result depends on, as plain data."""
        return {
            "task": self.task.name,
            "cell": self.cell,
            "seed": self.seed,
            **settings(self.task),
        }


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run has come.

    Attributes:
        directory: Where the run's files go.
        iteration: Gradient iterations done.
        iterations: Gradient iterations of the whole run, if it is not ended early.
        doing: What the run is at, where its name does not tell: a length, or a test.
        loss: Training loss of the last iteration.
        held_out: Held-out loss of the last epoch.
        held_out_name: What that loss is called: test or validation.
    """

    directory: Path
    iteration: int
    iterations: int
    doing: str
    loss: float | None = None
    held_out: float | None = None
    held_out_name: str = ""


Report = Callable[[Progress], None]


def choose_device(name: str) -> torch.device:
    """Turn "auto", "cpu", "cuda" or "cuda:1" into a device; "auto" is CUDA where there is one.

    Raises:
        ValueError: If the name is another one, or CUDA is asked for and not there.
    """
    check_device_name(name)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        name = "cuda" if count else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ValueError(
            f"device: expected a CUDA device for {name!r}, found {count or 'none'}; use cpu or auto"
        )
    return device


def check_device_name(name: str) -> None:
    """Refuse what names no device of any machine.

    Raises:
        ValueError: If the name is not one that `choose_device` knows.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise ValueError(f"device: expected auto, cpu, cuda or cuda:N, got {name!r}")


def command_line() -> str:
    """Return how this process was called, as a shell takes it, without the program's folder."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def _describe_start(device: torch.device, flushes: bool, command: str) -> dict[str, Any]:
    """Describe the moment, the command, the versions and the machine of a start."""
    packages = ("brc_pytorch", "torch", "lightning", "numpy", "pandas")
    machine = {
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": device.type,
        "backend": ops.backend_for(device),
        "flushes denormals": flushes,
    }
    if device.type == "cuda":
        machine["gpu"] = torch.cuda.get_device_name(device)
    return {
        "time": dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds"),
        "command": command,
        "versions": {"python": platform.python_version(), **{p: version(p) for p in packages}},
        "machine": machine,
    }


def _processor() -> str:
    """Return the processor's name; on Linux the `platform` module knows only its family."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


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


class _Recorder(Callback):
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
        return {"losses": self.losses, "epochs": self.epochs, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.losses = state_dict["losses"]
        self.epochs = state_dict["epochs"]
        self.seconds = state_dict["seconds"]

    @property
    def held_out_losses(self) -> list[float]:
        return [row[f"{self.run.task.held_out}_loss"] for row in self.epochs]

    @property
    def is_over(self) -> bool:
        held_out = self.held_out_losses
        return len(held_out) == self.run.task.total_epochs or (
            bool(held_out) and self.run.task.is_solved(held_out[-1])
        )

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002 - Lightning's signature
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
        self._epoch_losses.append(outputs["loss"])  # no number yet: a GPU need not be waited for

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002 - Lightning's signature
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
        if _lowest(self.held_out_losses) == epoch:
            write_weights(self.directory / BEST, self.network.state_dict())
        write_weights(self.directory / LAST, self.network.state_dict())
        # Last: what is written above for an epoch that the checkpoint misses is written again.
        save = functools.partial(trainer.save_checkpoint, weights_only=False)  # the optimizer, too
        write_file(self.directory / CHECKPOINT, save)
        trainer.should_stop = self.is_over

    def write_tables(self) -> None:
        write_table(self.directory / EPOCHS, pd.DataFrame(self.epochs))
        write_table(self.directory / TRAINING, self._training_table())

    def _training_table(self) -> pd.DataFrame:
        epochs = pd.DataFrame(self.epochs)[["epoch", "iteration", "length"]]
        counts = epochs["iteration"].diff().fillna(epochs["iteration"]).astype(int)
        table = epochs.loc[epochs.index.repeat(counts)].reset_index(drop=True)
        table["iteration"] = range(1, len(self.losses) + 1)
        return table[["iteration", "epoch", "length"]].assign(loss=self.losses)


def _lowest(losses: Sequence[float]) -> int:
    """Return the place of the first lowest loss; what is no number is higher than any."""
    return min(range(len(losses)), key=lambda place: (math.isnan(losses[place]), losses[place]))


class _Reporter(Callback):
    """Tells how far the run has come, a few times a second."""

    def __init__(self, report: Report, recorder: _Recorder) -> None:
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
def _quiet() -> Iterator[None]:
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

    def __init__(self, log: "TensorBoardLog", recorder: _Recorder) -> None:
        self._log = log
        self.recorder = recorder

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002 - Lightning's signature
        self._log.add(self.recorder.losses, self.recorder.epochs)


def _fit(
    run: Run,
    network: nn.Module,
    directory: Path,
    device: torch.device,
    report: Report | None,
    log: "TensorBoardLog | None",
) -> _Recorder:
    """Train from the checkpoint, or from the start, to the end."""
    recorder = _Recorder(run, network, directory)
    checkpoint = directory / CHECKPOINT
    resumed = os.path.lexists(checkpoint)
    if resumed:
        _restore(recorder, checkpoint)
    if log is not None:
        log.add(recorder.losses, recorder.epochs)
    if not recorder.is_over:
        callbacks: list[Callback] = [recorder]
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
        except SIGTERMException as stop:
            # Lightning ends the batch first; it would exit as if nothing had happened.
            raise SystemExit(128 + signal.SIGTERM) from stop
        except SystemExit as stop:
            # Lightning turns Ctrl-C into an exit; the caller decides what becomes of it.
            if isinstance(stop.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from stop
            raise
    network.load_state_dict(read_weights(directory / LAST))
    return recorder


def _restore(recorder: _Recorder, checkpoint: Path) -> None:
    """Go back to the end of the last whole epoch, the run's files included.

    Raises:
        DamagedFileError: If the checkpoint, or the best model of an earlier epoch, is damaged.
    """
    content = read_checkpoint(checkpoint, recorder.network, recorder.state_key)
    recorder.load_state_dict(content["recorder"])
    directory = recorder.directory
    recorder.write_tables()
    write_weights(directory / LAST, content["weights"])
    if _lowest(recorder.held_out_losses) == len(recorder.epochs) - 1:
        write_weights(directory / BEST, content["weights"])
    else:
        read_weights(directory / BEST)  # which cannot be made again


def _test(recorder: _Recorder, device: torch.device, report: Report | None) -> list[dict[str, Any]]:
    """Test the last model on every test length that the task has; return the rows of the table."""
    run, iterations = recorder.run, len(recorder.losses)
    trainer = _trainer(recorder.directory, device, 1, [])
    module = _Module(run, recorder.network)
    rows = []
    for length, data in run.task.final_tests(run.seed):
        if report is not None:
            doing = f"test of length {length}"
            report(Progress(recorder.directory, iterations, iterations, doing))
        batches = _batches(data, torch.arange(len(data)), run.task.batch_size)
        (metrics,) = trainer.validate(module, batches, verbose=False, weights_only=True)
        rows.append({"length": length, **metrics})
    if rows:
        write_table(recorder.directory / TEST, pd.DataFrame(rows))
    return rows


def train(
    run: Run,
    directory: Path,
    device: str = "auto",
    report: Report | None = None,
    *,
    tensorboard: bool = False,
    command: str | None = None,
) -> dict[str, Any]:
    """Train one run to its end, from wherever it was stopped, unless it is finished.

    Args:
        run: What to train.
        directory: Where its files go; made if it is not there.
        device: "cpu", "cuda", "cuda:1" or "auto". A run repeats bit for bit on the same machine,
            device and number of threads.
        report: Called a few times a second with how far the run has come, in this thread. What it
            raises stops the run.
        tensorboard: Whether to keep a log for TensorBoard, too.
        command: The command that the run is part of, for its files; by default this process's.

    Returns:
        The content of `result.json`.

    Denormal numbers are taken for zero meanwhile, where the processor can.

    Raises:
        ValueError: If the directory holds a run with other settings, the cell is unknown, or the
            device is not there.
        DamagedFileError: If a file of the run is damaged. Nothing is written then.
        OSError: If a file cannot be written.
        LockedError: If another process trains the run.
        KeyboardInterrupt: On Ctrl-C; the same call continues the run.
        SystemExit: On SIGTERM; likewise.
    """
    chosen = choose_device(device)
    if os.path.lexists(directory) and not directory.is_dir():
        raise DamagedFileError(directory, "the folder of a run", "a file")
    directory.mkdir(parents=True, exist_ok=True)
    if not os.path.lexists(directory / RESULT):
        with hold(directory / LOCK, f"{directory.name} is being trained"), flushed() as flush:
            if not (directory / RESULT).exists():  # by whoever held the lock
                start = _describe_start(chosen, flush, command or command_line())
                _train_to_the_end(run, directory, chosen, start, report, tensorboard)
    check_same(run.settings, read_config(directory)["settings"], directory / CONFIG)
    result = read_result(directory, run.task.held_out)
    for name in (BEST, LAST):
        if os.path.lexists(directory / name):  # whoever needs the space has removed them
            read_weights(directory / name)
    for name in (CHECKPOINT, LOCK):
        (directory / name).unlink(missing_ok=True)
    return result


@contextlib.contextmanager
def _tensorboard_log(run: Run, directory: Path, wanted: bool) -> Iterator["TensorBoardLog | None"]:
    """Give the run's log for TensorBoard, if there is to be one."""
    if not wanted:
        yield None
        return
    from brc_pytorch.experiments.tensorboard import TensorBoardLog  # noqa: PLC0415 - an extra

    with contextlib.closing(TensorBoardLog(directory, run.task.held_out)) as log:
        yield log


def _train_to_the_end(
    run: Run,
    directory: Path,
    device: torch.device,
    start: dict[str, Any],
    report: Report | None,
    tensorboard: bool,
) -> None:
    """Train a run that is not finished, from its checkpoint if it has one, and write its result."""
    config: dict[str, Any] = {"settings": run.settings, "starts": []}
    if os.path.lexists(directory / CONFIG):
        config = read_config(directory)
        check_same(run.settings, config["settings"], directory / CONFIG)
        _tell_other_versions(config["starts"], start, directory)
    elif os.path.lexists(directory / CHECKPOINT):
        raise DamagedFileError(directory / CONFIG, f"the settings of {CHECKPOINT}", "no file")
    for half_written in directory.glob("*.tmp"):
        half_written.unlink()
    config["starts"].append(start)
    write_json(directory / CONFIG, config)

    with (
        _quiet(),
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        _tensorboard_log(run, directory, tensorboard) as log,
    ):
        torch.manual_seed(random_stream(run.seed, "weights").initial_seed())
        network = run.task.network(run.cell)
        recorder = _fit(run, network, directory, device, report, log)
        tests = _test(recorder, device, report)
        if log is not None:
            log.add_tests(tests)

    held_out = recorder.held_out_losses
    best = _lowest(held_out)
    result = {
        "settings": run.settings,
        "parameters": sum(p.numel() for p in network.parameters()),
        "epochs": len(held_out),
        "iterations": len(recorder.losses),
        "solved": run.task.is_solved(held_out[-1]),
        f"best_{run.task.held_out}_loss": _finite(held_out[best]),
        "best_epoch": best + 1,
        f"last_{run.task.held_out}_loss": _finite(held_out[-1]),
        "seconds": round(recorder.seconds, 3),
        **start,
    }
    write_json(directory / RESULT, result)


def _tell_other_versions(
    starts: Sequence[Mapping[str, Any]], start: Mapping[str, Any], directory: Path
) -> None:
    """Say in a line that a run goes on with other versions than it had before."""
    before = starts[-1]["versions"] if starts else start["versions"]
    changes = [
        f"{name} was {before.get(name)}, is {found}"
        for name, found in start["versions"].items()
        if before.get(name) != found
    ]
    if changes and os.path.lexists(directory / CHECKPOINT):
        _logger.warning(
            "%s: the run goes on with other versions, and may end with other bits: %s",
            directory / CONFIG,
            "; ".join(changes),
        )


def _finite(value: float) -> float | None:
    """Return a number, or None for what JSON does not know."""
    return value if math.isfinite(value) else None


class OtherSettingsError(FileError):
    """A file holds the settings of something else than is trained."""


def check_same(wanted: Mapping[str, Any], found: Mapping[str, Any], path: Path) -> None:
    """Refuse a file whose settings are other ones than wanted.

    Raises:
        OtherSettingsError: If any setting differs; the message names each with both values.
    """
    differences = [
        f"{key} is {found.get(key)!r} there, {wanted.get(key)!r} here"
        for key in {**found, **wanted}
        if found.get(key) != wanted.get(key)
    ]
    if differences:
        raise OtherSettingsError(
            f"output: expected an empty folder or this experiment, but {path} holds another "
            f"one: {'; '.join(differences)}"
        )
