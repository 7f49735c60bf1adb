"""A set of training runs, mapped over processes, in one output folder.

The folder holds `experiment.json`, the settings that its runs share, and a directory for each
run. Finished runs are skipped and stopped ones continued, so that the same call, or one with more
cells, lengths, layers or seeds, can be made on the same folder again.
"""

import contextlib
import dataclasses
import functools
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

import torch

from brc_pytorch.experiments.training import (
    RESULT,
    Progress,
    Report,
    Run,
    check_same,
    choose_device,
    read_json,
    train,
    write_json,
)

EXPERIMENT = "experiment.json"

# What a worker process was started with: its way to report, for each run it is given.
_worker: dict[str, Report] = {}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        run: The run.
        skipped: Whether it was finished before.
        error: Why it failed, or None if it is finished.
    """

    run: Run
    skipped: bool = False
    error: BaseException | None = None


class _InProcess(Executor):
    """Makes each call where it is submitted: one run after the other, with all threads."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:  # noqa: ANN401 - Executor's signature
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - an executor keeps what it caught for the caller
            future.set_exception(error)
        return future


class _Processes(ProcessPoolExecutor):
    """Runs calls in processes of their own, which Ctrl-C does not reach."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:  # noqa: ANN401 - Executor's signature
        # A process is started here and inherits the mask, so that from its first moment on Ctrl-C
        # is for the parent alone, which ends its workers without a word from each.
        if not hasattr(signal, "pthread_sigmask"):  # Windows
            return super().submit(fn, *args, **kwargs)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return super().submit(fn, *args, **kwargs)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def shared_settings(run: Run) -> dict[str, Any]:
    """Return the settings that all runs of an experiment have in common."""
    own = {"cell", "seed", *run.task.dimensions}
    return {key: value for key, value in run.settings.items() if key not in own}


def claim_folder(runs: Sequence[Run], directory: Path) -> None:
    """Make the output folder, or check that it holds the same experiment as the runs.

    Args:
        runs: The runs; they share all settings but the cell, the seed and the task's dimensions.
        directory: The output folder.

    Raises:
        ValueError: If there are no runs, they are of different experiments, or the folder holds
            another experiment; the message names the settings that differ.
    """
    if not runs:
        raise ValueError("runs: expected at least one, got none")
    settings = shared_settings(runs[0])
    for run in runs[1:]:
        check_same(shared_settings(run), settings, directory)
    path = directory / EXPERIMENT
    if path.exists():
        check_same(settings, read_json(path), directory)
        return
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"output: expected a folder, got the file {directory}")
    directory.mkdir(parents=True, exist_ok=True)
    write_json(path, settings)


def sweep(
    runs: Sequence[Run],
    directory: Path,
    *,
    jobs: int = 1,
    device: str = "auto",
    report: Report | None = None,
    finished: Callable[[Outcome], None] | None = None,
) -> list[Outcome]:
    """Train all runs that are not finished.

    A run that fails does not end the others.

    Args:
        runs: The runs, of one experiment.
        directory: The output folder.
        jobs: Runs at a time. One is trained in this process; more are trained in processes of
            their own, each with its share of this process's threads.
        device: "cpu", "cuda" or "auto".
        report: Called with each run's progress, in any thread of this process.
        finished: Called with each run's outcome as it comes, in any thread of this process.

    Returns:
        An outcome for each run, in the order of the runs.

    Raises:
        ValueError: If `jobs` is below 1, the device is not there, or the folder holds another
            experiment.
        KeyboardInterrupt: On Ctrl-C; the same call continues the runs that it stopped.
    """
    if jobs < 1:
        raise ValueError(f"jobs: expected 1 or more, got {jobs}")
    choose_device(device)
    claim_folder(runs, directory)
    outcomes: dict[Run, Outcome] = {}

    def end(outcome: Outcome) -> None:
        outcomes[outcome.run] = outcome
        if finished is not None:
            finished(outcome)

    pending = []
    for run in dict.fromkeys(runs):
        if (directory / run.name / RESULT).exists():
            train(run, directory / run.name, device)  # returns at once, or refuses other settings
            end(Outcome(run, skipped=True))
        else:
            pending.append(run)
    stopping = threading.Event()

    def note(run: Run, future: Future[Any]) -> None:
        if not stopping.is_set():  # what is stopped has not failed
            end(Outcome(run, error=future.exception()))

    with _executor(min(jobs, len(pending)), report) as (executor, function):
        try:
            futures = []
            for run in pending:
                future = executor.submit(function, run, directory / run.name, device)
                future.add_done_callback(functools.partial(note, run))
                futures.append(future)
            wait(futures)
        except BaseException:
            stopping.set()
            raise
    return [outcomes[run] for run in runs]


@contextlib.contextmanager
def _executor(
    jobs: int, report: Report | None
) -> Iterator[tuple[Executor, Callable[[Run, Path, str], Any]]]:
    """Give an executor of `jobs` at a time, and the function that trains a run in it."""
    if jobs <= 1:
        yield _InProcess(), functools.partial(train, report=report)
        return
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    updates: multiprocessing.Queue[Progress] = context.Queue()
    threads = max(1, torch.get_num_threads() // jobs)
    executor = _Processes(jobs, context, _start_worker, (threads, updates))
    done = threading.Event()
    listener = threading.Thread(target=_listen, args=(updates, report, done), daemon=True)
    listener.start()
    others = set(multiprocessing.active_children())
    try:
        yield executor, _train_in_worker
    except BaseException:
        # Ctrl-C. Nobody waits for a batch to end: a run goes on from wherever it was killed.
        for process in set(multiprocessing.active_children()) - others:
            process.kill()
        raise
    finally:
        executor.shutdown(cancel_futures=True)
        done.set()
        listener.join(timeout=1)  # a worker killed while it told something leaves half a message


def _listen(
    updates: "multiprocessing.Queue[Progress]", report: Report | None, done: threading.Event
) -> None:
    """Hand on what the workers report until it is done."""
    while not done.is_set():
        with contextlib.suppress(queue.Empty):
            progress = updates.get(timeout=0.1)
            if report is not None:
                report(progress)


def _start_worker(threads: int, updates: "multiprocessing.Queue[Progress]") -> None:
    """Prepare a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where there is no mask to inherit
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _worker["report"] = updates.put


def _end_with_parent() -> None:
    """End this process, whatever it does, when its parent is gone: a run can always go on."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


def _train_in_worker(run: Run, directory: Path, device: str) -> dict[str, Any]:
    return train(run, directory, device, _worker["report"])
