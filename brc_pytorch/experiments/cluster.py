"""Runs on the workers of a Dask cluster, which write to a folder that all machines share.

Needs the extra `brc_pytorch[cluster]`.
"""

import contextlib
import dataclasses
import functools
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, Executor
from pathlib import Path
from typing import Any

from distributed import Client, get_worker

from brc_pytorch.experiments.executors import Train
from brc_pytorch.experiments.training import Progress, Report, Run, train

_TOPIC = "brc_pytorch"
_SECONDS_TO_CONNECT = 10
_SECONDS_BETWEEN_UPDATES = 1.0

# Workers may be threads of one process, which has one state of torch's random numbers.
_one_run_at_a_time = threading.Lock()


@contextlib.contextmanager
def on_cluster(
    address: str, device: str, report: Report | None
) -> Iterator[tuple[Executor, Train]]:
    """Train one run at a time on every worker of a Dask cluster, those that join later included.

    A run whose worker is lost is continued by another one. On Ctrl-C, or when this process ends
    in any other way, the workers stop the runs.

    Raises:
        ValueError: If no scheduler answers at the address, or a worker takes several tasks at a
            time.
    """
    try:
        client = Client(address, timeout=_SECONDS_TO_CONNECT, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ValueError(
            "dask: expected the address of a scheduler that answers, such as "
            f"tcp://127.0.0.1:8786, got {address!r}: {error}"
        ) from error
    with client:
        for worker, threads in client.nthreads().items():
            _refuse_threads(worker, threads)
        if report is not None:
            client.subscribe_topic(_TOPIC, functools.partial(_hand_on, report))
        executor = client.get_executor(pure=False)
        try:
            yield executor, functools.partial(_train_on_worker, str(Path.cwd()), device)
        except BaseException:
            executor.shutdown(wait=False)  # which cancels all
            raise


def _refuse_threads(worker: str, threads: int) -> None:
    """Refuse a worker to which Dask gives several runs, of which all but one would wait there.

    Raises:
        ValueError: If it has more threads than one.
    """
    if threads > 1:
        raise ValueError(
            "dask: expected workers of one thread each (dask worker --nthreads 1 --nworkers ...), "
            f"since each trains one run at a time, got {threads} threads in {worker}"
        )


def _hand_on(report: Report, event: tuple[float, dict[str, Any]]) -> None:
    """Report what a worker told, whichever sweep of the cluster it is about."""
    _, message = event  # to which the scheduler has added the worker's address
    progress = message["progress"]
    report(Progress(**{**progress, "directory": Path(progress["directory"])}))


def _train_on_worker(
    importable: str,
    device: str,
    run: Run,
    directory: Path,
    **options: Any,  # noqa: ANN401 - those of train
) -> dict[str, Any]:
    """Train a run on the worker that this is called on."""
    worker = get_worker()
    _refuse_threads(worker.address, worker.state.nthreads)
    if importable not in sys.path:
        sys.path.append(importable)  # a cell of one's own is looked up where the command is called
    task = worker.get_current_task()
    told = 0.0

    def report(progress: Progress) -> None:
        nonlocal told
        state = worker.state.tasks.get(task)
        # Dask cannot stop a thread; it tells that nobody waits for what the thread does.
        if state is None or state.state == "cancelled":
            raise CancelledError(f"{directory.name} was stopped by whoever had started it")
        if time.monotonic() >= told + _SECONDS_BETWEEN_UPDATES:
            told = time.monotonic()
            plain = {**dataclasses.asdict(progress), "directory": str(progress.directory)}
            worker.log_event(_TOPIC, {"progress": plain})

    with _one_run_at_a_time:
        return train(run, directory, device, report, **options)
