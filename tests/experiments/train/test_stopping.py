"""A run is asked to stop, by Ctrl-C or SIGTERM, wherever it happens to be."""

import signal

import pytest

from brc_pytorch.experiments.files import RESULT
from brc_pytorch.experiments.tasks import BinaryAdditionTask
from brc_pytorch.experiments.train.run import Run
from brc_pytorch.experiments.train.training import train
from tests.experiments.small import TASK

RUN = Run(TASK, "nBRC", 0)

STOPS = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: SystemExit}


@pytest.fixture(autouse=True)
def hears_signals():
    """Whoever runs the tests in the background of a shell ignores Ctrl-C."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def whole(tmp_path):
    train(RUN, tmp_path / "whole")
    return tmp_path / "whole"


def calls_of(monkeypatch, name, then):
    """Call `then` with the number of each call of a method of the task."""
    original, count = getattr(BinaryAdditionTask, name), 0

    def counting(self, *arguments):
        nonlocal count
        count += 1
        then(count)
        return original(self, *arguments)

    monkeypatch.setattr(BinaryAdditionTask, name, counting)


# Where the data are made, in a batch of training, of validation and of the last model's tests.
@pytest.mark.parametrize(
    ("method", "number"), [("data", 1), ("data", 2), ("loss", 6), ("metrics", 2), ("metrics", 6)]
)
@pytest.mark.parametrize("how", STOPS)
def test_a_run_that_is_asked_to_stop_goes_on(
    tmp_path, monkeypatch, whole, outcome, method, number, how
):
    stopped = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        calls_of(patch, method, lambda count: count == number and signal.raise_signal(how))
        with pytest.raises(STOPS[how]) as stop:
            train(RUN, stopped)
    if how == signal.SIGTERM:
        assert stop.value.code == 128 + how
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert not (stopped / RESULT).exists()
    train(RUN, stopped)
    assert outcome(stopped) == outcome(whole)


def test_a_stop_that_is_asked_for_in_a_destructor_is_not_lost(tmp_path, monkeypatch):
    class Dying:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    calls_of(monkeypatch, "loss", lambda count: count == 2 and Dying() and None)
    with pytest.raises(KeyboardInterrupt):
        train(RUN, tmp_path)


def test_the_second_ctrl_c_does_not_wait_for_the_batch(tmp_path, monkeypatch):
    reached = []

    def twice(count):
        if count == 2:
            signal.raise_signal(signal.SIGINT)
            reached.append("first")
            signal.raise_signal(signal.SIGINT)
            reached.append("second")

    calls_of(monkeypatch, "loss", twice)
    with pytest.raises(KeyboardInterrupt):
        train(RUN, tmp_path)
    assert reached == ["first"]


def test_what_is_ignored_stays_ignored(tmp_path, monkeypatch, whole, outcome):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    calls_of(monkeypatch, "loss", lambda _: signal.raise_signal(signal.SIGINT))
    train(RUN, tmp_path / "deaf")
    assert outcome(tmp_path / "deaf") == outcome(whole)


def test_an_error_while_it_stops_is_kept_as_the_cause(tmp_path, monkeypatch):
    def fail(count):
        if count == 2:
            signal.raise_signal(signal.SIGINT)
            raise OSError("the disk is full")

    calls_of(monkeypatch, "loss", fail)
    with pytest.raises(KeyboardInterrupt) as stop:
        train(RUN, tmp_path)
    assert str(stop.value.__cause__) == "the disk is full"
