"""Locks between processes, on one machine or on several that share a folder.

The operating system holds the lock, not the file: it ends with the process that holds it, however
that process ends. The file says who holds it and may be left behind, which means nothing.
"""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from brc_pytorch.experiments.files import DamagedFileError


class LockedError(RuntimeError):
    """Another process holds the lock; the message ends with which one."""


@contextlib.contextmanager
def hold(path: Path, what: str, *, patience: float = 0) -> Iterator[None]:
    """Hold the lock of a file for the block of a `with` statement.

    Remove the file only when nothing is left to be done under its lock: a process that waited for
    the removed file, and one that made it anew, could both hold it.

    Args:
        path: The lock's file, made if it is not there.
        what: What is done under the lock, for the error's message.
        patience: Seconds to wait for it.

    Raises:
        LockedError: If another process holds the lock for that long, or another block of this one.
        DamagedFileError: If it is a folder.
        OSError: If it cannot be made.
    """
    if path.is_dir():
        raise DamagedFileError(path, "a lock", "a folder")
    lock: BaseFileLock = FileLock(path)
    try:
        lock.acquire(timeout=patience)
    except Timeout:
        raise LockedError(f"{what} by {_holder(path)}") from None
    try:
        if not isinstance(lock, SoftFileLock):  # a file system without locks: filelock wrote it
            with contextlib.suppress(OSError):  # a full disk; Windows locks the text, too
                path.write_text(f"{os.getpid()}\n{socket.gethostname()}\n")
        yield
    finally:
        lock.release()


def _holder(path: Path) -> str:
    """Return who holds the lock, as far as the file tells at this moment."""
    with contextlib.suppress(OSError, ValueError):
        process, host = path.read_text().split()[:2]
        return f"process {int(process)} on {host}"
    return "another process"
