"""The compiled CPU kernels: beside the reference, and under odd conditions."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from brc_pytorch import ops
from brc_pytorch.ops import backends, cpu
from tests.ops.cpu_calls import (
    arguments,
    both,
    dtypes,
    every_recurrence,
    every_set,
    needs_kernels,
    operator,
)

pytestmark = needs_kernels


@every_set
@every_recurrence
@dtypes
@pytest.mark.parametrize(
    ("steps", "batch", "input_size", "hidden_size"),
    [
        (1, 1, 1, 1),
        (7, 3, 4, 5),
        (2, 5, 33, 100),
        (20, 13, 1, 17),
        (3, 40, 70, 3),
        (9, 1, 130, 64),
        (9, 3, 2, 100),
        (300, 1, 2, 8),
        (2, 0, 3, 4),
        (4, 2, 0, 6),
    ],
)
def test_parity(
    assert_parity, instructions, recurrence, dtype, steps, batch, input_size, hidden_size
):
    with cpu.instruction_set(instructions):
        for lengths, reverse in [(False, False), (True, False), (True, True)]:
            assert_parity(
                "cpu",
                recurrence=recurrence,
                dtype=dtype,
                steps=steps,
                batch=batch,
                input_size=input_size,
                hidden_size=hidden_size,
                lengths=lengths,
                reverse=reverse,
            )


@every_recurrence
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_parity_of_any_call(assert_parity_of_any_call, recurrence, data):
    assert_parity_of_any_call(
        "cpu", data, recurrence=recurrence, steps=12, batch=21, input_size=40, hidden_size=70
    )


@every_recurrence
def test_parity_over_a_long_sequence(assert_parity, recurrence):
    assert_parity("cpu", recurrence=recurrence, steps=1000, batch=5, input_size=20, hidden_size=30)


@every_recurrence
@pytest.mark.parametrize("inputs", [2, 24], ids=["gates computed again", "gates kept"])
@pytest.mark.parametrize("lengths", [None, torch.tensor([0, 3, 5])])
@pytest.mark.parametrize("reverse", [False, True])
def test_gradcheck(recurrence, inputs, lengths, reverse):
    tensors = arguments(recurrence, 5, 3, inputs, 2, torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda *t: operator(recurrence)(*t, lengths=lengths, reverse=reverse), tensors
    )


@every_recurrence
def test_second_derivatives(recurrence):
    tensors = arguments(recurrence, steps=3, dtype=torch.float64, requires_grad=True)
    lengths = torch.tensor([0, 2, 3])
    assert torch.autograd.gradgradcheck(
        lambda *t: operator(recurrence)(*t, lengths=lengths), tensors
    )


@every_recurrence
def test_one_tensor_in_two_places_has_both_second_derivatives(recurrence):
    tensors = arguments(recurrence, steps=3, inputs=4, dtype=torch.float64)
    shared = torch.randn(1, 3, 4, dtype=torch.float64, requires_grad=True)

    def run(shared):
        return operator(recurrence)(shared, shared[0].expand_as(tensors[1]), *tensors[2:])

    assert torch.autograd.gradgradcheck(run, (shared,))


@every_recurrence
@pytest.mark.parametrize("only", [0, 1], ids=["output", "last"])
def test_a_result_that_is_not_used_counts_as_zero(recurrence, only):
    tensors = arguments(recurrence, requires_grad=True)
    gradients = {}
    for name in ("cpu", "reference"):
        with ops.backend(name):
            loss = operator(recurrence)(*tensors)[only].square().sum()
            gradients[name] = torch.autograd.grad(loss, tensors)
    torch.testing.assert_close(gradients["cpu"], gradients["reference"], rtol=1e-4, atol=1e-5)


@every_recurrence
def test_only_what_asks_for_a_gradient_gets_one(recurrence):
    tensors = arguments(recurrence)
    tensors[2].requires_grad_()
    output, _ = operator(recurrence)(*tensors)
    output.sum().backward()
    assert [tensor.grad is not None for tensor in tensors] == [False, False, True, False, False]


def test_an_unknown_instruction_set_is_refused():
    with pytest.raises(ValueError, match="expected one of"), cpu.instruction_set("abacus"):
        pytest.fail("the block must not be entered")


def test_missing_kernels_are_announced_once(monkeypatch):
    monkeypatch.setattr(backends.choice, "chosen", {})
    monkeypatch.setattr(backends, "_said", set())
    with pytest.warns(RuntimeWarning, match="no compiled kernels"):
        ops.nbrc(*arguments("nbrc"))
    ops.nbrc(*arguments("nbrc"))


def test_the_sources_alone_work_through_the_reference(tmp_path):
    root = Path(backends.__file__).parents[1]
    (tmp_path / "brc_pytorch").symlink_to(root)
    script = """
import sys, warnings
sys.path = [entry for entry in sys.path if "editable" not in str(entry)]
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in type(finder).__module__]
sys.path.insert(0, sys.argv[1])
import torch
from brc_pytorch import ops
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(2):
        ops.brc(torch.zeros(2, 1, 1), torch.zeros(1, 1), torch.zeros(1, 3), torch.zeros(2))
print(len([w for w in caught if "compiled kernels" in str(w.message)]), ops.cpu.instruction_sets())
"""
    if any(root.glob("ops/*brc_cpu.*")):
        pytest.skip("the kernels lie beside the sources")
    command = [sys.executable, "-c", script, str(tmp_path)]
    result = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
    assert result.stdout.strip() == "1 []"


@both
def test_gates_that_are_cheap_are_not_kept(recurrence):
    kept = []

    def keep(tensor):
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        tensors = arguments(
            recurrence, steps=1000, batch=1, inputs=1, hidden=16, requires_grad=True
        )
        operator(recurrence)(*tensors)
    assert 1000 * (1 + 16) <= sum(kept) < 1000 * (1 + 16) * 1.1  # the input and the output


@pytest.mark.parametrize(("hidden", "steps"), [(95, 1001), (96, 500), (255, 500), (256, 1001)])
def test_gates_are_kept_for_half_of_the_steps_where_that_costs_little(hidden, steps):
    kept = []

    def keep(tensor):
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        ops.nbrc(*arguments("nbrc", steps=1001, batch=2, hidden=hidden, requires_grad=True))
    assert steps * 2 * 2 * hidden in kept


@every_recurrence
def test_a_graph_that_is_kept_gives_the_same_gradients_again(recurrence):
    """The last backward pass writes a gradient over what the forward pass kept; no other may."""
    tensors = arguments(recurrence, inputs=30, hidden=20, requires_grad=True)
    output, last = operator(recurrence)(*tensors)
    loss = output.square().sum() + last.sum()
    first = torch.autograd.grad(loss, tensors, retain_graph=True)
    again = torch.autograd.grad(loss, tensors, retain_graph=True)
    final = torch.autograd.grad(loss, tensors)
    for one, two, three in zip(first, again, final, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, three)
