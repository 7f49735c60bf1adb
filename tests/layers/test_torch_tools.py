"""BRC, NBRC, GRU and LSTM under torch's own tools."""

import copy
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from brc_pytorch import BRC, GRU, LSTM, NBRC

BISTABLE = [BRC, NBRC]
NETWORKS = [*BISTABLE, GRU, LSTM]


def network(network_type, **options):
    torch.manual_seed(0)
    return network_type(3, 5, num_layers=2, bidirectional=True, **options)


def loss_of(rnn, x):
    output, last = rnn(x)
    return output.square().mean() + h_of(last).sin().mean()


def h_of(last):
    return last[0] if isinstance(last, tuple) else last


def gradients(rnn, x):
    rnn.zero_grad()
    loss_of(rnn, x).backward()
    return {name: parameter.grad.clone() for name, parameter in rnn.named_parameters()}


@pytest.mark.parametrize("network_type", NETWORKS)
def test_functional_calls_vmap_and_grad(network_type):
    """Gradients of each sample, all at once."""
    rnn = network(network_type).double()
    x = torch.randn(7, 4, 3, dtype=torch.float64)
    parameters = {name: parameter.detach() for name, parameter in rnn.named_parameters()}

    def loss(parameters, sample):
        output, _ = torch.func.functional_call(rnn, parameters, (sample.unsqueeze(1),))
        return output.square().sum()

    of_each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 1))(parameters, x)
    for row in range(4):
        expected = torch.autograd.grad(
            rnn(x[:, row : row + 1])[0].square().sum(), [*rnn.parameters()]
        )
        for name, gradient in zip(parameters, expected, strict=True):
            torch.testing.assert_close(of_each[name][row], gradient)


@pytest.mark.parametrize("network_type", NETWORKS)
def test_forward_mode_is_the_derivative(network_type):
    rnn = network(network_type).double()
    x, tangent = torch.randn(2, 7, 4, 3, dtype=torch.float64)
    _, directional = torch.func.jvp(lambda x: rnn(x)[0], (x,), (tangent,))
    step = 1e-6
    ahead, behind = rnn(x + step * tangent)[0], rnn(x - step * tangent)[0]
    torch.testing.assert_close(directional, (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("network_type", NETWORKS)
def test_second_derivatives(network_type):
    rnn = network_type(2, 3).double()
    x = torch.randn(4, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: rnn(x)[0], (x,), fast_mode=True)


@pytest.mark.parametrize("network_type", BISTABLE)
def test_a_parametrized_weight(network_type):
    """A constraint on a parameter holds in the scan, and its gradient goes through it."""

    class Doubled(nn.Module):
        def forward(self, weight):
            return 2 * weight

    rnn = network(network_type)
    doubled = copy.deepcopy(rnn)
    with torch.no_grad():
        doubled.cells[0].kernelh.mul_(2)
    x = torch.randn(7, 4, 3)
    nn.utils.parametrize.register_parametrization(rnn.cells[0], "kernelh", Doubled())
    torch.testing.assert_close(rnn(x), doubled(x))
    of_original = gradients(rnn, x)["cells.0.parametrizations.kernelh.original"]
    torch.testing.assert_close(of_original, 2 * gradients(doubled, x)["cells.0.kernelh"])


@pytest.mark.parametrize("network_type", NETWORKS)
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_checkpointing(network_type, use_reentrant):
    if use_reentrant and network_type is LSTM:
        pytest.skip("torch's reentrant checkpoints see no tensors in nested tuples of results")
    rnn = network(network_type)
    x = torch.randn(7, 4, 3, requires_grad=True)
    expected = gradients(rnn, x)
    rnn.zero_grad()
    output, last = checkpoint(rnn, x, use_reentrant=use_reentrant)
    (output.square().mean() + h_of(last).sin().mean()).backward()
    for name, parameter in rnn.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name])


@pytest.mark.parametrize("network_type", NETWORKS)
def test_autocast(network_type):
    rnn = network(network_type)
    x = torch.randn(7, 4, 3)
    expected, expected_last = rnn(x)
    with torch.autocast("cpu", torch.bfloat16):
        output, last = rnn(nn.Identity()(x))
        mixed_input, _ = rnn(x.bfloat16())
        loss = output.float().square().mean()
    for ours, exact in (
        (output, expected),
        (h_of(last), h_of(expected_last)),
        (mixed_input, expected),
    ):
        torch.testing.assert_close(ours.float(), exact, rtol=0, atol=0.05)
    loss.backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in rnn.parameters())
    assert all(bool(parameter.grad.any()) for parameter in rnn.parameters())


@pytest.mark.parametrize("network_type", NETWORKS)
def test_compiles_in_one_graph_once_for_all_lengths(network_type):
    rnn = network(network_type, dropout=0.0)
    graphs = []

    def count(graph, _inputs):
        graphs.append(graph)
        return graph

    compiled = torch.compile(rnn, fullgraph=True, dynamic=True, backend=count)
    for steps, batch in ((7, 4), (8, 4), (30, 2), (5, 9)):
        x = torch.randn(steps, batch, 3)
        torch.testing.assert_close(compiled(x), rnn(x))
    assert len(graphs) == 1
    x = torch.randn(6, 3, 3)
    found = {name.removeprefix("_orig_mod."): g for name, g in gradients(compiled, x).items()}
    torch.testing.assert_close(found, gradients(rnn, x))


@pytest.mark.parametrize("network_type", NETWORKS)
def test_compiles_in_one_graph_without_gradients(network_type):
    rnn = network_type(3, 5, 2)
    compiled = torch.compile(rnn, fullgraph=True, backend="eager")
    x = torch.randn(7, 4, 3)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), rnn(x))


@pytest.mark.parametrize("network_type", NETWORKS)
def test_exports_with_time_and_batch_open(network_type):
    rnn = network(network_type).eval()
    time, batch = torch.export.Dim("time"), torch.export.Dim("batch")
    program = torch.export.export(
        rnn, (torch.randn(7, 4, 3),), dynamic_shapes=({0: time, 1: batch},)
    )
    for steps, rows in ((7, 4), (21, 2)):
        x = torch.randn(steps, rows, 3)
        torch.testing.assert_close(program.module()(x), rnn(x))


def _distributed(rank, world_size, rendezvous, results):
    dist.init_process_group(
        "gloo",
        init_method=f"file://{rendezvous}",
        rank=rank,
        world_size=world_size,
        timeout=timedelta(minutes=10),
    )
    torch.set_num_threads(1)
    x = torch.load(results / "x.pt", weights_only=True).chunk(world_size, dim=1)[rank]
    for network_type in NETWORKS:
        data_parallel = DistributedDataParallel(network(network_type))
        found = gradients(data_parallel, x)
        sharded = fully_shard(network(network_type))
        loss_of(sharded, x).backward()
        full = {name: p.grad.full_tensor() for name, p in sharded.named_parameters()}
        if rank == 0:
            torch.save({"ddp": found, "fsdp": full}, results / f"{network_type.__name__}.pt")
    dist.destroy_process_group()


def test_two_processes_give_the_gradients_of_one(tmp_path):
    x = torch.randn(7, 4, 3)
    torch.save(x, tmp_path / "x.pt")
    torch.multiprocessing.spawn(_distributed, (2, tmp_path / "rendezvous", tmp_path), nprocs=2)
    for network_type in NETWORKS:
        found = torch.load(tmp_path / f"{network_type.__name__}.pt", weights_only=True)
        for name, gradient in gradients(network(network_type), x).items():
            torch.testing.assert_close(found["ddp"][f"module.{name}"], gradient)
            torch.testing.assert_close(found["fsdp"][name], gradient)


@pytest.mark.filterwarnings(
    "ignore::torch.jit.TracerWarning", "ignore:.torch.jit.trace:DeprecationWarning"
)
@pytest.mark.parametrize("network_type", NETWORKS)
def test_a_trace_is_the_same_with_and_without_gradients(network_type):
    """Torch checks a trace that was recorded with gradients by one without them."""
    rnn = network_type(3, 5, num_layers=2)
    traced = torch.jit.trace(rnn, (torch.randn(7, 4, 3),))
    x = torch.randn(9, 2, 3)
    torch.testing.assert_close(traced(x), rnn(x))
