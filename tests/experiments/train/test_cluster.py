"""A real Dask cluster of two worker processes on this machine."""

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from distributed import Client, LocalCluster

from brc_pytorch.experiments.files import LOCK
from brc_pytorch.experiments.tasks import CopyFirstInputTask
from brc_pytorch.experiments.train.locks import LockedError, hold
from brc_pytorch.experiments.train.run import Run
from brc_pytorch.experiments.train.sweep import sweep

TASK = CopyFirstInputTask(
    length=30, layers=1, hidden_size=8, train_size=400, test_size=50, batch_size=10, epochs=10
)
RUNS = [Run(TASK, cell, seed) for seed in (0, 1) for cell in ("GRU", "nBRC")]

LONG = shlex.split(
    "copy-first-input --cells GRU --lengths 30 --layers 1 --hidden-size 8 --train-size 400 "
    "--test-size 50 --batch-size 10 --epochs 100000 --stop-below 0"
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster():
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        yield cluster


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The sweep without a cluster, never stopped, with the one thread of a cluster's worker."""
    directory = tmp_path_factory.mktemp("whole")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    sweep(RUNS, directory)
    torch.set_num_threads(threads)
    return directory


def wait_for(condition):
    end = time.monotonic() + 600
    while not condition():
        assert time.monotonic() < end, "it did not come so far"
        time.sleep(0.02)


def starts(directory):
    return json.loads((directory / "config.json").read_text())["starts"]


def is_locked(directory):
    try:
        with hold(directory / LOCK, "looked at"):
            return False
    except LockedError:
        return True


def test_a_worker_is_killed_and_every_run_finished_once(cluster, tmp_path, whole, outcome):
    killed = []

    def kill():
        wait_for(lambda: list(tmp_path.glob("*/resume.ckpt")))
        directory = next(tmp_path.glob("*/resume.ckpt")).parent
        os.kill(int((directory / LOCK).read_text().split()[0]), signal.SIGKILL)
        killed.append(directory.name)

    killer = threading.Thread(target=kill)
    killer.start()
    reported, finished = [], []
    outcomes = sweep(
        RUNS,
        tmp_path,
        dask=cluster.scheduler_address,
        report=reported.append,
        finished=finished.append,
    )
    killer.join()
    assert [result.run for result in outcomes] == RUNS
    assert not any(result.skipped or result.error for result in outcomes)
    assert sorted(result.run.name for result in finished) == sorted(run.name for run in RUNS)
    assert {progress.directory for progress in reported} <= {tmp_path / run.name for run in RUNS}
    assert reported[-1].loss is not None
    for run in RUNS:
        assert outcome(tmp_path / run.name) == outcome(whole / run.name)
        assert (len(starts(tmp_path / run.name)) > 1) == (run.name in killed)
        # Nothing is left of the kill.
        files = {path.name for path in (whole / run.name).iterdir()}
        assert {path.name for path in (tmp_path / run.name).iterdir()} == files


def test_ctrl_c_stops_the_workers_runs_and_the_same_call_continues_them(
    cluster, tmp_path, whole, outcome
):
    def interrupt():
        wait_for(lambda: list(tmp_path.glob("*/resume.ckpt")))
        os.kill(os.getpid(), signal.SIGINT)

    killer = threading.Thread(target=interrupt)
    killer.start()
    finished = []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            sweep(RUNS, tmp_path, dask=cluster.scheduler_address, finished=finished.append)
    finally:
        signal.signal(signal.SIGINT, before)
        killer.join()
    begun = [path.parent for path in tmp_path.glob("*/lock")]
    wait_for(lambda: not any(is_locked(directory) for directory in begun))
    unfinished = [run.name for run in RUNS if not (tmp_path / run.name / "result.json").exists()]
    assert unfinished
    assert not any(result.error for result in finished)

    outcomes = sweep(RUNS, tmp_path, dask=cluster.scheduler_address)
    assert not any(result.error for result in outcomes)
    for run in RUNS:
        assert outcome(tmp_path / run.name) == outcome(whole / run.name)


def test_runs_stop_when_the_command_is_killed(cluster, tmp_path):
    """The workers hear of it from the scheduler."""
    command = [*LONG, "--output", "out", "--dask"]
    code = "from brc_pytorch.experiments.cli import main; main()"
    process = subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-c", code, *command, cluster.scheduler_address],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: list(tmp_path.glob("out/*/resume.ckpt")))
    finally:
        process.kill()
        process.wait()
    directory = tmp_path / "out/GRU-length30-layers1-seed0"
    wait_for(lambda: not is_locked(directory))
    assert not (directory / "result.json").exists()
    assert f"--dask {cluster.scheduler_address}" in starts(directory)[0]["command"]


def test_a_scheduler_that_dies_is_told_in_a_line(tmp_path):
    """And a worker is waited for aloud."""
    python = [sys.executable, "-c"]
    own = "import sys; from brc_pytorch.experiments.cli import main; main()"
    server = (
        "import sys; from distributed.cli.dask_scheduler import main; "
        "main(['--port', '0', '--no-dashboard', '--scheduler-file', sys.argv[1]])"
    )
    worker = (
        "import sys; from distributed.cli.dask_worker import main; "
        "main(['--no-dashboard', '--nthreads', '1', '--no-nanny', '--scheduler-file', sys.argv[1]])"
    )
    file = tmp_path / "scheduler.json"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    processes = [subprocess.Popen([*python, server, file], **quiet)]  # noqa: S603 - our own program
    try:
        wait_for(file.exists)
        address = json.loads(file.read_text())["address"]
        command = [*LONG, "--output", "out", "--dask", address]
        sweeper = subprocess.Popen(  # noqa: S603 - our own command
            [*python, own, *command],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(sweeper)
        line = next(line for line in sweeper.stdout if line.startswith("waiting for"))
        assert line == (
            f"waiting for a worker of the Dask cluster at {address}: "
            f"dask worker {address} --nthreads 1\n"
        )
        processes.append(subprocess.Popen([*python, worker, file], **quiet))  # noqa: S603 - our own program
        wait_for(lambda: list(tmp_path.glob("out/*/resume.ckpt")))
        processes[0].kill()
        _, errors = sweeper.communicate(timeout=120)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert sweeper.returncode == 1
    (line,) = errors.splitlines()
    assert line.startswith(f"Error: dask: the cluster at {address} has gone: the scheduler does")


def test_the_command_ends_when_its_reader_has_gone(cluster, tmp_path):
    """As `head` does, also when nothing more is to be said."""
    own = "from brc_pytorch.experiments.cli import main; main()"
    process = subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-c", own, *LONG, "--output", "out", "--dask", cluster.scheduler_address],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for(lambda: list(tmp_path.glob("out/*/resume.ckpt")))
        process.stdout.close()
        assert process.wait(timeout=60) == 130
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
    directory = next(tmp_path.glob("out/*/resume.ckpt")).parent
    wait_for(lambda: not is_locked(directory))


FAILING = """
import os
from torch import nn

class Elsewhere(nn.GRUCell):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        if os.path.exists({place!r} + str(os.getpid())):
            raise RuntimeError("this worker has the wrong environment")
"""


@pytest.mark.parametrize("late", [False, True])
def test_a_worker_that_fails_every_run_takes_none_with_it(tmp_path, monkeypatch, late):
    """Also where the other worker shows only later that it can make runs."""
    place = str(tmp_path / "wrong-")
    (tmp_path / "failing_cells.py").write_text(FAILING.format(place=place))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    runs = [Run(TASK, "failing_cells:Elsewhere", seed) for seed in range(8)]
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        wrong, right = cluster.workers.values()
        addresses = wrong.worker_address, right.worker_address  # which end with the cluster
        (tmp_path / f"wrong-{wrong.process.pid}").touch()
        busy = client.submit(time.sleep, 10 if late else 0, workers=[right.worker_address])
        told, finished = [], []
        outcomes = sweep(
            runs,
            tmp_path / "out",
            dask=cluster.scheduler_address,
            waiting=told.append,
            finished=finished.append,
        )
        busy.result()
    assert [str(outcome.error) for outcome in outcomes] == ["None"] * len(runs)
    assert len(finished) == len(runs)
    (line,) = set(told)
    assert line.startswith(
        "the worker {} gets no runs: a run failed there and not in {}: ".format(*addresses)
    )


def test_a_run_that_fails_on_every_worker_fails_alone(cluster, tmp_path, monkeypatch):
    (tmp_path / "own_failing.py").write_text(
        "class Broken:\n    def __init__(self, *sizes):\n        raise RuntimeError('no such')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    runs = [Run(TASK, "own_failing:Broken", seed) for seed in range(5)] + RUNS[:1]
    told = []
    outcomes = sweep(runs, tmp_path / "out", dask=cluster.scheduler_address, waiting=told.append)
    assert [str(outcome.error) for outcome in outcomes] == ["no such"] * 5 + ["None"]
    assert told == []


def test_an_address_where_nobody_answers_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("brc_pytorch.experiments.train.cluster._SECONDS_TO_CONNECT", 1)
    with pytest.raises(ValueError, match="dask: expected the address of a scheduler that answers"):
        sweep(RUNS, tmp_path, dask="tcp://127.0.0.1:1")
    with pytest.raises(ValueError, match=r"such as tcp://.*, got 'nowhere://x:1': unknown"):
        sweep(RUNS, tmp_path, dask="nowhere://x:1")


def test_workers_of_several_threads_are_refused(tmp_path):
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0"
        ) as cluster,
        pytest.raises(ValueError, match=r"expected workers of one thread each .* got 2 threads"),
    ):
        sweep(RUNS, tmp_path, dask=cluster.scheduler_address)
