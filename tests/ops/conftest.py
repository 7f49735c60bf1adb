"""One tester for every backend: output, last state and every gradient, beside the reference."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import strategies as st

from brc_pytorch import ops
from tests.ops.calls import run, shapes_of

EPSILON = {
    torch.float16: 2.0**-10,
    torch.bfloat16: 2.0**-7,
    torch.float32: 2.0**-23,
    torch.float64: 2.0**-52,
}


@dataclass(frozen=True)
class Case:
    """One call of an operator, and how its tensors lie in memory."""

    recurrence: str = "nbrc"
    steps: int = 7
    batch: int = 3
    input_size: int = 4
    hidden_size: int = 5
    dtype: torch.dtype = torch.float32
    bias: int = 0  # which of the numbers of gates that may have one
    lengths: bool = False
    reverse: bool = False
    resets: bool = False
    reset_states: bool = False
    strided: bool = False
    weak_feedback: bool = False  # no state is bistable then, so that rounding is not magnified
    device: str = "cpu"
    seed: int = 0

    def draw(self):
        """Tensors in float64, rounded to the dtype, by name; other arguments; cotangents.

        Several states are one tensor (S, B, H), as are the last ones.
        """
        generator = torch.Generator().manual_seed(self.seed)

        def normal(*shape, scale=1.0):
            drawn = scale * torch.randn(*shape, generator=generator, dtype=torch.float64)
            return drawn.to(self.dtype).double()

        hidden = self.hidden_size
        states, kernel, memory, biases = shapes_of(self.recurrence, self.input_size, hidden)
        bias_gates = biases[self.bias % len(biases)]
        tensors = {
            "input": normal(self.steps, self.batch, self.input_size),
            "states": normal(*states, self.batch, hidden, scale=0.5),
            "kernel": normal(*kernel, scale=(1 + self.input_size) ** -0.5),
            "memory": normal(*memory, scale=(1 + hidden) ** -0.5),
        }
        if bias_gates:
            tensors["bias"] = normal(bias_gates * hidden, scale=0.5)
            if self.weak_feedback:
                tensors["bias"][hidden : 2 * hidden] -= 2
        options = {"reverse": self.reverse}
        lengths = torch.randint(-1, self.steps + 2, (self.batch,), generator=generator)
        if self.lengths:
            options["lengths"] = lengths
        cotangents = normal(self.steps, self.batch, hidden), normal(*states, self.batch, hidden)
        if self.resets:
            resets = torch.rand(self.steps, self.batch, generator=generator) < 0.3
            options["resets"] = resets.to(self.device)
            if self.strided:
                options["resets"] = options["resets"].t().contiguous().t()
            if self.reset_states:
                tensors["reset_states"] = normal(*states, self.batch, hidden, scale=0.5)
        return tensors, options, cotangents

    def place(self, tensor, dtype):
        """The values where they are to be computed with; if so asked amid NaN, strided."""
        tensor = tensor.to(self.device, dtype)
        if not self.strided:
            return tensor
        wide = tensor.new_full([2 * size + 1 for size in tensor.shape], float("nan"))
        return wide[tuple(slice(1, None, 2) for _ in tensor.shape)].copy_(tensor)

    def run(self, backend, dtype):
        """Output, last state and the gradients of all tensors, by name."""
        tensors, options, cotangents = self.draw()
        leaves = {name: self.place(t, dtype).requires_grad_() for name, t in tensors.items()}
        positional = [leaf for name, leaf in leaves.items() if name != "reset_states"]
        options["reset_states"] = leaves.get("reset_states")
        with ops.backend(backend):
            output, last = run(self.recurrence, *positional, **options)
            gradients = torch.autograd.grad(
                (output, last),
                [*leaves.values()],
                [self.place(cotangent, dtype) for cotangent in cotangents],
            )
        named = zip(leaves, gradients, strict=True)
        return {"output": output, "last": last, **{f"grad {name}": g for name, g in named}}


@pytest.fixture
def poisoned():
    """Fill freshly allocated tensors with NaN, so that an element nobody wrote shows."""
    torch.use_deterministic_algorithms(mode=True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(mode=False)


@pytest.fixture
def assert_parity(poisoned):  # noqa: ARG001 - for its effect
    """Compare a backend with the reference, as precisely as the reference itself computes."""

    def check(backend, **options):
        case = Case(**options)
        exact = case.run("reference", torch.float64)
        naive = case.run("reference", case.dtype)
        got = case.run(backend, case.dtype)
        # Not each tensor's own: where the terms of a sum cancel, their rounding stays.
        scale = max(want.abs().max() for want in exact.values() if want.numel())
        for name, want in exact.items():
            rough, value = naive[name], got[name]
            assert value.dtype == case.dtype, name
            assert value.shape == want.shape, name
            if want.numel() == 0:
                continue
            # Rounding is amplified by the dynamics: the reference's own error is the yardstick.
            error = (rough - want).abs().max()
            epsilon = EPSILON[case.dtype]
            if case.dtype.itemsize > 2:
                allowed = 10 * error + 50 * epsilon * scale
            else:  # kernels compute in float32, and round what they write
                allowed = 2 * error + 2 * epsilon * want.abs().max()
            assert (value - want).abs().max() <= allowed, f"{name} of {case}"

    return check


@pytest.fixture
def assert_parity_of_any_call(assert_parity):
    """Compare a backend with the reference in a call that Hypothesis draws, up to these sizes."""

    def check(backend, data, *, steps, batch, input_size, hidden_size, **fixed):
        options = {
            "steps": st.integers(1, steps),
            "batch": st.integers(0, batch),
            "input_size": st.integers(0, input_size),
            "hidden_size": st.integers(1, hidden_size),
            "dtype": st.sampled_from([torch.float32, torch.float64]),
            "bias": st.integers(0, 2),
            "lengths": st.booleans(),
            "reverse": st.booleans(),
            "resets": st.booleans(),
            "reset_states": st.booleans(),
            "strided": st.booleans(),
            "seed": st.integers(0, 2**31),
        }
        assert_parity(backend, **data.draw(st.fixed_dictionaries(options)), **fixed)

    return check
