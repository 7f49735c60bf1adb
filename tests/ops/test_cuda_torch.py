"""The Triton kernels under torch's own tools: compiled, transformed, replayed as a graph."""

import pytest
import torch
from torch.autograd import forward_ad

from tests.ops.calls import assert_compiles_to_the_same_bits
from tests.ops.cuda_calls import (
    DEVICE,
    arguments,
    both,
    lengths_of,
    on_a_gpu,
    on_the_backend,  # noqa: F401 - a fixture of all tests here
    operator,
)

# NumPy, which interprets, warns of what a GPU does silently: exp overflows to infinity.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")


@both
def test_opcheck(recurrence):
    x, h_0, *parameters = arguments(recurrence)
    x, h_0, *parameters = (t.requires_grad_() for t in (x, h_0[None], *parameters))
    scan = torch.ops.brc_pytorch.scan.default
    lengths = lengths_of(0, 3, 2)
    torch.library.opcheck(scan, (recurrence, x, h_0, parameters, lengths, True, True))
    torch.library.opcheck(scan, (recurrence, x, h_0, parameters[:2], None, False, False))


@both
def test_opcheck_of_the_gradients(recurrence):
    x, h_0, *parameters = arguments(recurrence)
    given = x, h_0[None], parameters, None, False
    flat = x, h_0[None], *parameters, None, None, False
    output, last, saved = torch.ops.brc_pytorch.scan(recurrence, *given, True)
    cotangents = torch.randn_like(output), torch.randn_like(last)
    torch.library.opcheck(
        torch.ops.brc_pytorch.scan_backward.default,
        (recurrence, *cotangents, *flat, output, saved, True),
    )


@both
def test_compiled_whole_and_bitwise_equal(recurrence):
    tensors = arguments(recurrence, requires_grad=True)
    lengths = lengths_of(0, 3, 2)
    assert_compiles_to_the_same_bits(operator(recurrence), tensors, lengths)


@both
def test_function_transforms_fall_back_to_the_reference(recurrence):
    tensors = arguments(recurrence, dtype=torch.float64)

    def loss(h_0):
        return operator(recurrence)(tensors[0], h_0, *tensors[2:])[0].square().sum()

    leaf = tensors[1].clone().requires_grad_()
    expected = torch.autograd.grad(loss(leaf), leaf)[0]
    mapped = torch.func.vmap(torch.func.grad(loss))(torch.stack([tensors[1]]))
    torch.testing.assert_close(mapped[0], expected)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(tensors[1], torch.ones_like(tensors[1]))
        tangent = forward_ad.unpack_dual(loss(dual)).tangent
    torch.testing.assert_close(tangent, expected.sum())


@both
def test_autocast_keeps_the_inputs_type(recurrence):
    tensors = arguments(recurrence, requires_grad=True)
    exact, _ = operator(recurrence)(*tensors)
    with torch.autocast(DEVICE, torch.bfloat16):
        same, _ = operator(recurrence)(*tensors)
        narrow, _ = operator(recurrence)(tensors[0].bfloat16(), *tensors[1:])
    assert torch.equal(same, exact)
    assert narrow.dtype == torch.bfloat16
    torch.testing.assert_close(narrow.float(), exact, rtol=0.05, atol=0.05)
    assert all(g.dtype == torch.float32 for g in torch.autograd.grad(narrow.sum(), tensors))


@on_a_gpu
@both
@pytest.mark.parametrize("hidden", [64, 300], ids=["weights on chip", "step by step"])
def test_replayed_as_a_cuda_graph(recurrence, hidden):
    tensors = arguments(recurrence, 20, 8, 3, hidden, requires_grad=True)

    def run():
        output, last = operator(recurrence)(*tensors)
        gradients = torch.autograd.grad(output.sum() + last.sum(), tensors)
        return output.detach(), *gradients  # nodes that live on would belong to another stream

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    with torch.no_grad():
        tensors[0].normal_()
    graph.replay()
    torch.testing.assert_close(captured, run())
