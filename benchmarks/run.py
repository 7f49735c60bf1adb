"""Measures everything in one run: ``python benchmarks/run.py --predecessor FOLDER``.

Each case checks that all implementations of a recurrence agree, and only then times them, taking
turns in one process; the median counts. Memory is the peak of a training step over its start, each
in a process of its own. The results go to ``docs/benchmarks.json``; ``report.py`` draws them.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import contenders
import torch
from torch import nn

from brc_pytorch.ops import cpu

# OpenMP's threads look for work for some milliseconds after a call, on the next network's time.
PAUSE = 0.02
RESULTS = Path(__file__).parents[1] / "docs" / "benchmarks.json"


@dataclass(frozen=True)
class Case:
    """One row of the comparison: 2 layers, float32."""

    name: str
    steps: int
    batch: int
    inputs: int
    hidden: int
    training: bool
    rounds: int
    slow_rounds: int  # of the implementations that loop in Python; 0 leaves them out
    calls: int = 1  # in one turn


CASES = (
    Case("T300 B100 H100 training", 300, 100, 1, 100, training=True, rounds=9, slow_rounds=3),
    Case("T300 B100 H100 no_grad", 300, 100, 1, 100, training=False, rounds=9, slow_rounds=3),
    Case("T300 B100 I100 H100 training", 300, 100, 100, 100, True, rounds=7, slow_rounds=3),
    Case("T600 B100 H100 training", 600, 100, 1, 100, training=True, rounds=7, slow_rounds=3),
    Case("T100 B32 H512 training", 100, 32, 1, 512, training=True, rounds=7, slow_rounds=3),
    Case("T10000 B8 H64 training", 10000, 8, 1, 64, training=True, rounds=3, slow_rounds=0),
    Case("T1000 B1 H128 no_grad", 1000, 1, 1, 128, False, rounds=15, slow_rounds=5, calls=5),
    Case("T1 B1 H100 no_grad", 1, 1, 1, 100, training=False, rounds=15, slow_rounds=5, calls=200),
)


def step(network: nn.Module, input: torch.Tensor, training: bool) -> None:
    """One training step on the last state, or one forward pass."""
    if not training:
        with torch.no_grad():
            network(input)
        return
    network.zero_grad()
    _, last = network(input)
    last = last[0] if isinstance(last, tuple) else last
    last[-1].square().mean().backward()


def check_agreement(networks: dict[str, nn.Module], case: Case) -> None:
    """Refuse to time implementations of one recurrence that differ."""
    input = torch.randn(min(case.steps, 20), case.batch, case.inputs)
    for kind in ("nBRC", "BRC"):
        expected, _ = networks[kind](input)
        for name, network in networks.items():
            if name.startswith(f"{kind},"):
                torch.testing.assert_close(network(input)[0], expected, rtol=1e-3, atol=1e-4)


def measure(case: Case, predecessor: Path | None) -> dict[str, Any]:
    """Seconds of every network, by taking turns."""
    torch.manual_seed(0)
    ours = contenders.our_networks(case.inputs, case.hidden)
    networks = contenders.torch_networks(case.inputs, case.hidden) | ours
    if case.slow_rounds:
        networks |= contenders.torchrecurrent_networks(ours)
        if predecessor:
            networks |= contenders.predecessors(predecessor, ours)
        check_agreement(networks, case)
    else:
        check_agreement(networks, case)
        networks = {name: net for name, net in networks.items() if "," not in name}
    input = torch.randn(case.steps, case.batch, case.inputs)
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    for turn in range(-1, case.rounds):  # the first turn warms up
        for name, network in networks.items():
            if "," in name and turn >= case.slow_rounds:
                continue
            time.sleep(PAUSE)
            start = time.perf_counter()
            for _ in range(case.calls):
                step(network, input, case.training)
            if turn >= 0:
                seconds[name].append((time.perf_counter() - start) / case.calls)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, median in medians.items():
        ratio = medians["nn.GRU"] / median
        sys.stdout.write(f"{case.name:32s}{name:30s}{median * 1e3:12.3f} ms  x{ratio:.2f}\n")
    sys.stdout.flush()
    return {**asdict(case), "seconds": medians}


def floor(rate: float, bandwidth: float) -> dict[str, float]:
    """Seconds of the first case's products and memory traffic alone, at the rates given.

    The nBRC keeps a half of its first layer's gates, the BRC none.
    """
    case = CASES[0]
    rows, units = case.steps * case.batch, case.hidden
    seconds = {}
    for name, of_state in (("nBRC", 2 * units), ("BRC", 0)):
        products = numbers = 0
        for inputs, passes in ((case.inputs, 2), (units, 3)):  # the first input needs no gradient
            products += units * (passes * 3 * inputs + 3 * of_state)
            kept = 0 if of_state == 0 and inputs == 1 else 1 if inputs == 1 else 2
            # Outputs, kept gates and the input's gradient are written and read; inputs read twice.
            numbers += 2 * (1 + kept) * units + 2 * inputs + (passes - 2) * 2 * inputs
        seconds[name] = rows * (2 * products / rate + 4 * numbers / bandwidth)
    return seconds


def hardware() -> dict[str, float]:
    """What torch reaches here: floating-point operations and bytes a second."""
    square, long = torch.randn(1024, 1024), torch.empty(1 << 26)
    result = torch.empty_like(square)
    jobs = {
        "operations": (2 * 1024**3, lambda: torch.mm(square, square, out=result)),
        "bytes": (2 * 4 * long.numel() // 2, lambda: long[: 1 << 25].copy_(long[1 << 25 :])),
    }
    best = {}
    for name, (amount, job) in jobs.items():
        times = []
        for _ in range(20):
            start = time.perf_counter()
            job()
            times.append(time.perf_counter() - start)
        best[name] = amount / min(times)
    return best


def seconds_of_long_sequences() -> list[dict[str, Any]]:
    """A training step of one row and 16 units: does its time grow with its length alone?"""
    rows = []
    networks = contenders.our_networks(1, 16)
    for steps in (10**4, 10**5, 10**6):
        input, seconds = torch.randn(steps, 1, 1), {}
        for name in ("nBRC", "BRC"):
            times = []
            for _ in range(3):
                start = time.perf_counter()
                step(networks[name], input, training=True)
                times.append(time.perf_counter() - start)
            seconds[name] = statistics.median(times)
        sys.stdout.write(f"T{steps} B1 H16 training: {seconds}\n")
        rows.append({"steps": steps, "seconds": seconds})
    return rows


def peak_memory(name: str, steps: int, batch: int, hidden: int) -> float:
    """MiB that one training step takes at its peak over its start, in a fresh process."""
    command = [sys.executable, __file__, "--memory", name, str(steps), str(batch), str(hidden)]
    result = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
    return float(result.stdout)


def print_peak_memory(name: str, steps: int, batch: int, hidden: int) -> None:
    """The work of that process; Linux alone tells."""
    networks = contenders.our_networks(1, hidden) | contenders.torch_networks(1, hidden)
    step(networks[name], torch.randn(3, batch, 1), training=True)  # loads what is loaded once
    input = torch.randn(steps, batch, 1)
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten

    def status(field: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(field)).split()[1])

    start = status("VmRSS")
    step(networks[name], input, training=True)
    sys.stdout.write(str((status("VmHWM") - start) / 1024))


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    model = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        model = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), model)
    return {
        "processor": model,
        "instruction_sets": cpu.instruction_sets(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--predecessor", type=Path, help="where brc-pytorch 0.1.3 is installed")
    parser.add_argument("--threads", type=int, default=2, help="default: 2")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--memory", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.memory:
        name, *sizes = arguments.memory
        print_peak_memory(name, *map(int, sizes))
        return
    cases = [case for case in CASES if arguments.only in case.name]
    results: dict[str, Any] = {"machine": machine(), "cases": [], "avx2": [], "memory": []}
    rates = hardware()
    results["hardware"] = rates | {"floor": floor(rates["operations"], rates["bytes"])}
    results["cases"] = [measure(case, arguments.predecessor) for case in cases]
    if "avx2" in cpu.instruction_sets():
        with cpu.instruction_set("avx2"):
            results["avx2"] = [
                measure(Case(**{**asdict(case), "slow_rounds": 0}), None) for case in cases
            ]
    results["long"] = seconds_of_long_sequences()
    if platform.system() == "Linux":
        sizes = [(300, 100, 100), (1200, 100, 100), (10**5, 1, 16), (10**6, 1, 16)]
        for steps, batch, hidden in sizes:
            names = ["nBRC", "BRC"] + (["nn.GRU"] if steps < 10**5 else [])
            peaks = {name: peak_memory(name, steps, batch, hidden) for name in names}
            sys.stdout.write(f"peak MiB, T{steps} B{batch} H{hidden}: {peaks}\n")
            results["memory"].append(
                {"steps": steps, "batch": batch, "hidden": hidden, "mib": peaks}
            )
    if not arguments.only:
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
