"""One training run: a task, a cell and a seed, in one directory.

The directory holds, each written to a temporary name and moved into place:

- `config.json`: the settings, and for every start the versions and the machine;
- `training.csv`: the loss of every gradient iteration;
- `epochs.csv`: the held-out metrics after every epoch;
- `test.csv`: the metrics of the last model for every test length, where the task has them;
- `best.pt` and `last.pt`: the state dictionaries of the network with the lowest held-out loss,
  and after the last epoch; read them with `torch.load(path, weights_only=True)`;
- `resume.ckpt`: Lightning's checkpoint of the last whole epoch, gone when the run is finished;
- `result.json`: the outcome, written last. A run is finished when it is there.

A run that is stopped at any moment goes on from its last whole epoch, and ends with the same
metrics and weights as one that was never stopped: the checkpoint holds all that the tables hold,
and every random number is drawn from a stream that the seed and the epoch determine.
"""

import contextlib
import dataclasses
import datetime as dt
import functools
import json
import logging
import math
import os
import platform
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor, nn
from torch.utils.data import DataLoader

from brc_pytorch import ops
from brc_pytorch.experiments.tasks import Data, Inputs, Task, random_stream, settings

CONFIG, RESULT, CHECKPOINT = "config.json", "result.json", "resume.ckpt"
TRAINING, EPOCHS, TEST = "training.csv", "epochs.csv", "test.csv"
BEST, LAST = "best.pt", "last.pt"

_SECONDS_BETWEEN_UPDATES = 0.2


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
        name: Name of the run.
        iteration: Gradient iterations done.
        iterations: Gradient iterations of the whole run, if it is not ended early.
        doing: What the run is at, where its name does not tell: a length, or a test.
        loss: Training loss of the last iteration.
        held_out: Held-out loss of the last epoch.
        held_out_name: What that loss is called: test or validation.
    """

    name: str
    iteration: int
    iterations: int
    doing: str
    loss: float | None = None
    held_out: float | None = None
    held_out_name: str = ""


Report = Callable[[Progress], None]


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then move it into place."""
    temporary = path.with_name(f"{path.name}.tmp")
    write(temporary)
    temporary.replace(path)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a mapping as indented JSON, all or nothing."""
    write_file(
        path, lambda file: file.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
    )


def read_json(path: Path) -> dict[str, Any]:
    """Read a mapping from JSON."""
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def _write_table(path: Path, table: pd.DataFrame) -> None:
    write_file(path, lambda file: table.to_csv(file, index=False))


def choose_device(name: str) -> torch.device:
    """Turn "auto", "cpu" or "cuda" into a device; "auto" is CUDA where there is one.

    Raises:
        ValueError: If the name is another one, or CUDA is asked for and not there.
    """
    if name not in {"auto", "cpu", "cuda"}:
        raise ValueError(f"device: expected auto, cpu or cuda, got {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device: expected a CUDA device for 'cuda', found none; use cpu or auto")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _describe_start(device: torch.device) -> dict[str, Any]:
    """Describe the moment, the versions and the machine of a start."""
    packages = ("brc_pytorch", "torch", "lightning", "numpy", "pandas")
    machine = {
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": device.type,
        "backend": ops.backend_for(device),
    }
    if device.type == "cuda":
        machine["gpu"] = torch.cuda.get_device_name(device)
    return {
        "time": dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds"),
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

        _write_table(self.directory / EPOCHS, pd.DataFrame(self.epochs))
        _write_table(self.directory / TRAINING, self._training_table())
        weights = {key: value.cpu() for key, value in self.network.state_dict().items()}
        if _lowest(self.held_out_losses) == epoch:
            write_file(self.directory / BEST, lambda file: torch.save(weights, file))
        write_file(self.directory / LAST, lambda file: torch.save(weights, file))
        # Last: what is written above for an epoch that the checkpoint misses is written again.
        save = functools.partial(trainer.save_checkpoint, weights_only=False)  # the optimizer, too
        write_file(self.directory / CHECKPOINT, save)
        trainer.should_stop = self.is_over

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
                name=run.name,
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
        devices=1,
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


def _fit(
    run: Run, network: nn.Module, directory: Path, device: torch.device, report: Report | None
) -> _Recorder:
    """Train from the checkpoint, or from the start, to the end."""
    recorder = _Recorder(run, network, directory)
    checkpoint = directory / CHECKPOINT
    resumed = checkpoint.exists()
    if resumed:
        states = torch.load(checkpoint, map_location="cpu", weights_only=True)["callbacks"]
        recorder.load_state_dict(states[recorder.state_key])
    if not recorder.is_over:
        callbacks: list[Callback] = [recorder]
        if report is not None:
            callbacks.append(_Reporter(report, recorder))
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
    network.load_state_dict(torch.load(directory / LAST, weights_only=True))
    return recorder


def _test(recorder: _Recorder, device: torch.device, report: Report | None) -> None:
    """Test the last model on every test length that the task has."""
    run, iterations = recorder.run, len(recorder.losses)
    trainer = _trainer(recorder.directory, device, 1, [])
    module = _Module(run, recorder.network)
    rows = []
    for length, data in run.task.final_tests(run.seed):
        if report is not None:
            report(Progress(run.name, iterations, iterations, f"test of length {length}"))
        batches = _batches(data, torch.arange(len(data)), run.task.batch_size)
        (metrics,) = trainer.validate(module, batches, verbose=False, weights_only=True)
        rows.append({"length": length, **metrics})
    if rows:
        _write_table(recorder.directory / TEST, pd.DataFrame(rows))


def train(
    run: Run, directory: Path, device: str = "auto", report: Report | None = None
) -> dict[str, Any]:
    """Train one run to its end, from wherever it was stopped, unless it is finished.

    Args:
        run: What to train.
        directory: Where its files go; made if it is not there.
        device: "cpu", "cuda" or "auto". A run repeats bit for bit on the same machine, device and
            number of threads.
        report: Called a few times a second with how far the run has come, in this thread.

    Returns:
        The content of `result.json`.

    Raises:
        ValueError: If the directory holds a run with other settings, the cell is unknown, or the
            device is not there.
        KeyboardInterrupt: On Ctrl-C; the same call continues the run.
        SystemExit: On SIGTERM; likewise.
    """
    chosen = choose_device(device)
    directory.mkdir(parents=True, exist_ok=True)
    config_path = directory / CONFIG
    config: dict[str, Any] = {"settings": run.settings, "starts": []}
    if config_path.exists():
        config = read_json(config_path)
        check_same(run.settings, config["settings"], directory)
    if (directory / RESULT).exists():
        (directory / CHECKPOINT).unlink(missing_ok=True)  # killed between the last two lines below
        return read_json(directory / RESULT)
    config["starts"].append(_describe_start(chosen))
    write_json(config_path, config)

    with _quiet(), torch.random.fork_rng([chosen] if chosen.type == "cuda" else []):
        torch.manual_seed(random_stream(run.seed, "weights").initial_seed())
        network = run.task.network(run.cell)
        recorder = _fit(run, network, directory, chosen, report)
        _test(recorder, chosen, report)

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
        **config["starts"][-1],
    }
    write_json(directory / RESULT, result)
    (directory / CHECKPOINT).unlink()
    return result


def _finite(value: float) -> float | None:
    """Return a number, or None for what JSON does not know."""
    return value if math.isfinite(value) else None


def check_same(wanted: Mapping[str, Any], found: Mapping[str, Any], directory: Path) -> None:
    """Refuse a directory whose settings are other ones than wanted.

    Raises:
        ValueError: If any setting differs; the message names each with both values.
    """
    differences = [
        f"{key} is {found.get(key)!r} there, {wanted.get(key)!r} here"
        for key in {**found, **wanted}
        if found.get(key) != wanted.get(key)
    ]
    if differences:
        raise ValueError(
            f"output: expected an empty folder or this experiment, but {directory} holds another "
            f"one: {'; '.join(differences)}"
        )
