"""Runs on the workers of a Dask cluster, which write to a folder that all machines share.

Needs the extra `brc_pytorch[cluster]`.
"""

import asyncio
import collections
import contextlib
import dataclasses
import functools
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from pathlib import Path
from typing import Any

import dask
import distributed
from distributed import Client, get_worker

from brc_pytorch.experiments.files import EXPERIMENT, FileError
from brc_pytorch.experiments.train.executors import Train
from brc_pytorch.experiments.train.locks import LockedError
from brc_pytorch.experiments.train.machine import choose_device
from brc_pytorch.experiments.train.run import Progress, Report, Run
from brc_pytorch.experiments.train.training import train

_TOPIC = "brc_pytorch"
_SECONDS_TO_CONNECT = 10
_SECONDS_BETWEEN_UPDATES = 1.0
_SECONDS_BETWEEN_LOOKS = 1.0
_FAILURES_IN_A_ROW = 2
"""After so many a worker gets no run until another one has shown whose fault it was."""

# Workers may be threads of one process, which has one state of torch's random numbers.
_one_run_at_a_time = threading.Lock()


@contextlib.contextmanager
def on_cluster(
    address: str,
    device: str,
    report: Report | None,
    tell: Callable[[str], None],
    folders: Sequence[Path],
) -> Iterator[tuple[Executor, Train]]:
    """Train one run at a time on every worker of a Dask cluster, those that join later included.

    A run whose worker is lost is continued by another one, and so is a run that fails, once: if
    it does not fail there, its first worker gets no more. On Ctrl-C, or when this process ends in
    any other way, the workers stop the runs.

    Args:
        address: The scheduler's.
        device: What each worker trains on.
        report: Called with each run's progress.
        tell: Called with what is waited for, and with workers that get no runs.
        folders: The output folders, which each worker needs.

    Raises:
        ValueError: If no scheduler answers at the address, or all of its workers take several
            tasks at a time.
    """
    with _quiet():
        try:
            client = Client(address, timeout=_SECONDS_TO_CONNECT, set_as_default=False)
        except (OSError, ValueError) as error:
            raise ValueError(
                "dask: expected the address of a scheduler that answers, such as "
                f"tcp://127.0.0.1:8786, got {address!r}: {error}"
            ) from error
        with client:
            workers = client.nthreads()
            if workers and min(workers.values()) > 1:
                raise ValueError(_several_threads(*next(iter(workers.items()))))
            if report is not None:
                client.subscribe_topic(_TOPIC, functools.partial(_hand_on, report))
            importable = str(Path.cwd())
            probe = functools.partial(_probe, importable, device, folders)
            executor = _Workers(client, address, probe, tell)
            try:
                yield executor, functools.partial(_train_on_worker, importable, device)
            finally:
                executor.shutdown(wait=False, cancel_futures=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep to itself what Dask logs of a scheduler that does not answer; the error tells it."""
    loggers = [logging.getLogger(f"distributed.{name}") for name in ("client", "comm", "core")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _several_threads(worker: str, threads: int) -> str:
    """Say why a worker is refused to which Dask gives several runs, most of which would wait."""
    return (
        "dask: expected workers of one thread each (dask worker --nthreads 1 --nworkers ...), "
        f"since each trains one run at a time, got {threads} threads in {worker}"
    )


@dataclasses.dataclass(eq=False)
class _Call:
    """What is to be called on a worker."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    outcome: Future[Any]
    failed_on: str | None = None
    """The worker on which it has failed before."""
    error: BaseException | None = None
    """How."""
    workers: list[str] = dataclasses.field(default_factory=list)
    """Those that may make it."""
    lost: int = 0
    """How often all of them were lost."""


class _Workers(Executor):
    """Makes a call at a time on each worker that has shown that it can make one."""

    def __init__(
        self,
        client: Client,
        address: str,
        probe: Callable[[], object],
        tell: Callable[[str], None],
    ) -> None:
        self._client, self._address, self._probe, self._tell = client, address, probe, tell
        self._waiting: collections.deque[_Call] = collections.deque()
        self._under_way: dict[distributed.Future[Any], _Call] = {}
        self._probes: dict[str, distributed.Future[Any]] = {}
        self._known: set[str] = set()
        self._refused: set[str] = set()
        self._failures: collections.Counter[str] = collections.Counter()
        self._told = False
        self._woken, self._ended = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:  # noqa: ANN401 - Executor's signature
        call = _Call(fn, args, kwargs, Future())
        self._waiting.append(call)
        self._woken.set()
        return call.outcome

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._ended.set()
        self._woken.set()
        if wait:
            self._thread.join()
        if cancel_futures and self._client.status == "running":
            with contextlib.suppress(OSError, asyncio.TimeoutError):  # just gone
                self._client.cancel([*self._under_way, *self._probes.values()])

    def _serve(self) -> None:
        """Look after workers and calls until the end."""
        next_look = 0.0
        try:
            while not self._ended.is_set():
                if self._client.status in ("closing", "closed"):
                    self._break("the scheduler does not answer any more")
                    return
                if self._client.status == "running":  # Dask goes on trying, or gives up
                    for future in [future for future in self._under_way if future.done()]:
                        self._finish(future, self._under_way.pop(future))
                    with contextlib.suppress(OSError, asyncio.TimeoutError):  # just gone
                        if time.monotonic() >= next_look:
                            self._look()
                            next_look = time.monotonic() + _SECONDS_BETWEEN_LOOKS
                        self._hand_out()
                self._woken.wait(_SECONDS_BETWEEN_LOOKS)
                self._woken.clear()
        except Exception as error:  # noqa: BLE001 - whoever waits for a call must hear of it
            self._break(repr(error))

    def _break(self, reason: str) -> None:
        """Fail all calls, since nobody looks after them any more."""
        error = BrokenExecutor(f"dask: the cluster at {self._address} has gone: {reason}")
        calls = [*self._under_way.values(), *self._waiting]
        self._under_way, self._waiting = {}, collections.deque()
        for call in calls:
            call.outcome.set_exception(error)

    def _look(self) -> None:
        """See which workers there are, and try the new ones."""
        threads = self._client.nthreads()
        self._known &= set(threads)  # what comes back is tried anew
        for worker in set(threads) - self._known - self._refused - set(self._probes):
            if threads[worker] > 1:
                self._refuse(worker, _several_threads(worker, threads[worker]))
                continue
            probe = self._client.submit(self._probe, pure=False, workers=[worker])
            probe.add_done_callback(lambda _: self._woken.set())
            self._probes[worker] = probe
        for worker, probe in list(self._probes.items()):
            if worker not in threads or probe.status == "lost":
                del self._probes[worker]
            elif probe.done():
                del self._probes[worker]
                if probe.status == "finished":
                    self._known.add(worker)
                else:
                    self._refuse(worker, str(probe.exception()))
        self._take_back(set(threads))
        if not self._known and not self._probes and self._waiting:
            if not self._told:
                self._tell(
                    f"waiting for a worker of the Dask cluster at {self._address}: "
                    f"dask worker {self._address} --nthreads 1"
                )
            self._told = True

    def _take_back(self, workers: set[str]) -> None:
        """Take calls back whose workers are all lost."""
        for future, call in list(self._under_way.items()):
            if not future.done() and workers.isdisjoint(call.workers):
                del self._under_way[future]
                self._client.cancel([future])
                self._lose(call)

    def _lose(self, call: _Call) -> None:
        """Give a call whose workers are lost to others, unless it is what ends them."""
        call.lost += 1
        if call.lost > dask.config.get("distributed.scheduler.allowed-failures"):
            call.outcome.set_exception(RuntimeError(f"it has lost its workers {call.lost} times"))
        else:
            self._waiting.appendleft(call)

    def _refuse(self, worker: str, reason: str) -> None:
        self._refused.add(worker)
        self._known.discard(worker)
        self._tell(f"the worker {worker} gets no runs: {reason}")

    def _hand_out(self) -> None:
        """Give a call to each worker that has none."""
        trusted = {name for name in self._known if self._failures[name] < _FAILURES_IN_A_ROW}
        while len(self._under_way) < len(trusted):
            # A failed call waits for another worker as long as one may still come of a probe.
            ready = [
                call
                for call in list(self._waiting)  # a copy: calls are submitted meanwhile
                if trusted - {call.failed_on} or not self._probes
            ]
            if not ready:
                break
            call = ready[0]
            self._waiting.remove(call)
            # Strictly these: others would steal it.
            call.workers = sorted(trusted - {call.failed_on}) or sorted(trusted)
            future = self._client.submit(
                call.function,
                *call.arguments,
                **call.options,
                pure=False,
                workers=call.workers,
            )
            self._under_way[future] = call
            future.add_done_callback(lambda _: self._woken.set())

    def _finish(self, future: "distributed.Future[Any]", call: _Call) -> None:
        """Hand on how a call ended, or give it to another worker."""
        if future.status != "finished":  # no worker tells how
            error = CancelledError("another program cancelled the run")
            call.outcome.set_exception(future.exception() if future.status == "error" else error)
            return
        worker, result, error = future.result()
        if error is None or isinstance(error, (FileError, LockedError, CancelledError)):
            self._failures[worker] = 0
        else:
            self._failures[worker] += 1
            if call.failed_on is None and (self._known | set(self._probes)) - {worker}:
                call.failed_on, call.error = worker, error
                self._waiting.appendleft(call)
                return
        if call.failed_on is not None and call.failed_on != worker:
            if error is None:
                reason = f"a run failed there and not in {worker}: {call.error!r}"
                self._refuse(call.failed_on, reason)
            else:  # the run is at fault
                self._failures[call.failed_on] = self._failures[worker] = 0
        if error is None:
            call.outcome.set_result(result)
        else:
            call.outcome.set_exception(error)


def _hand_on(report: Report, event: tuple[float, dict[str, Any]]) -> None:
    """Report what a worker told, whichever sweep of the cluster it is about."""
    _, message = event  # to which the scheduler has added the worker's address
    progress = message["progress"]
    report(Progress(**{**progress, "directory": Path(progress["directory"])}))


def _probe(importable: str, device: str, folders: Sequence[Path]) -> None:
    """Find out whether the worker that this is called on can train runs.

    Raises:
        ValueError: If it has not the device.
        FileNotFoundError: If it does not see the output folders.
    """
    if importable not in sys.path:
        sys.path.append(importable)  # a cell of one's own is looked up where the command is called
    choose_device(device)
    for folder in folders:
        if not (folder / EXPERIMENT).exists():
            raise FileNotFoundError(f"it does not see the output folder {folder}")


def _train_on_worker(
    importable: str,
    device: str,
    run: Run,
    directory: Path,
    **options: Any,  # noqa: ANN401 - those of train
) -> tuple[str, dict[str, Any] | None, Exception | None]:
    """Train a run on the worker that this is called on.

    Returns:
        The worker's address, the result, and how the run failed if it did.
    """
    worker = get_worker()
    if importable not in sys.path:
        sys.path.append(importable)
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

    try:
        with _one_run_at_a_time:
            return worker.address, train(run, directory, device, report, **options), None
    except Exception as error:  # noqa: BLE001 - whoever had started it judges whose fault it is
        return worker.address, None, error
