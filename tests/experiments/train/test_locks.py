import os
import signal
import socket
import subprocess
import sys

import pytest

from brc_pytorch.experiments.train.locks import LockedError, hold

HOLDER = """
import sys, time
from pathlib import Path
from brc_pytorch.experiments.train.locks import hold
with hold(Path(sys.argv[1]), "held"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock `tmp_path / "lock"`."""
    process = subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-c", HOLDER, str(tmp_path / "lock")],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_one_process_holds_a_lock_and_the_error_says_which(tmp_path, holder):
    path = tmp_path / "lock"
    message = f"^the run is trained by process {holder.pid} on {socket.gethostname()}$"
    for _ in range(2):  # a process that was refused leaves the lock as it was
        with pytest.raises(LockedError, match=message), hold(path, "the run is trained"):
            pass


def test_a_lock_ends_with_the_process_that_holds_it_however_it_ends(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with hold(tmp_path / "lock", "the run is trained"):
        assert (tmp_path / "lock").read_text().split() == [str(os.getpid()), socket.gethostname()]


def test_a_lock_is_waited_for(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    with hold(tmp_path / "lock", "the run is trained", patience=60):
        pass


def test_a_lock_is_held_once_within_a_process_too(tmp_path):
    path = tmp_path / "lock"
    message = f"^held by process {os.getpid()} on"
    with hold(path, "held"), pytest.raises(LockedError, match=message), hold(path, "held"):
        pass
    with hold(path, "third"):
        pass


@pytest.mark.parametrize("text", ["", "12", "a b", "\x00"])
def test_a_file_that_does_not_tell_who_holds_it_is_no_obstacle(tmp_path, text):
    path = tmp_path / "lock"
    path.write_text(text)
    with hold(path, "first"):
        path.write_text(text)
        with pytest.raises(LockedError, match=r"^held by another process$"), hold(path, "held"):
            pass
