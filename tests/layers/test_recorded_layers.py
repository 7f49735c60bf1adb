"""Networks whose gradients are wanted: one node of autograd's graph for all layers."""

import pytest
import torch

from brc_pytorch import BRC, GRU, LSTM, NBRC, ops

NETWORKS = [BRC, NBRC, GRU, LSTM]
compiled = pytest.mark.skipif(
    ops.backend_for(torch.device("cpu")) == "reference", reason="no kernels are installed"
)


def leaves_of(network_type, layers, steps, dtype=torch.float64):
    """A network, its input and the states before its first step, all of which want gradients."""
    network = network_type(3, 5, num_layers=layers, dtype=dtype)
    x = torch.randn(steps, 4, 3, dtype=dtype, requires_grad=True)
    count = 2 if network_type is LSTM else 1
    states = [torch.randn(layers, 4, 5, dtype=dtype, requires_grad=True) for _ in range(count)]
    return network, x, states


def results(network, x, states):
    """The output and the last states."""
    output, last = network(x, states[0] if len(states) == 1 else tuple(states))
    return [output, *([last] if len(states) == 1 else last)]


@compiled
@pytest.mark.parametrize("network_type", NETWORKS)
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("steps", [1, 4])
def test_gradients_are_those_of_the_reference(network_type, layers, steps):
    network, x, states = leaves_of(network_type, layers, steps)
    leaves = [x, *states, *network.parameters()]
    found = results(network, x, states)
    assert type(found[0].grad_fn).__name__ == "RecordedLayersBackward"
    with ops.backend("reference"):
        expected = results(network, x, states)
    torch.testing.assert_close(found, expected)
    cotangents = [torch.randn_like(each) for each in found]
    for chosen in (slice(None), slice(1), slice(1, 2), slice(1, None), slice(2, None)):
        if not cotangents[chosen]:
            continue
        given = cotangents[chosen]
        options = {"retain_graph": True, "allow_unused": True}
        gradients = torch.autograd.grad(found[chosen], leaves, given, **options)
        torch.testing.assert_close(
            gradients, torch.autograd.grad(expected[chosen], leaves, given, **options)
        )


@compiled
@pytest.mark.parametrize("network_type", NETWORKS)
def test_the_bits_are_those_of_layer_after_layer(network_type):
    network, x, states = leaves_of(network_type, 2, 6, torch.float32)
    leaves = [x, *states, *network.parameters()]
    cotangents = [torch.randn_like(each) for each in results(network, x, states)]
    found = results(network, x, states)
    with torch.autograd.profiler.profile():  # sees the operator of a single layer
        expected = results(network, x, states)
    assert type(found[0].grad_fn) is not type(expected[0].grad_fn)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    torch.testing.assert_close(
        torch.autograd.grad(found, leaves, cotangents),
        torch.autograd.grad(expected, leaves, cotangents),
        rtol=0,
        atol=0,
    )


@pytest.mark.parametrize("network_type", NETWORKS)
@pytest.mark.parametrize("steps", [1, 3])
def test_gradients_for_many_cotangents_at_once(network_type, steps):
    network, x, states = leaves_of(network_type, 2, steps)
    leaves = [x, *states, *network.parameters()]
    output = results(network, x, states)[0]
    cotangents = torch.randn(3, *output.shape, dtype=output.dtype)
    at_once = torch.autograd.grad(
        output, leaves, cotangents, is_grads_batched=True, retain_graph=True
    )
    one_by_one = [
        torch.autograd.grad(output, leaves, each, retain_graph=True) for each in cotangents
    ]
    torch.testing.assert_close(at_once, tuple(map(torch.stack, zip(*one_by_one, strict=True))))


@pytest.mark.parametrize("network_type", NETWORKS)
def test_only_what_asks_for_a_gradient_gets_one(network_type):
    network, x, states = leaves_of(network_type, 2, 3)
    network.requires_grad_(False)
    for create_graph in (False, True):
        for leaf in (x, *states):
            for each in (x, *states):
                each.requires_grad_(each is leaf)
            output = results(network, x, states)[0]
            (found,) = torch.autograd.grad(output.sum(), leaf, create_graph=create_graph)
            with ops.backend("reference"):
                output = results(network, x, states)[0]
                (expected,) = torch.autograd.grad(output.sum(), leaf)
            torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("network_type", NETWORKS)
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("of", ["output", "last", "both"])
def test_derivatives_of_derivatives_of_several_layers(network_type, steps, of):
    network = network_type(2, 3, num_layers=2, dtype=torch.float64)
    x = torch.randn(steps, 2, 2, dtype=torch.float64, requires_grad=True)
    states = [torch.randn(2, 2, 3, dtype=torch.float64, requires_grad=True)]
    if network_type is LSTM:
        states.append(torch.randn(2, 2, 3, dtype=torch.float64))

    def run(x, h_0, kernel):  # noqa: ARG001 - one of the network's own
        output, last = network(x, (h_0, states[1]) if len(states) > 1 else h_0)
        last = last[-1] if len(states) > 1 else last
        return {"output": output, "last": last, "both": (output, last)}[of]

    kernel = next(network.parameters())
    assert torch.autograd.gradcheck(run, (x, states[0], kernel), fast_mode=True)
    assert torch.autograd.gradgradcheck(run, (x, states[0], kernel), fast_mode=True)


@compiled
@pytest.mark.parametrize("steps", [1, 3])
def test_saved_tensors_that_come_back_as_others_are_refused(steps):
    network, x = NBRC(3, 5, num_layers=2), torch.randn(steps, 4, 3)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t[..., :-1]):
        output, _ = network(x)
    with pytest.raises(ValueError, match="expected"):
        output.sum().backward()
