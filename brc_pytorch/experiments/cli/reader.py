"""The end of a command with the end of whoever reads what it says."""

import contextlib
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def ending_with_reader() -> Iterator[None]:
    """Stop, as on Ctrl-C, when whoever reads this command's output has gone, as `head` does.

    A write would show it, too, but there may be none for hours.
    """
    if not hasattr(signal, "SIGPIPE") or not _is_read():
        yield
        return
    left, end = os.pipe()

    def watch() -> None:
        poller = select.poll()
        poller.register(sys.stdout.fileno(), 0)  # tells of a reader that has gone, and no more
        poller.register(left, select.POLLIN)
        if all(descriptor != left for descriptor, _ in poller.poll()):
            os.kill(os.getpid(), signal.SIGPIPE)

    def stop(_: int, frame: FrameType | None) -> None:
        if _is_read():  # sockets send the same signal
            return
        on_ctrl_c = signal.getsignal(signal.SIGINT)
        if not callable(on_ctrl_c):  # in the background of a shell it is ignored
            raise KeyboardInterrupt
        on_ctrl_c(signal.SIGINT, frame)

    before = signal.signal(signal.SIGPIPE, stop)
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        os.close(end)
        watcher.join()
        os.close(left)
        signal.signal(signal.SIGPIPE, before)


def _is_read() -> bool:
    """Tell whether somebody reads what this command says; where that is unknown, nobody."""
    try:
        poller = select.poll()
        poller.register(sys.stdout.fileno(), 0)
    except (OSError, ValueError, AttributeError):  # no file, as in a test
        return False
    return not poller.poll(0)
