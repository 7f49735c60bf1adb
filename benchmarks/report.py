"""Draws ``docs/benchmarks.json``: the picture, and the tables of its page and of the README.

Where ``gpu.py`` has written ``docs/benchmarks-gpu.json`` it fills in the tables of ``docs/gpu.md``,
and from what ``agents.py`` and ``iterations.py`` have written those of
``docs/agents-and-streams.md`` and ``docs/results/README.md``.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt

DOCS = Path(__file__).parents[1] / "docs"
KINDS = ("nBRC", "BRC")
# Another's time over ours. The best GRU or LSTM's that there is, over nBRC and BRC;
PEER_TARGETS = {
    "T300 B100 H100 training": (4, 7),
    "T300 B100 H100 no_grad": (3, 6.5),
    "T100 B32 H512 training": (2.2, 3.6),
    "T10000 B8 H64 training": (7, 10),
    "T1000 B1 H128 no_grad": (2.5, 8),
}
# torch's over the same network in our kernels, GRU and LSTM, and never less than this;
ENGINE_TARGETS = {
    "T300 B100 H100 training": (2.8, 2),
    "T10000 B8 H64 training": (20, 4),
    "T1000 B1 H128 no_grad": (5, 2),
}
ENGINE_AT_LEAST = 1.2
# nn.GRU's over nBRC and BRC on a processor with AVX-512.
TARGETS = {
    "T300 B100 H100 training": (5, 9),
    "T300 B100 H100 no_grad": (5, 8),
    "T600 B100 H100 training": (5, 9),
    "T100 B32 H512 training": (3, 6),
    "T10000 B8 H64 training": (35, 50),
    "T1000 B1 H128 no_grad": (12, 22),
    "T1 B1 H100 no_grad": (1, 1),
}
GPU_TARGETS = {  # the same for a training step on a GPU
    "T300 B100 H100": (2, 20),
    "T600 B100 H100": (2, 20),
    "T1000 B64 H256": (1.5, 20),
    "T1000 B64 H256 bfloat16": (1.5, None),
    "T100 B32 H512": (1, 8),
    "T100000 B4 H64": (None, 30),
}
AGENT_TARGETS = {"nBRC": 40, "BRC": 80}  # TorchRL's GRUModule, pad, over ours, on rollouts
RESETS_TARGET = 1.05  # with resets over without, at most
STEP_TARGETS = {"nBRC": "nn.GRU", "BRC": "nn.GRU", "BRC cell": "nn.GRUCell"}  # slower than ours
STEP_PEERS = STEP_TARGETS | {"nBRC cell": "nn.GRUCell"}
MARKS = ("<!-- measured -->\n", "<!-- end -->\n")
COLOURS = {
    "nn.GRU": "#9aa0a6",
    "nn.LSTM": "#c6cacf",
    "GRU": "#5b8c5a",
    "LSTM": "#a3c4a2",
    "nBRC": "#1b6ca8",
    "BRC": "#d1495b",
}


def ratio(case: dict[str, Any], name: str, peer: str = "nn.GRU") -> float:
    """A peer's time over that of a network."""
    return float(case["seconds"][peer] / case["seconds"][name])


def best_peer(case: dict[str, Any]) -> str:
    """The fastest GRU or LSTM, whoever made it."""
    peers = {name: time for name, time in case["seconds"].items() if name.startswith("nn.")}
    return min(peers, key=lambda name: peers[name])


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table, and the empty line after it."""
    lines = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(line)} |" for line in lines] + [""]


@dataclass(frozen=True)
class Comparison:
    """A table of one network's time over another's.

    Attributes:
        title: What stands over it.
        kinds: Whose time it is divided by, a column each.
        peer: Whose time it is, of a case and a kind.
        whom: What the sentence about missed targets calls these.
        targets: For a case the least that is asked for, a number a kind.
        at_least: The same where a case has no targets of its own.
        names_peer: Whether a last column says whose time it is.
    """

    title: str
    kinds: tuple[str, ...]
    peer: Callable[[dict[str, Any], str], str]
    whom: str = ""
    targets: dict[str, tuple[float, float]] = field(default_factory=dict)
    at_least: float | None = None
    names_peer: bool = False

    def targets_of(self, case: dict[str, Any]) -> tuple[float | None, ...]:
        """One a kind."""
        targets = self.targets.get(case["name"], (self.at_least, self.at_least))
        return (*targets, *[None] * (len(self.kinds) - len(targets)))

    def lines(self, cases: Sequence[dict[str, Any]]) -> list[str]:
        """The table, of the cases in which all of these were measured."""
        cases = [case for case in cases if set(self.kinds) <= case["seconds"].keys()]
        has_targets = [bool(self.targets) and place < 2 for place in range(len(self.kinds))]  # noqa: PLR2004 - as many targets
        header, rows = ["case"], []
        for kind, has_target in zip(self.kinds, has_targets, strict=True):
            header += [kind, "target"] if has_target else [kind]
        for case in cases:
            row = [case["name"]]
            of_kinds = zip(self.kinds, has_targets, self.targets_of(case), strict=True)
            for kind, has_target, target in of_kinds:
                row.append(f"{ratio(case, kind, self.peer(case, kind)):.2f}")
                if has_target:
                    row.append("" if target is None else str(target))
            rows.append([*row, self.peer(case, "")] if self.names_peer else row)
        header += ["best peer"] if self.names_peer else []
        return [self.title, "", *markdown(header, rows)] if rows else []

    def verdict(self, cases: Sequence[dict[str, Any]]) -> list[str]:
        """The sentence about its targets."""
        count, missed = 0, []
        for case in cases:
            for kind, target in zip(self.kinds, self.targets_of(case), strict=True):
                if target is None or kind not in case["seconds"]:
                    continue
                count += 1
                got = ratio(case, kind, self.peer(case, kind))
                if got < target:
                    missed.append(f"{kind} at {case['name']} ({got:.2f} of {target})")
        if not count:
            return []
        line = f"Of the {count} targets over {self.whom}, {len(missed) or 'none'} "
        line += "is missed" if len(missed) < 2 else "are missed"  # noqa: PLR2004 - the plural
        return [f"{line}: {', '.join(missed)}." if missed else f"{line}.", ""]


COMPARISONS = (
    Comparison(
        "The engine: torch's time over that of the same network in our kernels.",
        ("GRU", "LSTM"),
        lambda _, kind: f"nn.{kind}",
        "torch's own",
        ENGINE_TARGETS,
        ENGINE_AT_LEAST,
    ),
    Comparison(
        "The cell: the GRU's time over that of the others, all in our kernels.",
        ("nBRC", "BRC", "LSTM"),
        lambda *_: "GRU",
    ),
    Comparison(
        "Both: the best peer's time over ours.",
        KINDS,
        lambda case, _: best_peer(case),
        "the best peer",
        PEER_TARGETS,
        names_peer=True,
    ),
    Comparison("`nn.GRU`'s time over ours.", KINDS, lambda *_: "nn.GRU", "`nn.GRU`", TARGETS),
)


def tables(results: dict[str, Any]) -> str:
    """Which targets are missed; the measured ratios, times and memory; as Markdown."""
    cases = results["cases"]
    lines = [line for comparison in COMPARISONS for line in comparison.verdict(cases)]
    lines += [f"{described(results['machine'])}.", ""]
    for comparison in COMPARISONS:
        lines += comparison.lines(cases)
    narrow = replace(COMPARISONS[-1], title="The same with AVX2 alone.", targets={})
    lines += narrow.lines(results["avx2"])
    lines += ["Milliseconds.", ""]
    names = list(dict.fromkeys(name for case in cases for name in case["seconds"]))
    shown = [
        [case["name"], *(milliseconds(case["seconds"].get(name)) for name in names)]
        for case in cases
    ]
    columns = [["", *(row[0] for row in shown)]]
    columns += [[name, *(row[n + 1] for row in shown)] for n, name in enumerate(names)]
    lines += markdown(columns[0], columns[1:])
    lines += ["Peak memory of a training step over its start, MiB.", ""]
    everyone = [*dict.fromkeys(name for row in results["memory"] for name in row["mib"])]
    lines += markdown(
        ["case", *everyone],
        (
            [
                f"T{row['steps']} B{row['batch']} H{row['hidden']}",
                *(f"{row['mib'][key]:.0f}" if key in row["mib"] else "" for key in everyone),
            ]
            for row in results["memory"]
        ),
    )
    rate = f"{results['hardware']['operations'] / 1e9:.0f} GFLOP/s"
    bandwidth = f"{results['hardware']['bytes'] / 1e9:.0f} GB/s"
    lines += [
        f"The first case's products at {rate}, the best rate of torch's and numpy's products, and",
        f"its traffic at {bandwidth}, alone:",
        "",
    ]
    floors = results["hardware"]["floor"]
    lines += markdown(
        ["", "ms", "measured over it"],
        (
            [kind, f"{floors[kind] * 1e3:.1f}", f"{cases[0]['seconds'][kind] / floors[kind]:.2f}"]
            for kind in KINDS
        ),
    )
    lines += ["A training step of one row and 16 units, microseconds a time step.", ""]
    lines += markdown(
        ["steps", *KINDS],
        (
            [
                str(row["steps"]),
                *(f"{row['seconds'][kind] / row['steps'] * 1e6:.3f}" for kind in KINDS),
            ]
            for row in results["long"]
        ),
    )
    return "\n".join(lines[:-1])


def described(machine: dict[str, Any]) -> str:
    """A machine and its software, in words."""
    software = f"{machine['system']}, Python {machine['python']}, torch {machine['torch']}"
    count = machine["threads"]
    threads = f"{count} thread{'s' * (count > 1)}, {machine['instruction_sets'][0]}"
    return f"{machine['processor']}, {threads}, {software}"


def milliseconds(seconds: float | None) -> str:
    """Four digits, or nothing where nothing was measured."""
    return "" if seconds is None else f"{seconds * 1e3:.4g}"


def headline(results: dict[str, Any]) -> str:
    """The table of the README: two cases, over the best peer and over nn.GRU."""
    cases = {case["name"]: case for case in results["cases"]}
    rows = []
    for title, name in (
        ("training, 300 steps, batch size 100", "T300 B100 H100 training"),
        ("forward pass, 300 steps, batch size 100", "T300 B100 H100 no_grad"),
        ("training, 10,000 steps, batch size 8", "T10000 B8 H64 training"),
        ("forward pass, 1,000 steps, batch size 1", "T1000 B1 H128 no_grad"),
        ("forward pass, 1 step, batch size 1", "T1 B1 H100 no_grad"),
    ):
        case = cases[name]
        peer = best_peer(case)
        over = [f"{ratio(case, kind, of):.1f}" for of in ("nn.GRU", peer) for kind in KINDS]
        rows.append([title, *over, peer.removeprefix("nn.")])
    header = ["", *(f"{kind} over {of}" for of in ("nn.GRU", "best peer") for kind in KINDS)]
    nbrc, brc = (ratio(cases["T1000 B1 H128 no_grad"], kind) for kind in KINDS)
    at_once = f"{nbrc:.0f} times (nBRC) and {brc:.0f} times (BRC)"
    sentence = f"So at batch size 1, 1,000 steps run {at_once} faster than in `nn.GRU`."
    return "\n".join([*markdown([*header, "best peer"], rows), sentence])


def agent_tables(results: dict[str, Any]) -> str:
    """How agents learn and act, and which targets are missed."""
    rollout, single = results["rollout"], results["single"]
    seconds, steps = rollout["seconds"], single["seconds"]
    missed, learning, acting = [], [], []
    for kind in (*AGENT_TARGETS, "GRU"):
        module, target = f"{kind}, RecurrentModule", AGENT_TARGETS.get(kind)
        faster = ratio(rollout, module, "GRUModule, pad")
        longer = seconds[f"{kind}, resets"] / seconds[f"{kind}, no resets"]
        shown = [milliseconds(seconds[module]), f"{faster:.0f}", str(target or "")]
        learning.append([kind, *shown, f"{longer:.2f}"])
        if target and faster < target:
            missed.append(f"{kind} on rollouts ({faster:.0f} of {target})")
        if longer > RESETS_TARGET:
            missed.append(f"{kind} with resets ({longer:.2f} of at most {RESETS_TARGET})")
    for kind, peer in STEP_PEERS.items():
        row = [kind]
        for suffix in ("", ", recorded"):
            faster = ratio(single, kind + suffix, peer + suffix)
            row += [f"{steps[kind + suffix] * 1e6:.0f}", f"{faster:.2f}"]
            if kind in STEP_TARGETS and faster <= 1:
                missed.append(f"a step of {kind}{suffix} ({faster:.2f} of more than 1)")
        acting.append([*row, peer])
    machine = results["machine"]
    sizes = "T{steps} B{rows} I{inputs} H{hidden}".format(**rollout)
    theirs = ("GRUModule, pad", "GRUModule, scan", "nn.GRU, no resets")
    pad, scan, plain = (f"{seconds[name] * 1e3:.0f}" for name in theirs)
    return "\n".join(
        [
            f"Missed targets: {', '.join(missed) or 'none'}.",
            "",
            f"{described(machine)}, TorchRL {machine['torchrl']}.",
            "",
            f"A training step on rollouts, {sizes}, resets at {rollout['rate']:.0%} of the steps.",
            f"TorchRL's `GRUModule` takes {pad} ms (`pad`) and {scan} ms (`scan`), `nn.GRU`,",
            f"without resets, {plain} ms.",
            "",
            *markdown(["", "ms", "`pad` over it", "target", "with resets over without"], learning),
            f"A single step of one row, I{single['inputs']} H{single['hidden']}, in µs: without",
            "gradients, and with autograd recording it.",
            "",
            *markdown(["", "µs", "peer over it", "recorded", "peer over it", "peer"], acting)[:-1],
        ]
    )


def over_gru(figures: dict[str, float], kind: str, way: str = "") -> str:
    """`nn.GRU`'s time or memory over that of a network, nothing where it did not run."""
    peer = figures.get(f"nn.GRU{way}")
    return "" if peer is None else f"{peer / figures[kind + way]:.2f}"


def gpu_tables(results: dict[str, Any]) -> str:
    """The measured ratios, times, memory and distances of a GPU as Markdown."""
    machine, cases = results["machine"], results["cases"]
    versions = [("CUDA", "cuda"), ("cuDNN", "cudnn"), ("torch", "torch"), ("Triton", "triton")]
    known = [f"{name} {machine[key]}" for name, key in versions if key in machine]
    if "copy_gb_a_second" in machine:
        known.insert(0, f"{machine['copy_gb_a_second']:.0f} GB/s in a copy")
    columns = [f"{kind}{of}" for kind in KINDS for of in ("", ", target", ", graphs", ", memory")]
    ratios = []
    for case in cases:
        targets = dict(zip(KINDS, GPU_TARGETS[case["name"]], strict=True))
        row = [case["name"]]
        for kind in KINDS:
            row += [over_gru(case["seconds"], kind), str(targets[kind] or "")]
            row += [over_gru(case["seconds"], kind, ", CUDA graph"), over_gru(case["mib"], kind)]
        ratios.append(row)
    floors = [
        [case["name"], *(f"{case['seconds'][f'{kind}, forward'] / of[kind]:.2f}" for kind in KINDS)]
        for case in cases
        if (of := case["forward_floors"])
    ]
    names = list(dict.fromkeys(name for case in cases for name in case["seconds"]))
    times = [[name, *(milliseconds(case["seconds"].get(name)) for case in cases)] for name in names]
    reasons = {f"{name} ({why})" for case in cases for name, why in case["left_out"].items()}
    lines = [
        f"{', '.join([machine['gpu'], *known])}.",
        "",
        "`nn.GRU`'s time over ours in a training step, as it is called and with both as CUDA",
        "graphs, and its peak memory over ours:",
        "",
        *markdown(["", *columns], ratios),
        "Milliseconds of a training step, and of a forward pass without gradients as a CUDA graph:",
        "",
        *markdown(["", *(case["name"] for case in cases)], times),
    ]
    if floors:
        lines += ["A forward pass's time over the least that is possible:", ""]
        lines += markdown(["", *KINDS], floors)
    if "cut_off" in results:
        lines += [f"Not measured: {results['cut_off']}.", ""]
    lines += [f"Left out: {'; '.join(sorted(reasons))}."]
    return "\n".join(lines)


def iteration_table(results: dict[str, Any]) -> str:
    """Milliseconds of a gradient iteration, a row for each task and a column for each cell."""
    tasks = results["seconds"]
    cells = list(dict.fromkeys(cell for seconds in tasks.values() for cell in seconds))
    rows = [
        [name, *(milliseconds(seconds.get(cell)) for cell in cells)]
        for name, seconds in tasks.items()
    ]
    return "\n".join(
        [f"{described(results['machine'])}. Milliseconds:", "", *markdown(["", *cells], rows)[:-1]]
    )


def draw(results: dict[str, Any]) -> None:
    """One panel a case, one bar a network, shorter is faster."""
    mpl.use("Agg")
    cases = results["cases"]
    figure, panels = plt.subplots(-(-len(cases) // 3), 3, figsize=(14, 15), layout="constrained")
    for panel, case in zip(panels.flat, cases, strict=False):
        names = list(case["seconds"])[::-1]
        times = [case["seconds"][name] * 1e3 for name in names]
        colours = [COLOURS.get(name, "#e3c9a8") for name in names]
        bars = panel.barh(names, times, color=colours)
        labels = [f"{float(f'{time:.3g}'):,g} ms" for time in times]  # 1,330, not 1.33e+03
        panel.bar_label(bars, labels, padding=3, fontsize=8)
        panel.set_title(case["name"], fontsize=10)
        panel.set_xlabel("milliseconds", fontsize=8)
        panel.tick_params(labelsize=8)
        panel.margins(x=0.22)
        panel.spines[["top", "right"]].set_visible(False)
    for panel in list(panels.flat)[len(cases) :]:
        panel.set_axis_off()
    figure.suptitle("Two layers, float32; shorter is faster")
    figure.savefig(DOCS / "benchmarks.png", dpi=100)


def fill_in(page: Path, measured: str) -> None:
    """Rewrite the part of a page between its two marks."""
    before, _, after = parts(page)
    page.write_text(f"{before}{MARKS[0]}{measured}\n{MARKS[1]}{after}", encoding="utf-8")


def parts(page: Path) -> tuple[str, str, str]:
    """What stands before, between and after the two marks of a page."""
    before, rest = page.read_text(encoding="utf-8").split(MARKS[0])
    measured, after = rest.split(MARKS[1], 1)
    return before, measured.removesuffix("\n"), after


def main() -> None:
    """Rewrite the picture and the tables."""
    results = json.loads((DOCS / "benchmarks.json").read_text())
    draw(results)
    fill_in(DOCS / "benchmarks.md", tables(results))
    fill_in(DOCS.parent / "README.md", headline(results))
    measured_on_a_gpu = DOCS / "benchmarks-gpu.json"
    if measured_on_a_gpu.exists():
        fill_in(DOCS / "gpu.md", gpu_tables(json.loads(measured_on_a_gpu.read_text())))
    agents = json.loads((DOCS / "benchmarks-agents.json").read_text())
    fill_in(DOCS / "agents-and-streams.md", agent_tables(agents))
    iterations = json.loads((DOCS / "benchmarks-iterations.json").read_text())
    fill_in(DOCS / "results" / "README.md", iteration_table(iterations))


if __name__ == "__main__":
    main()
