"""What autograd saved is only read: whatever comes between the passes, gradients are right."""

import mmap

import pytest
import torch

from brc_pytorch import ops
from tests.ops.calls import run, shapes_of

every_recurrence = pytest.mark.parametrize("recurrence", ["brc", "nbrc", "gru", "lstm"])
kept = pytest.mark.parametrize("inputs", [1, 24], ids=["gates computed again", "gates kept"])


def leaves_of(recurrence, inputs=24, hidden=4, dtype=torch.float64):
    states, kernel, memory, (bias_gates, *_) = shapes_of(recurrence, inputs, hidden)
    shapes = (6, 3, inputs), (*states, 3, hidden), kernel, memory, (bias_gates * hidden,)
    return [(torch.randn(shape, dtype=dtype) / 2).requires_grad_() for shape in shapes]


def expected_of(recurrence, leaves, loss):
    with ops.backend("reference"):
        return torch.autograd.grad(loss(run(recurrence, *leaves)[0]), leaves)


LOSSES = {
    "conjugated": lambda output: torch.complex(torch.ones_like(output), output).conj().imag.sum(),
    "mH": lambda output: torch.complex(torch.zeros_like(output), output).mH.imag.square().sum(),
    "einsum": lambda output: (
        torch.einsum("tbh,tbh->", torch.complex(output, output).conj(), (1 + 2j) * output).imag
    ),
    "negative view": lambda output: torch._neg_view(output).exp().sum(),
}


@every_recurrence
@kept
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
def test_lazily_negated_gradients(recurrence, inputs, loss):
    leaves = leaves_of(recurrence, inputs)
    output, _ = run(recurrence, *leaves)
    got = torch.autograd.grad(loss(output), leaves)
    torch.testing.assert_close(got, expected_of(recurrence, leaves, loss))


@every_recurrence
def test_lazily_negated_arguments(recurrence):
    x, *rest = leaves_of(recurrence)
    negated = [torch._neg_view(tensor) for tensor in (x, *rest)]
    got = run(recurrence, *negated)
    expected = run(recurrence, *(-tensor for tensor in (x, *rest)))
    torch.testing.assert_close(got, expected)
    states = negated[1] if negated[1].dim() > 2 else negated[1][None]
    results = torch.ops.brc_pytorch.scan(
        recurrence, negated[0], states, negated[2:], None, reverse=False, keep=False
    )
    torch.testing.assert_close(results[0], expected[0])


@every_recurrence
@kept
def test_a_backward_pass_that_was_interrupted_is_repeated(recurrence, inputs):
    """The operator's own backward pass had ended: torch frees what is saved after its hooks."""
    leaves = leaves_of(recurrence, inputs)
    output, _ = run(recurrence, *leaves)

    def interrupt(*_):
        raise KeyboardInterrupt

    handle = output.grad_fn.register_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        output.sum().backward()
    handle.remove()
    output.sum().backward()
    expected = expected_of(recurrence, leaves, torch.sum)
    torch.testing.assert_close([leaf.grad for leaf in leaves], [*expected])


@every_recurrence
@kept
def test_several_gradients_at_once_need_no_kept_graph(recurrence, inputs):
    leaves = leaves_of(recurrence, inputs)
    output, _ = run(recurrence, *leaves)
    cotangents = torch.randn(3, *output.shape, dtype=output.dtype)
    one_by_one = [
        torch.autograd.grad(output, leaves, cotangent, retain_graph=True)
        for cotangent in cotangents
    ]
    at_once = torch.autograd.grad(output, leaves, cotangents, is_grads_batched=True)
    for got, want in zip(at_once, zip(*one_by_one, strict=True), strict=True):
        torch.testing.assert_close(got, torch.stack(want))


@every_recurrence
@kept
@pytest.mark.filterwarnings("ignore:The given buffer is not writable:UserWarning")
def test_memory_that_cannot_be_written_is_not(recurrence, inputs, tmp_path):
    """Saved tensors lie in files that are mapped read-only: to write to one ends the process."""
    maps = []

    def store(tensor):
        path = tmp_path / str(len(maps))
        flat = tensor.detach().contiguous().view(-1)
        path.write_bytes(bytes(flat.view(torch.uint8).tolist()))
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        maps.append(mapped)
        return torch.frombuffer(mapped, dtype=tensor.dtype).view(tensor.shape)

    leaves = leaves_of(recurrence, inputs)
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: store(tensor) if tensor.numel() else tensor, lambda tensor: tensor
    ):
        output, _ = run(recurrence, *leaves)
    got = torch.autograd.grad(output.sum(), leaves)
    torch.testing.assert_close(got, expected_of(recurrence, leaves, torch.sum))
    assert maps


@every_recurrence
@kept
def test_saved_tensors_are_the_same_after_the_backward_pass(recurrence, inputs):
    saved = []

    def keep(tensor):
        saved.append((tensor, tensor.detach().clone()))
        return tensor

    leaves = leaves_of(recurrence, inputs)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output, _ = run(recurrence, *leaves)
    output.sum().backward()
    for tensor, before in saved:
        assert torch.equal(tensor, before)


@every_recurrence
@pytest.mark.parametrize("inputs", [1, 24])
def test_a_gradient_owns_its_memory_alone(recurrence, inputs):
    leaves = leaves_of(recurrence, inputs)
    output, _ = run(recurrence, *leaves)
    for gradient in torch.autograd.grad(output.sum(), leaves):
        assert gradient.untyped_storage().nbytes() == gradient.numel() * gradient.element_size()
        assert gradient.view(-1).numel() == gradient.numel()
