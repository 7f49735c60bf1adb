"""The compiled CPU kernels: threads, processes, and layers in one call."""

import ctypes
import os
import struct
import subprocess
import sys
import threading
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from brc_pytorch import ops
from brc_pytorch.ops import cpu
from brc_pytorch.ops.cpu import interface
from brc_pytorch.ops.recurrences import RECURRENCES
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


@every_recurrence
@every_set
@dtypes
@pytest.mark.parametrize(
    ("steps", "batch", "hidden"), [(40, 29, 50), (300, 2, 71)], ids=["rows", "teams"]
)
def test_any_number_of_threads_computes_the_same(
    recurrence, instructions, dtype, steps, batch, hidden
):
    tensors = arguments(recurrence, steps, batch, 30, hidden, dtype, requires_grad=True)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3, 7):
            torch.set_num_threads(count)
            with cpu.instruction_set(instructions):
                output, last = operator(recurrence)(*tensors)
                gradients = torch.autograd.grad(output.square().sum(), tensors)
            results.append((output, last, *gradients))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        for one, same in zip(results[0][:4], other[:4], strict=True):  # to grad h_0
            assert torch.equal(one, same)
        torch.testing.assert_close(results[0][4:], other[4:], rtol=1e-3, atol=1e-3)


def layers_of(recurrence, inputs, hidden, count, *, bias=0, dtype=None, strided=False):
    """For each layer the tensors of one call for all, of which some may lie transposed."""
    known = RECURRENCES[recurrence]
    layers = []
    for _ in range(count):
        rows = {"I": (inputs,), "H": (hidden,), None: ()}
        layers.append([])
        for parameter in known.parameters:
            gates = parameter.gates[bias % len(parameter.gates)]
            shape = (*rows[parameter.rows], known.apart * hidden)
            drawn = [torch.randn(shape, dtype=dtype) for _ in range(gates // known.apart)]
            if parameter.rows == "H":
                drawn = [tensor / hidden for tensor in drawn]
            if strided and parameter.rows:
                drawn[-1] = drawn[-1].t().contiguous().t()
            layers[-1] += drawn
        inputs = hidden
    return layers


def stacked(recurrence, layer):
    """The parameters of a layer, as they are for a call of its own."""
    tensors, _ = RECURRENCES[recurrence].layouts[len(layer)]
    parts = torch.tensor([0, *tensors]).cumsum(0).tolist()
    return [torch.cat(layer[a:b], -1) for a, b in pairwise(parts) if a < b]


def states_of(recurrence, *shape, dtype=None):
    return tuple(torch.randn(shape, dtype=dtype) for _ in RECURRENCES[recurrence].states)


@every_recurrence
@settings(max_examples=40)
@given(
    steps=st.integers(1, 90),
    batch=st.integers(0, 5),
    inputs=st.integers(0, 40),
    hidden=st.integers(1, 70),
    count=st.integers(1, 4),
    bias=st.integers(0, 2),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    with_lengths=st.booleans(),
    strided=st.booleans(),
    threads=st.integers(1, 9),
)
def test_layers_at_once_are_layers_in_turn(
    recurrence, steps, batch, inputs, hidden, count, bias, dtype, with_lengths, strided, threads
):
    states = states_of(recurrence, count, batch, hidden, dtype=dtype)
    lengths = torch.randint(-1, steps + 2, (batch,)) if with_lengths else None
    input = torch.randn(batch, inputs, steps, dtype=dtype).permute(2, 0, 1)
    if not strided:
        input = input.contiguous()
    layers = layers_of(recurrence, inputs, hidden, count, bias=bias, dtype=dtype, strided=strided)
    expected, expected_last = input, []
    for number, layer in enumerate(layers):
        first = tuple(state[number] for state in states)
        expected, last = ops.scan(recurrence, expected, first, stacked(recurrence, layer), lengths)
        expected_last.append(last)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        with torch.no_grad():
            output, last = ops.scan_layers(recurrence, input, states, layers, lengths)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(output, expected)
    for got, want in zip(last, zip(*expected_last, strict=True), strict=True):
        assert torch.equal(got, torch.stack(want))


def two_layers(recurrence, hidden=4):
    """Arguments of a network of two layers with three inputs."""
    states = states_of(recurrence, 2, 2, hidden)
    return [torch.randn(5, 2, 3), states, layers_of(recurrence, 3, hidden, 2), None]


@pytest.mark.parametrize("recurrence", ["nbrc", "gru", "lstm"])
def test_a_team_of_threads_shares_one_row_bit_for_bit(recurrence):
    layers = layers_of(recurrence, 3, 128, 2)
    x, states = torch.randn(1000, 1, 3), states_of(recurrence, 2, 1, 128)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            with torch.no_grad():
                results += [ops.scan_layers(recurrence, x, states, layers) for _ in range(5)]
    finally:
        torch.set_num_threads(before)
    for output, last in results:
        assert torch.equal(output, results[0][0])
        assert all(map(torch.equal, last, results[0][1]))


@every_recurrence
def test_layers_are_run_one_by_one_where_at_once_will_not_do(recurrence):
    x, states, layers, lengths = two_layers(recurrence)

    def at_once(x=x, layers=layers, lengths=lengths):
        same = tuple(state.to(x.dtype) for state in states)
        return ops.scan_layers(recurrence, x, same, layers, lengths)

    # With gradients, rows of different lengths go layer by layer.
    some = torch.tensor([5, 2])
    assert at_once() is not None
    assert at_once(lengths=some) is None
    with torch.no_grad():
        assert at_once() is not None
        assert at_once(lengths=some) is not None
        with ops.backend("reference"):
            assert at_once() is None
        seen = []
        torch.func.vmap(lambda x: seen.append(at_once()) or x)(torch.ones(2))
        assert seen == [None]
        assert at_once(layers=[layers[0], layers[1][:-2]]) is None
        narrow = [[tensor.bfloat16() for tensor in layer] for layer in layers]
        assert at_once(x.bfloat16(), narrow) is None


@both
@torch.no_grad()
def test_bad_layers_are_refused(recurrence):
    def at_once(place=None, value=None):
        arguments = two_layers(recurrence)
        if place is not None:
            arguments[place] = value
        x, states, layers, lengths = arguments
        return ops.scan_layers(recurrence, x, states, layers, lengths)

    at_once()
    for place, value, expected in [
        (0, torch.randn(5, 2, 4), r"parameters\[0\]: expected shape \(4, 4\), got \(3, 4\)"),
        (0, torch.randn(0, 2, 3), "input: expected .* T > 0"),
        (0, torch.randn(5, 2, 3, dtype=torch.float64), "h_0: expected dtype torch.float64"),
        (0, torch.randn(5, 3), r"input: expected \(T, B, I\)"),
        (1, (torch.randn(2, 3, 4),), r"h_0: expected shape \(2, 2, 4\), got \(2, 3, 4\)"),
        (1, (torch.randn(3, 2, 4),), "parameters: expected .* a layer, got 14 for 3"),
        (1, (torch.randn(2, 4),), r"h_0: expected \(L, B, H\), got \(2, 4\)"),
        (3, torch.tensor([1]), "lengths: expected 2 integers"),
        (3, torch.tensor([1.0, 2.0]), "lengths: expected 2 integers"),
        (3, torch.tensor([True, False]), "lengths: expected 2 integers"),
    ]:
        with pytest.raises(ValueError, match=expected):
            at_once(place, value)
    for number in range(7):
        layers = two_layers(recurrence)[2]
        layers[1][number] = torch.randn(9, 9)
        with pytest.raises(ValueError, match=rf"parameters\[{7 + number}\]: expected shape"):
            at_once(2, layers)
        layers[1][number] = two_layers(recurrence)[2][1][number].double()
        with pytest.raises(ValueError, match=rf"parameters\[{7 + number}\]: expected dtype"):
            at_once(2, layers)
    with pytest.raises(ValueError, match=r"expected .* tensors a layer, got 12 for 2"):
        at_once(2, [layer[:6] for layer in two_layers(recurrence)[2]])


@every_recurrence
def test_opcheck_of_layers(recurrence):
    x, states, layers, _ = two_layers(recurrence)
    parameters = [parameter for layer in layers for parameter in layer]
    scan_layers = torch.ops.brc_pytorch.scan_layers.default
    for lengths in (None, torch.tensor([3, 5])):
        torch.library.opcheck(scan_layers, (recurrence, x, [*states], parameters, lengths))


def test_several_python_threads_at_once():
    tensors = arguments("nbrc", steps=30, batch=20, inputs=30, hidden=50)
    expected = ops.nbrc(*tensors)[0]
    results = [None] * 4

    def work(index):
        for _ in range(5):
            results[index] = ops.nbrc(*tensors)[0]

    workers = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(torch.equal(result, expected) for result in results)


def test_the_kernels_are_called_without_the_interpreter_lock():
    # ctypes.CDLL releases the lock around a call, ctypes.PyDLL would not.
    assert isinstance(interface.kernels, ctypes.CDLL)
    assert not isinstance(interface.kernels, ctypes.PyDLL)


def test_kernels_of_another_version_are_refused(monkeypatch):
    monkeypatch.setattr(interface, "LAYER", struct.Struct(interface.LAYER.format + "q"))
    with pytest.raises(ImportError, match="expected the kernels of this version of brc_pytorch"):
        interface._load()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_process_can_compute():
    script = """
import os, torch
from brc_pytorch import ops
torch.set_num_threads(2)
tensors = [torch.randn(*shape) for shape in ((40, 32, 30), (32, 50), (30, 150), (50, 100))]
expected = ops.nbrc(*tensors)[0]
child = os.fork()
if child == 0:
    os._exit(0 if torch.equal(ops.nbrc(*tensors)[0], expected) else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=600)  # noqa: S603 - our own


@pytest.mark.skipif(sys.platform != "linux", reason="a limit of Linux")
def test_threads_that_cannot_be_had_are_done_without():
    """A team, whose threads wait for each other, has one member fewer."""
    script = """
import resource, torch
from brc_pytorch import ops
tensors = [torch.randn(*shape) for shape in ((300, 1, 100), (1, 256), (100, 768), (512,))]
torch.set_num_threads(1)
expected = ops.brc(*tensors)[0]
torch.set_num_threads(4)
in_use = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
before = resource.getrlimit(resource.RLIMIT_AS)
one_stack = in_use + (12 << 20)
resource.setrlimit(resource.RLIMIT_AS, (one_stack, before[1]))
output = ops.brc(*tensors)[0]
resource.setrlimit(resource.RLIMIT_AS, before)
assert torch.equal(output, expected)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=600)  # noqa: S603 - our own
