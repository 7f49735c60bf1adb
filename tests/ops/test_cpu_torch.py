"""The compiled CPU kernels inside torch: opcheck, compilation, export, transforms, autocast."""

import pytest
import torch
from torch.autograd import forward_ad

from brc_pytorch import ops
from brc_pytorch.ops.cpu import interface
from tests.ops.calls import assert_compiles_to_the_same_bits
from tests.ops.cpu_calls import arguments, every_recurrence, needs_kernels, operator, stacked

pytestmark = needs_kernels

SIZES = pytest.mark.parametrize(
    "sizes",
    [{"inputs": 2, "hidden": 4}, {"inputs": 2, "hidden": 100}, {"inputs": 24}],
    ids=["no gates kept", "half of the nBRC's", "all"],
)


@every_recurrence
@SIZES
@pytest.mark.parametrize("keep", [False, True])
def test_opcheck(recurrence, sizes, keep):
    x, h_0, *parameters = arguments(recurrence, **sizes)
    x, states, *parameters = (t.requires_grad_() for t in (x, stacked(h_0), *parameters))
    scan = torch.ops.brc_pytorch.scan.default
    for lengths, reverse in [(None, False), (torch.tensor([0, 3, 5]), True)]:
        given = recurrence, x, states, parameters, lengths, reverse, keep
        torch.library.opcheck(scan, given)
    torch.library.opcheck(scan, (recurrence, x, states, parameters[:2], None, False, keep))


@every_recurrence
@SIZES
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("keep", [False, True])
def test_opcheck_of_the_gradients(recurrence, sizes, dtype, keep):
    x, h_0, *parameters = arguments(recurrence, **sizes, dtype=dtype)
    given = x, stacked(h_0), parameters, None, False
    flat = x, stacked(h_0), *parameters, None, None, False
    output, last, saved = torch.ops.brc_pytorch.scan(recurrence, *given, keep)
    cotangents = torch.randn_like(output), torch.randn_like(last)
    torch.library.opcheck(
        torch.ops.brc_pytorch.scan_backward.default,
        (recurrence, *cotangents, *flat, output, saved, True),
    )


@every_recurrence
def test_gradients_where_nothing_was_saved_are_the_same(recurrence):
    """The forward pass may have run without gradients; further states are then computed again."""
    x, h_0, *parameters = arguments(recurrence, inputs=24, dtype=torch.float64)
    given = x, stacked(h_0)
    output, last, saved = torch.ops.brc_pytorch.scan(
        recurrence, *given, parameters, None, reverse=True, keep=True
    )
    cotangents = torch.randn_like(output), torch.randn_like(last)
    results = [
        torch.ops.brc_pytorch.scan_backward(
            *(recurrence, *cotangents, *given, *parameters, None, None),
            *(True, output, kept, True),
        )
        for kept in (saved, saved.new_empty(0))
    ]
    assert saved.numel()
    torch.testing.assert_close(*results)


@every_recurrence
def test_compiled_whole_and_bitwise_equal(recurrence):
    tensors = arguments(recurrence, requires_grad=True)
    lengths = torch.tensor([0, 3, 5])
    assert_compiles_to_the_same_bits(operator(recurrence), tensors, lengths)


@every_recurrence
def test_a_compiled_function_obeys_the_forced_backend(recurrence, monkeypatch):
    torch.compiler.reset()  # the tests before compiled the same function, up to its limit
    tensors = arguments(recurrence)
    compiled = torch.compile(operator(recurrence), fullgraph=True, backend="eager")
    compiled(*tensors)
    called = []
    monkeypatch.setattr(interface.kernels, "brc_forward", lambda *_: called.append(1) or 0)
    compiled(*tensors)
    assert called
    called.clear()
    with ops.backend("reference"):
        compiled(*tensors)
    assert not called


@every_recurrence
def test_exported_with_any_number_of_steps_and_rows(recurrence):
    class Module(torch.nn.Module):
        def forward(self, *tensors):
            return operator(recurrence)(*tensors)

    steps, batch = torch.export.Dim("steps"), torch.export.Dim("batch")
    tensors = arguments(recurrence)
    rows = tensors[1].dim() - 2
    shapes = (({0: steps, 1: batch}, {rows: batch}, None, None, None),)
    exported = torch.export.export(Module(), tuple(tensors), dynamic_shapes=shapes)
    others = [*arguments(recurrence, steps=9, batch=6)[:2], *tensors[2:]]
    assert torch.equal(exported.module()(*others)[0], operator(recurrence)(*others)[0])


@every_recurrence
def test_function_transforms_fall_back_to_the_reference(recurrence):
    tensors = arguments(recurrence, dtype=torch.float64)

    def loss(h_0):
        return operator(recurrence)(tensors[0], h_0, *tensors[2:])[0].square().sum()

    two = torch.stack([tensors[1], 2 * tensors[1]])
    mapped = torch.func.vmap(torch.func.grad(loss))(two)
    for h_0, gradient in zip(two, mapped, strict=True):
        leaf = h_0.clone().requires_grad_()
        torch.testing.assert_close(gradient, torch.autograd.grad(loss(leaf), leaf)[0])
    tangent = torch.func.jvp(loss, (tensors[1],), (torch.ones_like(tensors[1]),))[1]
    torch.testing.assert_close(tangent, torch.func.grad(loss)(tensors[1]).sum())


@every_recurrence
@pytest.mark.parametrize("inputs", [2, 24], ids=["gates computed again", "gates kept"])
def test_several_gradients_at_once(recurrence, inputs):
    tensors = arguments(recurrence, inputs=inputs, dtype=torch.float64)

    def last(input):
        return operator(recurrence)(input, *tensors[1:])[1]

    one_by_one = torch.autograd.functional.jacobian(last, tensors[0])
    at_once = torch.autograd.functional.jacobian(last, tensors[0], vectorize=True)
    torch.testing.assert_close(at_once, one_by_one)


@every_recurrence
def test_forward_mode_falls_back_to_the_reference(recurrence):
    tensors = arguments(recurrence, dtype=torch.float64)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(tensors[1], torch.ones_like(tensors[1]))
        last = operator(recurrence)(tensors[0], dual, *tensors[2:])[1]
        tangent = forward_ad.unpack_dual(last).tangent
    leaf = tensors[1].clone().requires_grad_()
    last = operator(recurrence)(tensors[0], leaf, *tensors[2:])[1]
    torch.testing.assert_close(tangent.sum(), torch.autograd.grad(last.sum(), leaf)[0].sum())


@every_recurrence
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_types_are_computed_in_float32(recurrence, dtype):
    tensors = [tensor.to(dtype) for tensor in arguments(recurrence, steps=50)]
    output, last = operator(recurrence)(*tensors)
    exact, _ = operator(recurrence)(*(tensor.float() for tensor in tensors))
    assert output.dtype == last.dtype == dtype
    assert torch.equal(output, exact.to(dtype))


@every_recurrence
def test_autocast_keeps_the_inputs_type(recurrence):
    tensors = arguments(recurrence, requires_grad=True)
    exact, _ = operator(recurrence)(*tensors)
    with torch.autocast("cpu", torch.bfloat16):
        same, _ = operator(recurrence)(*tensors)
        narrow, _ = operator(recurrence)(tensors[0].bfloat16(), *tensors[1:])
    assert torch.equal(same, exact)
    assert narrow.dtype == torch.bfloat16
    torch.testing.assert_close(narrow.float(), exact, rtol=0.05, atol=0.05)
    assert all(g.dtype == torch.float32 for g in torch.autograd.grad(narrow.sum(), tensors))


@every_recurrence
def test_an_output_changed_in_place_is_noticed(recurrence):
    tensors = arguments(recurrence, requires_grad=True)
    output, last = operator(recurrence)(*tensors)
    with torch.no_grad():
        output.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        last.sum().backward()
