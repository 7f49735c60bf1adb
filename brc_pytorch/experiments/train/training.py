"""One training run: a task, a cell and a seed, in one directory; `files` says what is in it.

A run that is stopped at any moment goes on from its last whole epoch, and ends with the same
metrics and weights as one that was never stopped: the checkpoint holds all that the tables hold,
and every random number is drawn from a stream that the seed and the epoch determine.
"""

import contextlib
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from brc_pytorch.experiments.files import (
    BEST,
    CHECKPOINT,
    CONFIG,
    LAST,
    LOCK,
    RESULT,
    DamagedFileError,
    read_config,
    read_result,
    write_json,
)
from brc_pytorch.experiments.tasks import VALIDATION_SEED
from brc_pytorch.experiments.tasks.networks import first_network
from brc_pytorch.experiments.train.denormals import flushed
from brc_pytorch.experiments.train.fit import fit, quiet, test
from brc_pytorch.experiments.train.locks import hold
from brc_pytorch.experiments.train.machine import choose_device, command_line, describe_start
from brc_pytorch.experiments.train.run import Report, Run, check_same
from brc_pytorch.experiments.train.stopping import Stopper, stopping_between_batches
from brc_pytorch.experiments.weights import read_weights

if TYPE_CHECKING:
    from brc_pytorch.experiments.train.tensorboard import TensorBoardLog

_logger = logging.getLogger(__name__)


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
        KeyboardInterrupt: On Ctrl-C, at the end of the batch; the same call continues the run.
        SystemExit: On SIGTERM; likewise.
    """
    chosen = choose_device(device)
    if os.path.lexists(directory) and not directory.is_dir():
        raise DamagedFileError(directory, "the folder of a run", "a file")
    directory.mkdir(parents=True, exist_ok=True)
    if not os.path.lexists(directory / RESULT):
        with (
            stopping_between_batches() as stopper,
            hold(directory / LOCK, f"{directory.name} is being trained"),
            flushed() as flush,
        ):
            if not (directory / RESULT).exists():  # by whoever held the lock
                start = describe_start(chosen, flush, command or command_line())
                _train_to_the_end(run, directory, chosen, start, report, tensorboard, stopper)
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
    from brc_pytorch.experiments.train.tensorboard import TensorBoardLog  # noqa: PLC0415 - an extra

    with contextlib.closing(TensorBoardLog(directory, run.task.held_out)) as log:
        yield log


def _train_to_the_end(
    run: Run,
    directory: Path,
    device: torch.device,
    start: dict[str, Any],
    report: Report | None,
    tensorboard: bool,
    stopper: Stopper,
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
        quiet(),
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        _tensorboard_log(run, directory, tensorboard) as log,
    ):
        if os.path.lexists(directory / CHECKPOINT):
            network = run.task.network(run.cell)  # for the weights of the checkpoint
        else:
            network = first_network(run.task, run.cell, run.seed)
        recorder = fit(run, network, directory, device, report, log, stopper)
        # Whoever chooses settings does not look at the tests.
        tests = [] if run.seed == VALIDATION_SEED else test(recorder, device, report, stopper)
        if log is not None:
            log.add_tests(tests)

    held_out = recorder.held_out_losses
    result = {
        "settings": run.settings,
        "parameters": sum(p.numel() for p in network.parameters()),
        "epochs": len(held_out),
        "iterations": len(recorder.losses),
        "solved": run.task.is_solved(held_out[-1]),
        f"best_{run.task.held_out}_loss": _finite(held_out[recorder.best]),
        "best_epoch": recorder.best + 1,
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
