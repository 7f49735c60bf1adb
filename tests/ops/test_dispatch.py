"""Operators that are called without torch's dispatcher: only where nobody could tell."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from brc_pytorch import BRC, ops
from brc_pytorch.ops.dispatch import goes_straight

pytestmark = pytest.mark.skipif(
    ops.backend_for(torch.device("cpu")) == "reference", reason="no kernels are installed"
)


class Seen(TorchDispatchMode):
    """The names of the operations that reach the dispatcher."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, operation, _types, args=(), kwargs=None):
        self.names.append(str(operation))
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize("grad", [False, True])
def test_a_mode_sees_the_operator(grad):
    network, x = BRC(3, 5), torch.randn(2, 4, 3)
    with torch.set_grad_enabled(grad), Seen() as seen:
        network(x)
    name = "brc_pytorch.scan.default" if grad else "brc_pytorch.scan_layers.default"
    assert name in seen.names


@pytest.mark.parametrize("grad", [False, True])
def test_a_profiler_sees_the_operator(grad):
    network, x = BRC(3, 5), torch.randn(2, 4, 3)
    with torch.set_grad_enabled(grad), torch.autograd.profiler.profile() as profile:
        network(x)
    names = {event.name for event in profile.function_events}
    assert f"brc_pytorch::{'scan' if grad else 'scan_layers'}" in names


def test_what_is_not_what_it_seems_goes_to_the_dispatcher():
    class Own(torch.Tensor):
        pass

    x = torch.randn(4)
    lazy = torch.complex(x, x).conj().imag
    assert lazy.is_neg()
    assert goes_straight((x, torch.nn.Parameter(x)))
    for other in (lazy, x.as_subclass(Own), torch._efficientzerotensor(4)):
        assert not goes_straight((x, other))


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:DeprecationWarning")
def test_those_who_follow_operations_send_to_the_dispatcher():
    x = torch.randn(4)
    found = []

    def note(y):
        found.append(goes_straight((x,)))
        return y + 1

    torch.jit.trace(note, (x,), check_trace=False)
    torch.vmap(note)(x)
    with torch.autocast("cpu"):
        note(x)
    with Seen():
        note(x)
    with torch.device("cpu"):  # a mode of functions
        note(x)
    assert found == [False] * 5


@pytest.mark.parametrize("grad", [False, True])
def test_a_lazy_negation_is_carried_out(grad):
    network = BRC(3, 5)
    x = torch.complex(torch.zeros(2, 4, 3), torch.randn(2, 4, 3)).conj().imag
    cell, h = network.cells[0], torch.randn(4, 5)
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(network(x), network(x.resolve_neg()), rtol=0, atol=0)
        torch.testing.assert_close(cell(x[0], h), cell(x[0].resolve_neg(), h))
