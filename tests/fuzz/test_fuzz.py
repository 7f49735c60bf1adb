"""The generator of calls: what it notices, and a minute of it."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from brc_pytorch import ops
from tests.fuzz.__main__ import ROOT, make, run_workers, summary
from tests.fuzz.call import Call
from tests.fuzz.draw import draw

# A worker of which every third call ends the process, and every fourth gives something wrong.
WORKER = """
import os, sys
for number in range(int(sys.argv[1]), int(sys.argv[2])):
    print(number, end=" ", flush=True)
    if number % 3 == 1:
        os._exit(9)
    print("wrong" if number % 4 == 0 else "right", flush=True)
"""


@pytest.fixture
def poisoned():
    torch.use_deterministic_algorithms(mode=True)
    yield
    torch.use_deterministic_algorithms(mode=False)


def test_a_call_can_be_drawn_and_read_again():
    calls = [draw(0, number) for number in range(200)]
    assert calls == [draw(0, number) for number in range(200)]
    assert calls == [Call.read(str(call)) for call in calls]
    assert len({*calls}) == len(calls)
    assert calls != [draw(1, number) for number in range(200)]


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("cell", ["BRC", "nBRC"])
def test_wrong_results_are_noticed(monkeypatch, cell):
    call = Call(cell=cell)
    assert make(call) == "right"
    right = getattr(ops, cell.lower())

    def wrong(*tensors, **options):
        output, last = right(*tensors, **options)
        return output, last + 1e-3 * output[-1].detach()

    monkeypatch.setattr(ops, cell.lower(), wrong)
    assert "tensor 1: off by" in make(call)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lost", ["resets", "reset_state"])
def test_lost_resets_are_noticed(monkeypatch, reverse, lost):
    call = Call(resets="all", reset_state=True, reverse=reverse)
    assert make(call) == "right"
    right = ops.nbrc

    def wrong(*tensors, **options):
        del options["reset_state"]
        options.pop(lost, None)
        return right(*tensors, **options)

    monkeypatch.setattr(ops, "nbrc", wrong)
    assert "off by" in make(call)


class _Overwritten(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor):
        ctx.save_for_backward(tensor)
        return tensor.clone()

    @staticmethod
    def backward(ctx, gradient):
        (saved,) = ctx.saved_tensors
        saved.data.zero_()
        return gradient


@pytest.mark.parametrize("way", ["gradients", "saved in another place"])
def test_overwritten_tensors_are_noticed(monkeypatch, way):
    right = ops.nbrc

    def wrong(input, *tensors, **options):
        return right(_Overwritten.apply(input), *tensors, **options)

    monkeypatch.setattr(ops, "nbrc", wrong)
    assert "was written to" in make(Call(way=way))


def test_a_call_that_should_have_been_refused_is_noticed(monkeypatch):
    call = Call(flaw="h_0 of another batch")
    assert make(call) == "refused"
    monkeypatch.setattr(ops, "nbrc", lambda *_, **__: None)
    assert "was not refused" in make(call)
    monkeypatch.setattr(ops, "nbrc", lambda *_, **__: 1 / 0)
    assert "ZeroDivisionError" in make(call)


def test_what_is_not_finite_must_be_where_the_reference_says(monkeypatch):
    call = Call(values="nan", seed=5)
    assert make(call) == "right"
    right = ops.nbrc
    monkeypatch.setattr(ops, "nbrc", lambda *t, **o: tuple(r.nan_to_num() for r in right(*t, **o)))
    assert "finite where the reference is not" in make(call)
    monkeypatch.setattr(ops, "nbrc", lambda *t, **o: tuple(r + r.sum() for r in right(*t, **o)))
    assert "not finite where the reference is" in make(call)
    assert "off by" in make(replace(call, values="normal"))


def test_a_crash_is_known_by_its_call_and_the_others_are_made():
    found = run_workers([sys.executable, "-c", WORKER], 0, 9)
    assert found.good["right"] == 4
    assert {number: text.split(" (")[0].strip() for number, text in found.bad.items()} == {
        0: "wrong",
        8: "wrong",
        **dict.fromkeys((1, 4, 7), "the process ended with status 9"),
    }


def test_a_worker_that_cannot_start_is_an_error():
    with pytest.raises(RuntimeError, match="no such worker"):
        run_workers([sys.executable, "-c", "raise SystemExit('no such worker')"], 0, 9)


def test_the_page_shows_the_published_figures():
    figures = json.loads((ROOT / "docs" / "fuzz.json").read_text(encoding="utf-8"))
    assert figures["right"] + figures["refused"] + len(figures["failures"]) == figures["calls"]
    assert summary(figures) in (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.skipif(not ops.cpu.instruction_sets(), reason="there are no compiled kernels to try")
def test_a_minute_of_generated_calls():
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--calls", "2500"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
