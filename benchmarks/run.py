"""Measures everything in one run: ``python benchmarks/run.py --predecessor FOLDER``.

Each case checks that all implementations of a recurrence agree, and only then times them, taking
turns in one process; the median counts. Peers run with denormal numbers flushed to zero, ours as
users call them. Memory is the peak of a training step over its start, each in a process of its own.
The results go to ``docs/benchmarks.json``; ``report.py`` draws them.
"""

import argparse
import importlib.util
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import contenders
import numpy as np
import torch
from cases import CASES, Case
from torch import nn

from brc_pytorch.ops import cpu

SECONDS_AT_REST = 0.02
RESULTS = Path(__file__).parents[1] / "docs" / "benchmarks.json"
OURS = ("nBRC", "BRC", "GRU", "LSTM")
# What they are compared with before they are timed, where it goes by another name.
EQUALS = {"GRU": "nn.GRU", "LSTM": "nn.LSTM"}


def step(network: nn.Module, input: torch.Tensor, loss: str | None) -> None:
    """One training step, or where there is no loss one forward pass."""
    if loss is None:
        with torch.no_grad():
            network(input)
        return
    network.zero_grad()
    output, last = network(input)
    last = last[0] if isinstance(last, tuple) else last
    (output if loss == "all" else last[-1]).square().mean().backward()


def check_agreement(networks: dict[str, nn.Module], case: Case, *, elsewhere: bool) -> None:
    """Refuse to time implementations of one recurrence that differ."""
    input = torch.randn(min(case.steps, 20), case.batch, case.inputs)
    forward = replace(case, loss=None)
    with torch.no_grad():
        outputs = {name: network(input)[0] for name, network in networks.items()}
    if elsewhere:
        outputs |= {
            name: torch.from_numpy(np.array(turn()))
            for name, turn in turns_elsewhere(networks, forward, input).items()
        }
    for name, output in outputs.items():
        network = name.split(",")[0]
        same = outputs[EQUALS.get(network, network)]
        torch.testing.assert_close(output, same, rtol=1e-3, atol=1e-4, msg=lambda m, n=name: n + m)


def turns_elsewhere(
    networks: dict[str, nn.Module], case: Case, input: torch.Tensor
) -> dict[str, Callable[[], Any]]:
    """The turns of the same networks in JAX and, without gradients, in ONNX Runtime."""
    found = {}
    plain = {
        name: network
        for name, network in networks.items()
        if "," not in name and name not in EQUALS
    }
    if importlib.util.find_spec("jax"):
        import jax_contenders  # noqa: PLC0415 - it cannot be had everywhere

        turns = jax_contenders.contenders(plain, case, input)
        found |= {f"{name}, JAX": turn for name, turn in turns.items()}
    if case.loss is None:
        import onnx_contenders  # noqa: PLC0415 - a training step does without it

        torchs = {name: network for name, network in plain.items() if name not in OURS}
        turns = onnx_contenders.contenders(torchs, input, torch.get_num_threads())
        found |= {f"{name}, ONNX Runtime": turn for name, turn in turns.items()}
    return found


def plain_networks(inputs: int, hidden: int) -> dict[str, nn.Module]:
    """Torch's networks, the same in our kernels, the bistable ones and these by the reference."""
    theirs = contenders.torch_networks(inputs, hidden)
    ours = contenders.torch_networks_in_our_kernels(theirs)
    return theirs | ours | contenders.our_networks(inputs, hidden)


def measure(case: Case, predecessor: Path | None, *, ours_alone: bool = False) -> dict[str, Any]:
    """Seconds of every network, by taking turns; or of ours and torch's alone."""
    torch.manual_seed(0)
    networks = plain_networks(case.inputs, case.hidden)
    if ours_alone:
        networks = {name: networks[name] for name in ("nn.GRU", "nn.LSTM", *OURS)}
    elif case.slow_rounds:
        ours = {name: networks[name] for name in ("nBRC", "BRC")}
        networks |= contenders.torchrecurrent_networks(ours)
        if predecessor:
            networks |= contenders.predecessors(predecessor, ours)
    check_agreement(networks, case, elsewhere=not ours_alone)
    input = torch.randn(case.steps, case.batch, case.inputs)
    turns: dict[str, Callable[[], Any]] = {
        name: lambda network=network: step(network, input, case.loss)
        for name, network in networks.items()
        if case.slow_rounds or "," not in name
    }
    looped = {name for name in turns if "," in name}
    if not ours_alone:
        turns |= turns_elsewhere(networks, case, input)
    medians = timed(turns, looped, case)
    for name, median in medians.items():
        ratio = medians["nn.GRU"] / median
        sys.stdout.write(f"{case.name:32s}{name:30s}{median * 1e3:12.3f} ms  x{ratio:.2f}\n")
    sys.stdout.flush()
    return {**asdict(case), "seconds": medians}


def rest() -> None:
    """Wait until no thread of this process looks for work: it would do so on the next one's time.

    OpenMP's threads stop after some milliseconds, ONNX Runtime's later.
    """
    while True:
        before = time.process_time()
        time.sleep(SECONDS_AT_REST)
        if time.process_time() - before < 0.1 * SECONDS_AT_REST:
            return


def medians(
    turns: Mapping[str, Callable[[], object]], rounds: int, warm: Mapping[str, int] | None = None
) -> dict[str, float]:
    """The median seconds of each, by taking turns; those that are warm have rounds of their own."""
    warm = warm or {}
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for turn in range(-1, rounds):  # the first turn warms up
        for name, call in turns.items():
            if name in warm and not 0 <= turn < warm[name]:
                continue
            rest()
            start = time.perf_counter()
            call()
            if turn >= 0:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def timed(turns: dict[str, Callable[[], Any]], looped: set[str], case: Case) -> dict[str, float]:
    """The median seconds of each turn's calls; those that are looped have fewer turns."""
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for turn in range(-1, case.rounds):  # the first turn warms up
        for name, call in turns.items():
            if name in looped and turn >= case.slow_rounds:
                continue
            torch.set_flush_denormal(name not in OURS)
            rest()
            start = time.perf_counter()
            for _ in range(case.calls):
                call()
            if turn >= 0:
                seconds[name].append((time.perf_counter() - start) / case.calls)
    torch.set_flush_denormal(True)
    return {name: statistics.median(values) for name, values in seconds.items()}


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
    """The best that a library reaches here: floating-point operations and bytes a second.

    Products are torch's and numpy's, of several sizes; bytes are those of a copy.
    """
    rate = bandwidth = 0.0
    for size in (256, 512, 1024, 2048):
        square = torch.randn(size, size)
        result = torch.empty_like(square)
        arrays = square.numpy(), result.numpy()
        products: tuple[Callable[[], object], ...] = (
            lambda a=square, to=result: torch.mm(a, a, out=to),
            lambda a=arrays[0], to=arrays[1]: np.matmul(a, a, out=to),
        )
        for product in products:
            rate = max(rate, 2 * size**3 / _shortest(product, rounds=20))
    long = torch.empty(1 << 26)
    half = long.numel() // 2
    seconds = _shortest(lambda: long[:half].copy_(long[half:]), rounds=20)
    bandwidth = 2 * long.element_size() * half / seconds
    return {"operations": rate, "bytes": bandwidth}


def _shortest(job: Callable[[], object], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        job()
        times.append(time.perf_counter() - start)
    return min(times)


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
                step(networks[name], input, "last")
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


def peak_memories() -> list[dict[str, Any]]:
    """The same of every network and size that the tables show."""
    rows = []
    for steps, batch, hidden in ((300, 100, 100), (1200, 100, 100), (10**5, 1, 16), (10**6, 1, 16)):
        names = [*OURS, "nn.GRU", "nn.LSTM"] if steps < 10**5 else ["nBRC", "BRC"]
        peaks = {name: peak_memory(name, steps, batch, hidden) for name in names}
        sys.stdout.write(f"peak MiB, T{steps} B{batch} H{hidden}: {peaks}\n")
        rows.append({"steps": steps, "batch": batch, "hidden": hidden, "mib": peaks})
    return rows


def print_peak_memory(name: str, steps: int, batch: int, hidden: int) -> None:
    """The work of that process; Linux alone tells."""
    networks = plain_networks(1, hidden)
    step(networks[name], torch.randn(3, batch, 1), "last")  # loads what is loaded once
    input = torch.randn(steps, batch, 1)
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten

    def status(field: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(field)).split()[1])

    start = status("VmRSS")
    step(networks[name], input, "last")
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
    parser.add_argument(
        "--only", default="", help="cases whose name contains this, and nothing written"
    )
    parser.add_argument("--memory", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    # Before torch starts its threads: each takes over what the one that starts it has set.
    torch.set_flush_denormal(True)
    if arguments.memory:
        name, *sizes = arguments.memory
        print_peak_memory(name, *map(int, sizes))
        return
    cases = [case for case in CASES if arguments.only in case.name]
    results: dict[str, Any] = {"machine": machine(), "cases": [], "avx2": [], "memory": []}
    rates = [hardware()]
    results["cases"] = [measure(case, arguments.predecessor) for case in cases]
    if cpu.instruction_sets()[0] == "avx512":
        with cpu.instruction_set("avx2"):
            results["avx2"] = [measure(case, None, ours_alone=True) for case in cases]
    rates.append(hardware())
    best = {key: max(rate[key] for rate in rates) for key in rates[0]}
    results["hardware"] = best | {"floor": floor(best["operations"], best["bytes"])}
    if arguments.only:
        return
    results["long"] = seconds_of_long_sequences()
    if platform.system() == "Linux":
        results["memory"] = peak_memories()
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
