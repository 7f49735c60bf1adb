"""The operators' checks and the choice of a backend."""

import dataclasses

import pytest
import torch

from brc_pytorch import ops
from brc_pytorch.ops import backends


def arguments():
    return {
        "input": torch.randn(5, 2, 3),
        "h_0": torch.randn(2, 4),
        "kernel": torch.randn(3, 12),
        "memory": torch.randn(4, 8),
        "bias": torch.randn(8),
        "lengths": torch.tensor([5, 2]),
    }


@pytest.mark.parametrize(
    ("name", "bad", "expected"),
    [
        ("input", torch.randn(5, 3), r"input: expected \(T, B, I\) with T > 0, got \(5, 3\)"),
        ("input", torch.randn(0, 2, 3), r"T > 0, got \(0, 2, 3\)"),
        ("input", torch.ones(5, 2, 3, dtype=torch.int64), "floating-point dtype, got torch.int64"),
        ("h_0", torch.randn(4), r"h_0: expected \(B, H\) = \(2, H\), got \(4,\)"),
        ("h_0", torch.randn(3, 4), r"h_0: expected shape \(2, 4\), got \(3, 4\)"),
        ("h_0", torch.randn(2, 4).double(), "h_0: expected dtype torch.float32, got torch.float64"),
        ("h_0", torch.randn(2, 4, device="meta"), "h_0: expected device cpu, got meta"),
        ("kernel", torch.randn(3, 8), r"kernel: expected shape \(3, 12\), got \(3, 8\)"),
        ("memory", torch.randn(8), r"memory: expected shape \(4, 8\), got \(8,\)"),
        ("bias", torch.randn(9), r"bias: expected shape \(8,\), got \(9,\)"),
        (
            "lengths",
            torch.tensor([5]),
            r"lengths: expected 2 integers, one a row, got shape \(1,\)",
        ),
        ("lengths", torch.tensor([5.0, 2.0]), "of torch.float32"),
    ],
)
def test_bad_input_is_named(name, bad, expected):
    ops.nbrc(**arguments())
    with pytest.raises(ValueError, match=expected):
        ops.nbrc(**{**arguments(), name: bad})


def test_the_brc_wants_a_vector_memory():
    with pytest.raises(ValueError, match=r"memory: expected shape \(8,\), got \(4, 8\)"):
        ops.brc(**arguments())


def test_lengths_outside_count_as_the_nearest():
    given = arguments()
    inside = ops.nbrc(**{**given, "lengths": torch.tensor([5, 0])})
    torch.testing.assert_close(ops.nbrc(**{**given, "lengths": torch.tensor([9, -1])}), inside)


@pytest.fixture
def spy(monkeypatch):
    """A backend for the CPU that counts its calls and computes as the reference does."""
    calls = []
    reference = backends.choice.backends["reference"]

    def forward(*arguments):
        calls.append(arguments)
        reference.forward(*arguments)

    monkeypatch.setattr(backends.choice, "backends", {"reference": reference})
    monkeypatch.setattr(backends.choice, "chosen", {})
    spy = dataclasses.replace(reference, device_type="cpu", forward=forward)
    backends.register_backend("spy", spy)
    return calls


def brc_on(device):
    h_0, kernel, memory = (torch.ones(shape, device=device) for shape in ((2, 4), (3, 12), (8,)))
    return ops.brc(torch.ones(5, 2, 3, device=device), h_0, kernel, memory)


def test_the_device_chooses_the_backend(spy):
    brc_on("cpu")
    assert len(spy) == 1
    assert ops.backend_for(torch.device("cpu")) == "spy"
    brc_on("meta")  # has none of its own
    assert len(spy) == 1
    assert ops.backend_for(torch.device("meta")) == "reference"


def test_a_forced_backend_runs_until_its_block_ends(spy):
    with ops.backend("reference"):
        brc_on("cpu")
        with ops.backend("spy"):
            brc_on("cpu")
        brc_on("cpu")
    assert len(spy) == 1
    with pytest.raises(ZeroDivisionError), ops.backend("reference"):
        raise ZeroDivisionError
    brc_on("cpu")
    assert len(spy) == 2


@pytest.mark.usefixtures("spy")
def test_a_forced_backend_never_falls_back():
    with (
        ops.backend("spy"),
        pytest.raises(RuntimeError, match="'spy' computes on cpu tensors, got input on meta"),
    ):
        brc_on("meta")


def test_an_unknown_backend_is_refused():
    with (
        pytest.raises(ValueError, match=r"expected one of the backends .*'reference'.*got 'warp'"),
        ops.backend("warp"),
    ):
        pytest.fail("the block must not be entered")


def test_a_backend_is_registered_once():
    with pytest.raises(ValueError, match="there is a backend 'reference' already"):
        backends.register_backend("reference", backends.choice.backends["reference"])


def test_compiles_without_a_graph_break():
    given = arguments()
    compiled = torch.compile(ops.nbrc, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(**given), ops.nbrc(**given))


def test_missing_kernels_are_announced_once(monkeypatch):
    monkeypatch.setattr(backends, "_said", set())
    monkeypatch.setattr(backends.choice, "chosen", {})
    say = backends.say_once_that_kernels_are_missing
    with pytest.warns(RuntimeWarning, match="no Triton"):
        say("cuda", "brc")
    say("cuda", "brc")  # a second warning would be an error
    backends.choice.chosen["cuda", "brc"] = backends.choice.backends["reference"]
    with pytest.warns(RuntimeWarning, match=r"for cuda compute \['brc'\]: 'gru' runs step by step"):
        say("cuda", "gru")
    say("cuda", "gru")


@pytest.mark.parametrize(
    ("name", "bad", "expected"),
    [
        ("states", (), r"states: expected 2 of 'lstm', got 0"),
        ("states", torch.randn(1, 2, 4).unbind(), r"states: expected 2 of 'lstm', got 1"),
        ("states", torch.randn(3, 2, 4).unbind(), r"states: expected 2 of 'lstm', got 3"),
        (
            "states",
            (torch.randn(2, 4), torch.randn(2, 5)),
            r"states\[1\]: expected shape \(2, 4\) on cpu, as states\[0\], got \(2, 5\) on cpu",
        ),
        (
            "states",
            (torch.randn(2, 4), torch.randn(2, 4, device="meta")),
            r"states\[1\]: expected .* on cpu, as states\[0\], got .* on meta",
        ),
        (
            "states",
            (torch.randn(2, 4), torch.randn(2, 4).double()),
            r"states\[1\]: expected dtype torch.float32, as states\[0\], got torch.float64",
        ),
        ("kernel", torch.randn(3, 12), r"kernel: expected shape \(3, 16\), got \(3, 12\)"),
        ("memory", torch.randn(4, 12), r"memory: expected shape \(4, 16\), got \(4, 12\)"),
        ("bias", torch.randn(16), r"bias: expected shape \(32,\), got \(16,\)"),
    ],
)
def test_bad_input_of_a_recurrence_with_two_states_is_named(name, bad, expected):
    given = {
        "input": torch.randn(5, 2, 3),
        "states": torch.randn(2, 2, 4).unbind(),
        "kernel": torch.randn(3, 16),
        "memory": torch.randn(4, 16),
        "bias": torch.randn(32),
    }
    ops.lstm(**given)
    with pytest.raises(ValueError, match=expected):
        ops.lstm(**{**given, name: bad})
