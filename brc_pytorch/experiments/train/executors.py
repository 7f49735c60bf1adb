"""Where runs are trained: in this process, or in processes of their own on this machine.

Each way is a context manager that gives a `concurrent.futures` executor and the function that
trains a run in it. `cluster.py` has the third way, a Dask cluster.
"""

import contextlib
import functools
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from brc_pytorch.experiments.train.machine import choose_device
from brc_pytorch.experiments.train.run import Progress, Report, Run
from brc_pytorch.experiments.train.training import train

Train = Callable[..., Any]
"""Called with a run, its directory and the keywords of `train` but the device and the report."""

# What a worker process was started with: its device, and its way to report.
_worker: dict[str, Any] = {}


def devices(name: str) -> list[str]:
    """Return the devices that a name stands for: all CUDA devices, unless it names one.

    Raises:
        ValueError: If there is no such device.
    """
    device = choose_device(name)
    if device.type == "cuda" and ":" not in name:
        return [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return [str(device)]


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


@contextlib.contextmanager
def in_this_process(device: str, report: Report | None) -> Iterator[tuple[Executor, Train]]:
    """Train one run after the other, with all of this process's threads."""
    yield _InProcess(), functools.partial(train, device=device, report=report)


@contextlib.contextmanager
def in_processes(
    jobs: int, devices: Sequence[str], report: Report | None
) -> Iterator[tuple[Executor, Train]]:
    """Train `jobs` runs at a time, each in a process with its share of this one's threads.

    The processes take the devices in turn, so that with no more jobs than devices each run has
    one to itself.
    """
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    updates: multiprocessing.Queue[Progress] = context.Queue()
    free: multiprocessing.Queue[str] = context.Queue()
    for job in range(jobs):
        free.put(devices[job % len(devices)])
    threads = max(1, torch.get_num_threads() // jobs)
    executor = _Processes(jobs, context, _start_worker, (threads, free, updates))
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


def _start_worker(
    threads: int,
    free: "multiprocessing.Queue[str]",
    updates: "multiprocessing.Queue[Progress]",
) -> None:
    """Prepare a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where there is no mask to inherit
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _worker["device"] = free.get()
    _worker["report"] = updates.put


def _end_with_parent() -> None:
    """End this process, whatever it does, when its parent is gone: a run can always go on."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


def _train_in_worker(run: Run, directory: Path, **options: Any) -> dict[str, Any]:  # noqa: ANN401 - those of train
    return train(run, directory, _worker["device"], _worker["report"], **options)
