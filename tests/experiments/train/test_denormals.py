import subprocess
import sys
import threading

import pytest
import torch

from brc_pytorch.experiments.train.denormals import are_flushed, flushed

if not torch.set_flush_denormal(True):
    pytest.skip("this processor cannot flush denormals", allow_module_level=True)
torch.set_flush_denormal(False)

SIZE = 1 << 20
"""Enough numbers for torch to divide them among its threads."""


class _Product(torch.autograd.Function):
    """Twice its input, where the backward pass tells its own denormals."""

    @staticmethod
    def forward(ctx, x, seen):
        ctx.seen = seen
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        ctx.seen.append(denormals())
        return 2 * gradient, None


def denormals():
    """Return how many of many denormal results are there, whichever thread computed them."""
    return int(torch.full((SIZE,), 1e-30).mul_(1e-12).ne(0).sum())


@pytest.fixture
def _two_threads():
    """More than one of torch's threads, started before anything is set."""
    torch.set_num_threads(2)
    assert denormals() == SIZE


@pytest.mark.usefixtures("_two_threads")
def test_every_thread_of_torch_flushes_and_has_its_setting_back():
    for _ in range(2):
        with flushed() as are:
            assert are
            assert denormals() == 0
            with flushed() as still:
                assert still
            assert denormals() == 0
        assert denormals() == SIZE
    assert not are_flushed()


@pytest.mark.usefixtures("_two_threads")
def test_the_backward_pass_flushes():
    seen = []
    with flushed():
        x = torch.ones(SIZE, requires_grad=True)
        gradient = torch.full((SIZE,), 1.5e-38)
        _Product.apply(x, seen).mul(0.25).backward(gradient)
        assert int(x.grad.ne(0).sum()) == 0  # a quarter of the gradient is a denormal
    assert seen == [0]
    x = torch.ones(SIZE, requires_grad=True)
    _Product.apply(x, seen).mul(0.25).backward(gradient)
    assert int(x.grad.ne(0).sum()) == SIZE
    assert seen == [0, SIZE]


@pytest.mark.usefixtures("_two_threads")
def test_a_thread_that_is_not_the_main_one_flushes_alone():
    """As a worker of a Dask cluster is one."""
    seen = []

    def work():
        seen.append(denormals())
        with flushed():
            seen.append(denormals())
        seen.append(denormals())

    thread = threading.Thread(target=work)
    with flushed():
        pass
    thread.start()
    thread.join()
    assert seen == [SIZE, 0, SIZE]
    assert denormals() == SIZE


@pytest.mark.usefixtures("_two_threads")
def test_what_fails_has_its_setting_back():
    with pytest.raises(ValueError, match="stopped"), flushed():
        raise ValueError("stopped")
    assert denormals() == SIZE


def test_it_holds_for_threads_that_start_later():
    code = f"""
import torch
from brc_pytorch.experiments.train.denormals import flushed
torch.set_num_threads(1)
with flushed():
    torch.set_num_threads(2)
    print(int(torch.full(({SIZE},), 1e-30).mul_(1e-12).ne(0).sum()))
"""
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.split() == ["0"]
