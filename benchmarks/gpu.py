"""Measures the networks on a GPU in one run: ``python benchmarks/gpu.py``; torch is all it needs.

Each case first compares our networks with the reference in float64, and only then times them and
torch's own (cuDNN), each as it is called and as a CUDA graph, taking turns, by CUDA events; the
median counts. Memory is the peak of a step over its start. The results go to
``docs/benchmarks-gpu.json``; ``report.py`` makes their tables.

FlashRNN's fused GRU takes part where ``flashrnn`` is installed and builds.
"""

import argparse
import importlib
import importlib.util
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # the repository is enough: no installation

import contenders
import run
import torch
from torch import nn

from brc_pytorch import ops

RESULTS = Path(__file__).parents[1] / "docs" / "benchmarks-gpu.json"
KINDS = ("nBRC", "BRC")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Case:
    """One row of the comparison: 2 layers, one input feature."""

    name: str
    steps: int
    batch: int
    hidden: int
    dtype: str = "float32"
    rounds: int = 21


CASES = (
    Case("T300 B100 H100", 300, 100, 100),
    Case("T600 B100 H100", 600, 100, 100),
    Case("T1000 B64 H256", 1000, 64, 256),
    Case("T1000 B64 H256 bfloat16", 1000, 64, 256, "bfloat16"),
    Case("T100 B32 H512", 100, 32, 512),
    Case("T100000 B4 H64", 100_000, 4, 64, rounds=3),
)


class FlashGRU(nn.Module):
    """FlashRNN's fused GRU behind the interface of the other networks; one head."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.function = importlib.import_module("flashrnn").flashrnn
        sizes = [1, *[hidden] * (contenders.LAYERS - 1)]
        self.projections = nn.ModuleList(nn.Linear(size, 3 * hidden) for size in sizes)
        self.recurrent = nn.ParameterList(
            torch.randn(3, 1, hidden, hidden) * hidden**-0.5 for _ in sizes
        )
        self.biases = nn.ParameterList(torch.zeros(4, 1, hidden) for _ in sizes)

    def forward(self, input: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map (T, B, 1) to the output sequence (T, B, H) and the last layer's last states."""
        output = input.transpose(0, 1)
        for projection, recurrent, bias in zip(
            self.projections, self.recurrent, self.biases, strict=True
        ):
            gates = projection(output).unflatten(-1, (3, 1, -1))
            dtype = str(input.dtype).removeprefix("torch.")
            states, _ = self.function(gates, recurrent, bias, function="gru", dtype=dtype)
            output = states[0].flatten(2)
        return output.transpose(0, 1), output[:, -1].unsqueeze(0)


def check_agreement(networks: dict[str, nn.Module], case: Case) -> None:
    """Refuse to time networks that are further from float64 than the reference in their own type.

    A state near the edge between two stable ones magnifies rounding, the reference's as well.
    """
    dtype = DTYPES[case.dtype]
    input = torch.randn(min(case.steps, 50), case.batch, 1, device="cuda", dtype=dtype)
    for kind in KINDS:
        network = networks[kind]
        got, _ = network(input)
        with ops.backend("reference"):
            rounded, _ = network(input)
            exact, _ = network.double()(input.double())
        network.to(dtype)
        error, allowed = (float((each.detach() - exact).norm()) for each in (got, rounded))
        if not error <= 2 * allowed:
            raise RuntimeError(f"{kind} at {case.name}: error {error}, the reference's {allowed}")


def graph_of(work: Callable[[], None]) -> Callable[[], None]:
    """The same work as one CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def seconds_of(work: Callable[[], None]) -> float:
    """GPU time of one call, the host's part included where the GPU waits for it."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    work()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3


def peak_memory(work: Callable[[], None]) -> float:
    """MiB at the peak of one call over its start."""
    work()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    torch.cuda.synchronize()
    return float(torch.cuda.max_memory_allocated() - before) / 2**20


def memory_or_reason(work: Callable[[], None]) -> float | str:
    """MiB at the peak of one call, or why a peer cannot make it."""
    try:
        return peak_memory(work)
    except RuntimeError as error:
        return str(error).split(". ", maxsplit=1)[0]


def floors(case: Case, bandwidth: float) -> dict[str, float]:
    """Seconds that a forward pass takes at least.

    BRC: a drive of three values read and a state written for each step and unit, at the bandwidth
    of a copy. nBRC: the products of one row, 2 H^2, on the 128 lanes of one multiprocessor.
    """
    layer_steps = contenders.LAYERS * case.steps
    bytes_a_step = 4 * DTYPES[case.dtype].itemsize * case.batch * case.hidden
    clock = torch.cuda.get_device_properties(0).clock_rate * 1e3
    return {
        "BRC": layer_steps * bytes_a_step / bandwidth,
        "nBRC": layer_steps * 2 * case.hidden**2 / (128 * clock),
    }


def copy_bandwidth() -> float:
    """Bytes a second that a large copy reads and writes."""
    source = torch.empty(2**28, device="cuda")
    target = torch.empty_like(source)
    times = [seconds_of(lambda: target.copy_(source)) for _ in range(10)]
    return 2 * source.nbytes / statistics.median(times)


def networks_of(case: Case) -> dict[str, nn.Module]:
    """Ours and the peers, on the GPU."""
    torch.manual_seed(0)
    ours = contenders.our_networks(1, case.hidden)
    networks = {kind: ours[kind] for kind in KINDS}
    networks |= contenders.torch_networks(1, case.hidden)
    if importlib.util.find_spec("flashrnn") is not None:
        networks["FlashRNN GRU"] = FlashGRU(case.hidden)
    return {name: net.to("cuda", DTYPES[case.dtype]) for name, net in networks.items()}


def measure(case: Case, bandwidth: float) -> dict[str, Any]:
    """Seconds and peak memory of every network, and of our forward passes their floors."""
    networks = networks_of(case)
    check_agreement(networks, case)
    dtype = DTYPES[case.dtype]
    input = torch.randn(case.steps, case.batch, 1, device="cuda", dtype=dtype)
    left_out = {} if "FlashRNN GRU" in networks else {"FlashRNN GRU": "flashrnn is not installed"}

    def step_of(network: nn.Module, loss: str | None = "last") -> Callable[[], None]:
        return lambda: run.step(network, input, loss)

    found = {name: memory_or_reason(step_of(network)) for name, network in networks.items()}
    memory = {name: mib for name, mib in found.items() if not isinstance(mib, str)}
    left_out |= {name: reason for name, reason in found.items() if isinstance(reason, str)}
    works = {name: step_of(networks[name]) for name in memory}
    works |= {f"{name}, CUDA graph": graph_of(work) for name, work in works.items()}
    for kind in KINDS:
        works[f"{kind}, forward"] = graph_of(step_of(networks[kind], loss=None))
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(-3, case.rounds):  # the first turns warm up
        for name, work in works.items():
            took = seconds_of(work)
            if turn >= 0:
                seconds[name].append(took)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, median in medians.items():
        mib = f"{memory[name]:9.1f} MiB" if name in memory else ""
        sys.stdout.write(f"{case.name:26s}{name:20s}{median * 1e3:11.3f} ms  {mib}\n")
    for name, reason in left_out.items():
        sys.stdout.write(f"{case.name:26s}{name:20s}left out: {reason}\n")
    sys.stdout.flush()
    return {
        **asdict(case),
        "seconds": medians,
        "mib": memory,
        "left_out": left_out,
        "forward_floors": floors(case, bandwidth),
    }


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("benchmarks/gpu.py: torch finds no GPU here; the CPU's benchmark is run.py")
    if ops.backend_for(torch.device("cuda")) != "cuda":
        sys.exit("benchmarks/gpu.py: Triton is not installed, so there is nothing to measure")
    bandwidth = copy_bandwidth()
    properties = torch.cuda.get_device_properties(0)
    machine = run.machine() | {
        "gpu": properties.name,
        "gpu_memory_gib": properties.total_memory / 2**30,
        "copy_gb_a_second": bandwidth / 1e9,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "triton": importlib.import_module("triton").__version__,
    }
    measured: list[dict[str, Any]] = []
    for case in CASES:
        if arguments.only in case.name:
            measured.append(measure(case, bandwidth))
            if not arguments.only:  # what was measured stays, whatever becomes of the next case
                write({"machine": machine, "cases": measured})


def write(results: dict[str, Any]) -> None:
    """Replace the file of results at once."""
    unfinished = RESULTS.with_suffix(".tmp")
    unfinished.write_text(json.dumps(results, indent=1) + "\n")
    unfinished.replace(RESULTS)


if __name__ == "__main__":
    main()
