"""Times agents: ``python benchmarks/agents.py``.

How they learn from rollouts with resets: one training step, the output's mean square and its
gradients, of networks of one layer, on rows of steps of which 3 % begin an episode. TorchRL's
``GRUModule``, with each of its backends that runs on a CPU, is first compared with our GRU of the
same weights in outputs and gradients. And how they act: single steps of one row, of cells and of
networks, without gradients and with autograd looking on.

All take turns in one process, and the median counts. The results go to
``docs/benchmarks-agents.json``; ``report.py`` writes the tables of ``docs/agents-and-streams.md``.
"""

import argparse
import json
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from run import machine, medians
from tensordict import TensorDict
from torch import Tensor, nn
from torchrl.modules import GRUModule, set_recurrent_mode

import brc_pytorch
from brc_pytorch.interop.torchrl import RecurrentModule

RESULTS = Path(__file__).parents[1] / "docs" / "benchmarks-agents.json"
OURS = {"nBRC": brc_pytorch.NBRC, "BRC": brc_pytorch.BRC, "GRU": brc_pytorch.GRU}
STEPS, ROWS, INPUTS, HIDDEN = 128, 128, 64, 256
RATE = 0.03
STEPPED = {
    "nBRC cell": brc_pytorch.NeuromodulatedBistableRecurrentCell,
    "BRC cell": brc_pytorch.BistableRecurrentCell,
    "nn.GRUCell": nn.GRUCell,
    "nBRC": brc_pytorch.NBRC,
    "BRC": brc_pytorch.BRC,
    "nn.GRU": nn.GRU,
}
STEP_INPUTS, STEP_HIDDEN = 1, 100  # as in the other benchmarks of a single step
STEP_ROUNDS, STEP_CALLS = 25, 200
KEYS = {"in_key": "x", "out_key": "y"}
TOLERANCE = 1e-4  # of float32 sums over all rows and steps


def module_step(module: nn.Module, rollout: TensorDict) -> Tensor:
    """Learn from a rollout, as a policy does; return the output."""
    module.zero_grad()
    with set_recurrent_mode(True):
        output = module(rollout.copy())["y"]
    output.square().mean().backward()
    return output


def network_step(network: nn.Module, rollout: TensorDict, *, resets: bool) -> Tensor:
    """Learn from the same rollout without TorchRL, with its resets or without."""
    network.zero_grad()
    begins = {"resets": rollout["is_init"].squeeze(-1)} if resets else {}
    output = network(rollout["x"], **begins)[0]
    output.square().mean().backward()
    return output


def check_agreement(modules: dict[str, nn.Module], rollout: TensorDict) -> None:
    """Refuse to time modules of the same weights that differ."""
    found = {}
    for name, module in modules.items():
        output = module_step(module, rollout)
        found[name] = [output, *(parameter.grad for parameter in module.parameters())]
    first = next(iter(found.values()))
    for name, tensors in found.items():
        torch.testing.assert_close(
            tensors, first, rtol=1e-3, atol=TOLERANCE, msg=lambda text, name=name: name + text
        )


def make_rollout_turns() -> dict[str, Callable[[], Tensor]]:
    """What is timed, once it agrees."""
    begins = torch.rand(ROWS, STEPS, 1) < RATE
    entries = {"x": torch.randn(ROWS, STEPS, INPUTS), "is_init": begins}
    rollout = TensorDict(entries, [ROWS, STEPS])
    ours = {name: kind(INPUTS, HIDDEN, batch_first=True) for name, kind in OURS.items()}
    modules = {
        f"{name}, RecurrentModule": RecurrentModule(network, **KEYS)
        for name, network in ours.items()
    }
    theirs = {}
    for backend in ("pad", "scan"):
        module = GRUModule(INPUTS, HIDDEN, recurrent_backend=backend, **KEYS)
        module.gru.load_state_dict(ours["GRU"].state_dict())
        theirs[f"GRUModule, {backend}"] = module
    check_agreement({"GRU": modules["GRU, RecurrentModule"]} | theirs, rollout)
    turns: dict[str, Callable[[], Tensor]] = {
        name: lambda module=module: module_step(module, rollout)
        for name, module in (modules | theirs).items()
    }
    for name, network in ours.items():
        for suffix, resets in ((", resets", True), (", no resets", False)):
            turns[name + suffix] = lambda network=network, resets=resets: network_step(
                network, rollout, resets=resets
            )
    gru = nn.GRU(INPUTS, HIDDEN, batch_first=True)
    turns["nn.GRU, no resets"] = lambda: network_step(gru, rollout, resets=False)
    return turns


def make_single_turns() -> dict[str, Callable[[], object]]:
    """Single steps of one row, from a state that is given: a name of STEPPED each."""
    turns: dict[str, Callable[[], object]] = {}
    for name, kind in STEPPED.items():
        network = kind(STEP_INPUTS, STEP_HIDDEN)
        has_time = (1,) * ("ell" not in name)
        x, h = torch.randn(*has_time, 1, STEP_INPUTS), torch.randn(*has_time, 1, STEP_HIDDEN)

        def call(network: nn.Module = network, x: Tensor = x, h: Tensor = h) -> None:
            for _ in range(STEP_CALLS):
                network(x, h)

        turns[name] = call
    return turns


def measure_single_steps() -> dict[str, float]:
    """The seconds of a step, of each name of STEPPED, without gradients and with autograd."""
    turns = make_single_turns()
    found = {}
    for recording in (False, True):
        with torch.set_grad_enabled(recording):
            of_calls = medians(turns, STEP_ROUNDS)
        suffix = ", recorded" if recording else ""
        found |= {name + suffix: seconds / STEP_CALLS for name, seconds in of_calls.items()}
    return found


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2, help="default: 2")
    parser.add_argument("--rounds", type=int, default=15, help="default: 15")
    parser.add_argument("--slow-rounds", type=int, default=3, help="of GRUModule; default: 3")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    single: dict[str, Any] = {"inputs": STEP_INPUTS, "hidden": STEP_HIDDEN}
    single["seconds"] = measure_single_steps()
    rollout: dict[str, Any] = {
        "steps": STEPS,
        "rows": ROWS,
        "inputs": INPUTS,
        "hidden": HIDDEN,
        "rate": RATE,
    }
    turns = make_rollout_turns()
    # The comparison has warmed these up.
    slow = {name: arguments.slow_rounds for name in turns if name.startswith("GRUModule")}
    rollout["seconds"] = medians(turns, arguments.rounds, slow)
    versions = {name: version(name) for name in ("torchrl", "tensordict")}
    results = {"machine": machine() | versions, "rollout": rollout, "single": single}
    for part in (rollout, single):
        for name, seconds in part["seconds"].items():
            sys.stdout.write(f"{name:26s}{seconds * 1e3:12.4f} ms\n")
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
