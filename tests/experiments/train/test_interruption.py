"""A run is killed, or the disk is full: what is there goes on, or says in a line why not."""

import contextlib
import dataclasses
import random
import re
import signal
import subprocess
import sys
import time

import pytest

from brc_pytorch.experiments.train.run import Run
from tests.experiments.small import TASK, options


def test_a_full_disk_is_told_in_a_line(tmp_path):
    """The system itself refuses to let a file grow."""
    command = "binary-addition", *options(TASK), "--cells=GRU", "--output=out"
    resource = pytest.importorskip("resource")
    code = "from brc_pytorch.experiments.cli import main; main()"
    done = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-c", code, *command],
        cwd=tmp_path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)),
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 1
    first, *plots, last = done.stderr.splitlines()
    assert re.match(r"Error: GRU-layers1-seed0 failed: .*/[a-z]+\.\w+: File too large", first)
    assert all(re.match(r"Error: out/\w+\.png: File too large", line) for line in plots)
    assert last.startswith("Error: 1 of 1 runs failed")


KILLED = f"""
import sys
from pathlib import Path
import torch
from brc_pytorch.experiments.tasks import BinaryAdditionTask
from brc_pytorch.experiments.train.run import Run
from brc_pytorch.experiments.train.training import train
from brc_pytorch.experiments.weights import read_weights
torch.set_num_threads(1)
run = {Run(dataclasses.replace(TASK, epochs_per_length=8), "nBRC", 0)!r}
print("ready", flush=True)
sys.stdin.readline()
train(run, Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_a_run_killed_at_20_random_moments_ends_as_if_it_were_not(tmp_path, outcome):
    def start(directory):
        process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-c", KILLED, str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout.readline() == "ready\n"
        began = time.monotonic()
        process.stdin.write("go\n")
        process.stdin.flush()
        return process, began

    process, began = start(tmp_path / "whole")
    with process:
        assert process.wait(timeout=600) == 0
    seconds = time.monotonic() - began
    draw = random.Random(20)  # noqa: S311 - no secret
    killed = finished = 0
    while killed < 20:
        process, _ = start(tmp_path / str(finished))
        with process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=draw.uniform(0, 0.7 * seconds))
            process.kill()  # which it may have forestalled
            code = process.wait()
            assert code in (0, -signal.SIGKILL)
            if code == 0:
                finished += 1
            else:
                killed += 1
    process, _ = start(tmp_path / str(finished))
    with process:
        assert process.wait(timeout=600) == 0
    for number in range(finished + 1):
        assert outcome(tmp_path / str(number)) == outcome(tmp_path / "whole")
        left = {path.name for path in (tmp_path / str(number)).iterdir()}
        assert left == {path.name for path in (tmp_path / "whole").iterdir()}
