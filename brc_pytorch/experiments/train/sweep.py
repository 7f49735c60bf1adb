"""A set of training runs, mapped over an executor, in output folders.

A folder belongs to one experiment. It holds `experiment.json`, the settings that its runs share,
and a directory for each run. Finished runs are skipped and stopped ones continued, so that the same
call, or one with more cells, lengths, layers or seeds, can be made on the same folder again, also
while the first one is under way: what another process trains is left to it, and waited for.
"""

import contextlib
import dataclasses
import functools
import os
import queue
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from brc_pytorch.experiments.files import (
    EXPERIMENT,
    RESULT,
    FileError,
    read_shared_settings,
    write_json,
)
from brc_pytorch.experiments.tasks import own_settings
from brc_pytorch.experiments.train.executors import Train, devices, in_processes, in_this_process
from brc_pytorch.experiments.train.locks import LockedError, hold
from brc_pytorch.experiments.train.machine import check_device_name, command_line
from brc_pytorch.experiments.train.run import Progress, Report, Run, check_same
from brc_pytorch.experiments.train.training import train

_SECONDS_TO_CLAIM = 30
_SECONDS_BETWEEN_TRIES = 2.0


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        run: The run.
        directory: Its directory.
        skipped: Whether it was finished before, or by another process while the sweep waited.
        error: Why it failed, or None if it is finished.
    """

    run: Run
    directory: Path
    skipped: bool = False
    error: BaseException | None = None


def shared_settings(run: Run) -> dict[str, Any]:
    """Return the settings that all runs of an experiment have in common."""
    own = own_settings(type(run.task))
    return {key: value for key, value in run.settings.items() if key not in own}


def check_folder(runs: Sequence[Run], directory: Path) -> None:
    """Check that an output folder is free for an experiment, or holds it already.

    Args:
        runs: The runs; they share all settings but the cell, the seed and the task's dimensions.
        directory: The output folder.

    Raises:
        ValueError: If there are no runs, they are of different experiments, or the folder holds
            another experiment; the message names the settings that differ. If its settings are
            damaged, it names their file.
    """
    if not runs:
        raise ValueError("runs: expected at least one, got none")
    settings = shared_settings(runs[0])
    for run in runs[1:]:
        check_same(shared_settings(run), settings, directory)
    if os.path.lexists(directory) and not directory.is_dir():
        raise ValueError(f"output: expected a folder, got the file {directory}")
    if os.path.lexists(directory / EXPERIMENT):
        check_same(settings, read_shared_settings(directory), directory)


def claim_folder(runs: Sequence[Run], directory: Path) -> None:
    """Make the output folder of an experiment, unless it is there.

    Raises:
        ValueError: If `check_folder` refuses the folder.
    """
    check_folder(runs, directory)
    path, lock = directory / EXPERIMENT, directory / "lock"
    if not path.exists():
        directory.mkdir(parents=True, exist_ok=True)
        with hold(lock, f"{directory} is being made", patience=_SECONDS_TO_CLAIM):
            check_folder(runs, directory)  # another command may have been faster
            if not path.exists():
                write_json(path, shared_settings(runs[0]))
        lock.unlink(missing_ok=True)


def check_plan(
    *,
    jobs: int | None = None,
    device: str = "auto",
    dask: str | None = None,
    tensorboard: bool = False,
) -> int | None:
    """Check how runs are to be trained; the arguments are those of `sweep`.

    Returns:
        Runs at a time, or None where a cluster's workers decide.

    Raises:
        ValueError: If `jobs` is below 1 or given for a cluster, the device is not there, or what
            the cluster or TensorBoard needs is not installed.
    """
    for wanted, argument, package, extra in (
        (dask is not None, "dask", "distributed", "cluster"),
        (tensorboard, "tensorboard", "tensorboard", "tensorboard"),
    ):
        if wanted and not find_spec(package):
            raise ValueError(
                f"{argument}: expected the package {package} to be installed, found none: "
                f'pip install "brc_pytorch[{extra}]"'
            )
    if dask is not None:
        check_device_name(device)  # it is the workers that need to have it
        if jobs is not None:
            raise ValueError(
                f"jobs: expected none with dask, since each of its workers takes a run, got {jobs}"
            )
        return None
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs: expected 1 or more, got {jobs}")
    return jobs or len(devices(device))


def sweep(
    runs: Sequence[Run],
    directory: Path,
    **options: Any,  # noqa: ANN401 - those of the next function
) -> list[Outcome]:
    """Train all runs of one experiment that are not finished, as `sweep_all` does of several."""
    return sweep_all({directory: runs}, **options)


def sweep_all(
    experiments: Mapping[Path, Sequence[Run]],
    *,
    jobs: int | None = None,
    device: str = "auto",
    dask: str | None = None,
    tensorboard: bool = False,
    report: Report | None = None,
    waiting: Callable[[str], None] | None = None,
    finished: Callable[[Outcome], None] | None = None,
) -> list[Outcome]:
    """Train all runs that are not finished.

    A run that fails does not end the others. Runs that other processes train meanwhile are
    waited for at the end, and continued if those processes stop.

    Args:
        experiments: The runs of each experiment, by its output folder.
        jobs: Runs at a time; by default one, or with CUDA one a device. One is trained in this
            process; more are trained in processes of their own, each with its share of this
            process's threads, which take the CUDA devices in turn.
        device: "cpu", "cuda" for every CUDA device, "cuda:1" for one, or "auto".
        dask: Address of the scheduler of a Dask cluster, whose workers train the runs instead.
            They need this package and the output folders at the same paths.
        tensorboard: Whether to keep a log of every run for TensorBoard, too.
        report: Called with each run's progress, in any thread of this process.
        waiting: Called with what is waited for: who trains a run, once for each that another
            process trains; and workers of a cluster.
        finished: Called with each run's outcome as it comes. What it or `waiting` raises stops
            the sweep.

    Returns:
        An outcome for each run, in the order of the experiments and runs.

    Raises:
        ValueError: If a folder holds another experiment, `check_plan` refuses the options, or no
            cluster answers.
        BrokenExecutor: If the cluster, or a process that trains a run, has died.
        KeyboardInterrupt: On Ctrl-C; the same call continues the runs that it stopped.
    """
    at_once = check_plan(jobs=jobs, device=device, dask=dask, tensorboard=tensorboard)
    for directory, runs in experiments.items():
        check_folder(runs, directory)
    # Absolute: a cluster's workers are elsewhere.
    places = {
        directory.absolute() / run.name: run
        for directory, runs in experiments.items()
        for run in runs
    }
    for directory, runs in experiments.items():
        claim_folder(runs, directory)

    def hear(progress: Progress) -> None:
        if report is not None and progress.directory in places:  # a cluster has other sweeps, too
            report(progress)

    unfinished = sum(not os.path.lexists(directory / RESULT) for directory in places)
    events: Events = queue.SimpleQueue()
    with _executor(
        unfinished, at_once, device, dask, report and hear, events.put, list(experiments)
    ) as (executor, function):
        options = {"tensorboard": tensorboard, "command": command_line()}
        train_there = functools.partial(function, **options)
        outcomes = {}
        for outcome in _until_all_end(executor, train_there, places, events, waiting):
            outcomes[outcome.directory] = outcome
            if finished is not None:
                finished(outcome)
    return [outcomes[directory] for directory in places]


def _until_all_end(
    executor: Executor,
    function: Train,
    places: Mapping[Path, Run],
    events: "Events",
    waiting: Callable[[str], None] | None,
) -> Iterator[Outcome]:
    """Train runs at their places, and wait for those that other processes train."""
    told: set[Path] = set()
    rest = dict(places)
    while True:
        for outcome in _map(executor, function, dict(rest), events, waiting):
            if not isinstance(outcome.error, LockedError):
                del rest[outcome.directory]
                yield outcome
            elif waiting is not None and outcome.directory not in told:
                told.add(outcome.directory)
                waiting(f"{outcome.error}; coming back to it")
        if not rest:
            return
        time.sleep(_SECONDS_BETWEEN_TRIES)


Events = queue.SimpleQueue[Path | str]
"""Places whose runs have ended, and what is waited for, from any thread."""


def _map(
    executor: Executor,
    function: Train,
    places: Mapping[Path, Run],
    events: Events,
    waiting: Callable[[str], None] | None,
) -> Iterator[Outcome]:
    """Train runs at their places; yield each outcome as it comes.

    Raises:
        BrokenExecutor: If the executor can train no more.
    """
    futures: dict[Path, Future[Any]] = {}
    left = len(places)

    def hear(*, block: bool) -> Iterator[Outcome]:
        nonlocal left
        while left and (block or not events.empty()):
            event = events.get()
            if isinstance(event, str):
                if waiting is not None:
                    waiting(event)
                continue
            left -= 1
            outcome = _outcome(places[event], event, futures[event])
            if isinstance(outcome.error, BrokenExecutor):
                raise outcome.error
            yield outcome

    for directory, run in places.items():
        future = futures[directory] = _skip_or_submit(executor, function, run, directory)
        future.add_done_callback(functools.partial(_put, events, directory))
        yield from hear(block=False)
    yield from hear(block=True)


def _put(events: Events, directory: Path, _: Future[Any]) -> None:
    events.put(directory)


def _skip_or_submit(executor: Executor, function: Train, run: Run, directory: Path) -> Future[Any]:
    """Submit a run; of one that is finished return the future of nothing instead."""
    if not os.path.lexists(directory / RESULT):
        return executor.submit(function, run, directory)
    known: Future[Any] = Future()
    try:
        train(run, directory)  # returns at once, or refuses what is there
    except (FileError, OSError) as error:
        known.set_exception(error)
    else:
        known.set_result(None)
    return known


def _outcome(run: Run, directory: Path, future: Future[Any]) -> Outcome:
    """Return how a run ended."""
    if future.cancelled():  # not by us
        error = CancelledError("the cluster ended, or another program cancelled the run")
        return Outcome(run, directory, error=error)
    failure = future.exception()
    skipped = failure is None and future.result() is None
    return Outcome(run, directory, skipped=skipped, error=failure)


def _executor(
    unfinished: int,
    at_once: int | None,
    device: str,
    dask: str | None,
    report: Report | None,
    tell: Callable[[str], None],
    folders: Sequence[Path],
) -> contextlib.AbstractContextManager[tuple[Executor, Train]]:
    """Give an executor for a number of runs, and the function that trains a run in it."""
    if not unfinished:
        return in_this_process("cpu", report)
    if dask is not None:
        from brc_pytorch.experiments.train.cluster import on_cluster  # noqa: PLC0415 - an extra

        return on_cluster(dask, device, report, tell, [folder.absolute() for folder in folders])
    jobs = min(at_once or 1, unfinished)
    if jobs == 1:
        return in_this_process(devices(device)[0], report)
    return in_processes(jobs, devices(device), report)
