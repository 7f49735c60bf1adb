"""Steps that are not checked again: whatever changes is noticed, as by the first step."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

from brc_pytorch import BRC, GRU, NBRC, ops
from brc_pytorch.ops import dispatch

NETWORKS = [BRC, NBRC, GRU]
compiled = pytest.mark.skipif(
    ops.backend_for(torch.device("cpu")) == "reference", reason="no kernels are installed"
)


def random(network):
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return network


def owner_of_kernel(network):
    """The module that has a kernel, and its name there."""
    return (network, "weight_ih_l0") if isinstance(network, GRU) else (network.cells[0], "kernelr")


def kernel_of(network):
    return getattr(*owner_of_kernel(network))


def replace_kernel(network):
    setattr(*owner_of_kernel(network), nn.Parameter(torch.randn_like(kernel_of(network))))


def set_data(network):
    kernel_of(network).data = torch.randn_like(kernel_of(network))


def set_transposed_data(network):
    kernel_of(network).data = torch.randn_like(kernel_of(network).t().contiguous()).t()


def set_storage(network):
    kernel_of(network).data.set_(torch.randn_like(kernel_of(network)))


def write_in_place(network):
    with torch.no_grad():
        kernel_of(network).mul_(3)


def load_another(network):
    state = {name: torch.randn_like(each) for name, each in network.state_dict().items()}
    network.load_state_dict(state)


def prune_kernel(network):
    prune.l1_unstructured(*owner_of_kernel(network), amount=0.5)


def parametrize_kernel(network):
    class Doubled(nn.Module):
        def forward(self, weight):
            return 2 * weight

    parametrize.register_parametrization(*owner_of_kernel(network), Doubled())


def freeze(network):
    network.requires_grad_(False)


CHANGES = [
    replace_kernel,
    set_data,
    set_transposed_data,
    set_storage,
    write_in_place,
    load_another,
    prune_kernel,
    parametrize_kernel,
    freeze,
    nn.Module.double,
]


def step(network, x, h, *, grad):
    """The results of a step, and, if asked for, the gradients of what wants some."""
    with torch.set_grad_enabled(grad):
        output, last = network(x, h)
        wanted = [each for each in (h, *network.parameters()) if each.requires_grad]
        if not grad or not wanted:
            return output, last
        loss = output.sum() + last.square().sum()
        return output, last, *torch.autograd.grad(loss, wanted)


def assert_steps_are_the_references(network, x, h, *, grad):
    for _ in range(2):  # the first is checked, the second is known
        found = step(network, x, h, grad=grad)
        with ops.backend("reference"):
            expected = step(network, x, h, grad=grad)
        torch.testing.assert_close(found, expected, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("network_type", NETWORKS)
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("grad", [False, True])
def test_a_change_of_the_parameters_is_noticed(network_type, change, grad):
    network = random(network_type(3, 5, num_layers=2))
    x, h = torch.randn(1, 4, 3), torch.randn(2, 4, 5)
    assert_steps_are_the_references(network, x, h, grad=grad)
    change(network)
    dtype = kernel_of(network).dtype
    assert_steps_are_the_references(network, x.to(dtype), h.to(dtype), grad=grad)


@pytest.mark.parametrize("network_type", NETWORKS)
@pytest.mark.parametrize("grad", [False, True])
def test_a_parameter_that_does_not_fit_is_refused(network_type, grad):
    network, x, h = network_type(3, 5), torch.randn(1, 4, 3), torch.randn(1, 4, 5)
    for wrong in (torch.randn(2, 2), torch.zeros(kernel_of(network).shape, dtype=torch.int32)):
        step(network, x, h, grad=grad)
        step(network, x, h, grad=grad)
        frozen = kernel_of(network).detach().clone()
        name = owner_of_kernel(network)[1]
        del owner_of_kernel(network)[0]._parameters[name]
        owner_of_kernel(network)[0]._parameters[name] = nn.Parameter(wrong, requires_grad=False)
        with pytest.raises((ValueError, RuntimeError)):
            step(network, x, h, grad=grad)
        owner_of_kernel(network)[0]._parameters[name] = nn.Parameter(frozen)


@pytest.mark.parametrize("network_type", NETWORKS)
def test_other_inputs_and_states_are_noticed(network_type):
    network = random(network_type(3, 5))
    x, h = torch.randn(1, 4, 3), torch.randn(1, 4, 5)
    assert_steps_are_the_references(network, x, h, grad=True)
    lazy = torch.complex(torch.zeros(1, 4, 5), h).conj().imag
    strided = torch.randn(1, 4, 10)[..., ::2]
    for state in (lazy, strided, h.clone().requires_grad_(), torch.zeros(1, 1, 5).expand(1, 4, 5)):
        assert_steps_are_the_references(network, x, state, grad=True)
    for inputs in (x[:, :2], torch.randn(1, 3, 4).transpose(1, 2)):
        assert_steps_are_the_references(network, inputs, h[:, : inputs.shape[1]], grad=True)
    for wrong in (torch.randn(1, 4, 6), torch.randn(2, 4, 5), h.double()):
        with pytest.raises((ValueError, RuntimeError)):
            network(x, wrong)


@pytest.mark.parametrize("network_type", NETWORKS)
def test_copies_step_as_the_original(network_type):
    network, x, h = random(network_type(3, 5)), torch.randn(1, 4, 3), torch.randn(1, 4, 5)
    expected = step(network, x, h, grad=True)
    pickled = pickle.loads(pickle.dumps(network))  # noqa: S301 - our own
    for other in (copy.deepcopy(network), pickled):
        torch.testing.assert_close(step(other, x, h, grad=True), expected, rtol=0, atol=0)


def test_threads_step_networks_of_their_own():
    networks = [random(NBRC(3, hidden, num_layers=2)) for hidden in (4, 5, 6, 7)]
    x, h = torch.randn(1, 2, 3), [torch.randn(2, 2, hidden) for hidden in (4, 5, 6, 7)]

    def run(place):
        return [step(networks[place], x, h[place], grad=True) for _ in range(20)]

    expected = [step(networks[place], x, h[place], grad=True) for place in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for found, of_network in zip(pool.map(run, range(4)), expected, strict=True):
            torch.testing.assert_close(found, [of_network] * 20, rtol=0, atol=0)


def test_what_is_known_is_bounded():
    cell = BRC(1, 2)
    for batch in range(3 * dispatch._MOST):
        cell(torch.zeros(1, batch, 1))
    assert len(dispatch._known) <= dispatch._MOST


@compiled
@pytest.mark.parametrize("grad", [False, True])
def test_without_guards_every_step_is_checked(grad, monkeypatch):
    monkeypatch.setattr(dispatch, "_known", {})
    monkeypatch.setattr(dispatch, "_TensorGuards", None)
    network = random(BRC(3, 5))
    assert_steps_are_the_references(network, torch.randn(1, 4, 3), torch.randn(1, 4, 5), grad=grad)
    assert not dispatch._known
