"""The command is stopped, or started twice: the runs end as if it were not."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest

# Long enough to be stopped within, short enough to be waited for.
STOPPED = shlex.split(
    "copy-first-input --cells GRU,nBRC --lengths 30 --layers 1 --hidden-size 8 --train-size 400 "
    "--test-size 50 --batch-size 10 --epochs 25 --output"
)


def start(directory, output, *arguments):
    """Start the command as a user does, in a folder with nothing in it."""
    # Tests that run in the background of a shell inherit that Ctrl-C is ignored; a user does not.
    ctrl_c = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{ctrl_c}; from brc_pytorch.experiments.cli import main; main()"
    return subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-c", code, *STOPPED, output, *arguments],
        cwd=directory,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(condition):
    end = time.monotonic() + 600
    while not condition():
        assert time.monotonic() < end, "the command did not come so far"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The experiment, never stopped."""
    directory = tmp_path_factory.mktemp("whole")
    process = start(directory, "out")
    said, errors = process.communicate(timeout=600)
    assert (process.returncode, errors) == (0, ""), said
    # Nothing but the output folder is left where the command was called.
    assert [path.name for path in directory.iterdir()] == ["out"]
    return directory / "out"


@pytest.mark.slow
@pytest.mark.parametrize("jobs", ["1", "2"])
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_command_goes_on_as_if_it_were_not(tmp_path, whole, outcome, how, jobs):
    process = start(tmp_path, "out", "--jobs", jobs)
    wait_for(lambda: list(tmp_path.glob("out/*/resume.ckpt")))
    if how == signal.SIGINT:  # a terminal sends it to the command and all of its workers
        os.killpg(process.pid, how)
    else:
        process.send_signal(how)
    said, errors = process.communicate(timeout=600)
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert "The same command continues" in errors
    assert process.returncode != 0
    assert "Traceback" not in errors
    assert list(tmp_path.glob("out/*/resume.ckpt")), f"too late to stop anything:\n{said}"

    process = start(tmp_path, "out", "--jobs", jobs)
    said, errors = process.communicate(timeout=600)
    assert (process.returncode, errors) == (0, ""), said
    for cell in ("GRU", "nBRC"):
        name = f"{cell}-length30-layers1-seed0"
        assert outcome(tmp_path / "out" / name) == outcome(whole / name)


@pytest.mark.slow
def test_two_commands_at_a_time_divide_the_runs(tmp_path, whole, outcome):
    commands = [start(tmp_path, "out", "--seeds", "0,1") for _ in range(2)]
    finished = []
    for process in commands:
        said, errors = process.communicate(timeout=600)
        assert (process.returncode, errors) == (0, ""), said
        finished += re.findall(r"(\S+) is finished", said)
    # Each is trained once, by either.
    names = sorted(
        f"{cell}-length30-layers1-seed{seed}" for cell in ("GRU", "nBRC") for seed in "01"
    )
    assert sorted(set(finished)) == names
    for name in names:
        config = json.loads((tmp_path / "out" / name / "config.json").read_text())
        assert len(config["starts"]) == 1
    for name in names:
        if name.endswith("seed0"):
            assert outcome(tmp_path / "out" / name) == outcome(whole / name)
    left = {path.suffix for path in (tmp_path / "out").iterdir() if path.is_file()}
    assert left == {".json", ".png", ".svg"}  # no lock, nothing half written
