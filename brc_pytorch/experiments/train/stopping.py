"""Stopping a run between two batches, on Ctrl-C or SIGTERM.

An interrupt at any other moment may be lost, in a destructor, may come out of Lightning or torch as
another error, or leave them with a half-changed state that the next run of the process meets.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn

from lightning.pytorch import Callback


class _Stopped(BaseException):
    """Ends Lightning's loops; it takes no action of its own on it, as it does on Ctrl-C."""


class Stopper(Callback):
    """Ends Lightning's loops after the batch in which the run was asked to stop."""

    def __init__(self) -> None:
        self.asked: int | None = None
        """The signal that asked for it."""

    def on_train_batch_end(self, *_: Any) -> None:  # noqa: ANN401 - unused
        """Stop within an epoch, or before its tests."""
        self._stop_if_asked()

    def on_validation_batch_end(self, *_: Any) -> None:  # noqa: ANN401 - unused
        """Stop within the tests after an epoch, or of the last model."""
        self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        if self.asked is not None:
            raise _Stopped


@contextlib.contextmanager
def stopping_between_batches() -> Iterator[Stopper]:
    """Stop a run on Ctrl-C or SIGTERM at the end of the batch; on the second one, at once.

    Only the main thread hears signals; others are stopped by whoever started them. A signal that
    this process ignores stays ignored.

    Yields:
        What is to be among the callbacks of Lightning's trainers.

    Raises:
        KeyboardInterrupt: On Ctrl-C, whatever became of the run.
        SystemExit: On SIGTERM; likewise.
    """
    stopper = Stopper()
    if threading.current_thread() is not threading.main_thread():
        yield stopper
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if stopper.asked is None:
            stopper.asked = number
        elif callable(handler := before[signal.Signals(number)]):
            handler(number, frame)
        else:
            _end(number)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    heard = [n for n, handler in before.items() if handler not in (signal.SIG_IGN, None)]
    for number in heard:
        signal.signal(number, ask)
    try:
        yield stopper
    except BaseException as error:
        if stopper.asked is not None:
            _end(stopper.asked, error)
        raise
    finally:
        for number in heard:
            signal.signal(number, before[number])
    if stopper.asked is not None:
        _end(stopper.asked)


def _end(number: int, cause: BaseException | None = None) -> NoReturn:
    if number == signal.SIGINT:
        raise KeyboardInterrupt from cause
    raise SystemExit(128 + number) from cause
