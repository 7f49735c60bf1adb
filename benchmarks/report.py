"""Draws ``docs/benchmarks.json``: the picture, and the tables of ``docs/benchmarks.md``.

Where ``gpu.py`` has written ``docs/benchmarks-gpu.json`` it fills in the tables of ``docs/gpu.md``.
"""

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt

DOCS = Path(__file__).parents[1] / "docs"
TARGETS = {  # nn.GRU's time over ours: nBRC, BRC
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
KINDS = ("nBRC", "BRC")
COLOURS = {"nn.GRU": "#9aa0a6", "nn.LSTM": "#c6cacf", "nBRC": "#1b6ca8", "BRC": "#d1495b"}


def ratio(case: dict[str, Any], name: str) -> float:
    """nn.GRU's time over that of a network."""
    return float(case["seconds"]["nn.GRU"] / case["seconds"][name])


def tables(results: dict[str, Any]) -> str:
    """The measured ratios, times and memory as Markdown."""
    machine = results["machine"]
    software = f"{machine['system']}, Python {machine['python']}, torch {machine['torch']}"
    threads = f"{machine['threads']} threads, {machine['instruction_sets'][0]}"
    lines = [
        f"{machine['processor']}, {threads}, {software}.",
        "",
        "`nn.GRU`'s time over ours, with the target; then with AVX2 alone.",
        "",
        "| case | nBRC | target | BRC | target | nBRC, AVX2 | BRC, AVX2 |",
        "|---|---|---|---|---|---|---|",
    ]
    for case, narrow in zip(results["cases"], results["avx2"], strict=True):
        reached = [
            cell
            for kind, target in zip(KINDS, TARGETS.get(case["name"], ("", "")), strict=True)
            for cell in (f"{ratio(case, kind):.2f}", str(target))
        ]
        with_avx2 = [f"{ratio(narrow, kind):.2f}" for kind in KINDS]
        lines.append(f"| {' | '.join([case['name'], *reached, *with_avx2])} |")
    names = list(results["cases"][0]["seconds"])
    lines += [
        "",
        "Milliseconds.",
        "",
        f"| case | {' | '.join(names)} |",
        "|---" * (len(names) + 1) + "|",
    ]
    for case in results["cases"]:
        times = [case["seconds"].get(name) for name in names]
        cells = ["" if time is None else f"{time * 1e3:.4g}" for time in times]
        lines.append(f"| {' | '.join([case['name'], *cells])} |")
    lines += [
        "",
        "Peak memory of a training step over its start, MiB.",
        "",
        "| case | nBRC | BRC | nn.GRU |",
        "|---|---|---|---|",
    ]
    for row in results["memory"]:
        name = f"T{row['steps']} B{row['batch']} H{row['hidden']}"
        cells = [
            f"{row['mib'][key]:.0f}" if key in row["mib"] else "" for key in (*KINDS, "nn.GRU")
        ]
        lines.append(f"| {' | '.join([name, *cells])} |")
    hardware, first = results["hardware"], results["cases"][0]
    rates = (
        f"{hardware['operations'] / 1e9:.0f} GFLOP/s, traffic at {hardware['bytes'] / 1e9:.0f} GB/s"
    )
    lines += [
        "",
        f"The first case's products and traffic alone, at the rates of torch's own: {rates}.",
        "",
        "| | ms | measured over it |",
        "|---|---|---|",
    ]
    for kind in KINDS:
        least = hardware["floor"][kind]
        lines.append(f"| {kind} | {least * 1e3:.1f} | {first['seconds'][kind] / least:.2f} |")
    lines += [
        "",
        "A training step of one row and 16 units, microseconds a time step.",
        "",
        "| steps | nBRC | BRC |",
        "|---|---|---|",
    ]
    for row in results["long"]:
        times = [f"{row['seconds'][kind] / row['steps'] * 1e6:.3f}" for kind in KINDS]
        lines.append(f"| {' | '.join([str(row['steps']), *times])} |")
    return "\n".join(lines)


def gpu_tables(results: dict[str, Any]) -> str:
    """The measured ratios, times, memory and distances of a GPU as Markdown."""
    machine = results["machine"]
    names = list(dict.fromkeys(name for case in results["cases"] for name in case["seconds"]))
    hardware = f"{machine['gpu']}, {machine['copy_gb_a_second']:.0f} GB/s in a copy"
    software = f"cuDNN {machine['cudnn']}, torch {machine['torch']}, Triton {machine['triton']}"
    floors = " | ".join(f"{kind}, over its floor" for kind in KINDS)
    header = [f"| case | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    lines = [
        f"{hardware}, CUDA {machine['cuda']}, {software}.",
        "",
        "`nn.GRU`'s time over ours in a training step, with the target; our peak memory over its;",
        "a forward pass's time over the least that is possible.",
        "",
        f"| case | nBRC | target | BRC | target | memory, nBRC | memory, BRC | {floors} |",
        "|---" * 9 + "|",
    ]
    for case in results["cases"]:
        reached = [
            cell
            for kind, target in zip(KINDS, GPU_TARGETS[case["name"]], strict=True)
            for cell in (f"{ratio(case, kind):.2f}", "" if target is None else str(target))
        ]
        memory = [f"{case['mib'][kind] / case['mib']['nn.GRU']:.2f}" for kind in KINDS]
        distance = [
            f"{case['seconds'][f'{kind}, forward'] / case['forward_floors'][kind]:.2f}"
            for kind in KINDS
        ]
        lines.append(f"| {' | '.join([case['name'], *reached, *memory, *distance])} |")
    lines += ["", "Milliseconds.", "", *header]
    for case in results["cases"]:
        times = [case["seconds"].get(name) for name in names]
        cells = ["" if time is None else f"{time * 1e3:.4g}" for time in times]
        lines.append(f"| {' | '.join([case['name'], *cells])} |")
    reasons = {f"{k}: {v}" for case in results["cases"] for k, v in case["left_out"].items()}
    lines += [f"\nLeft out: {reason}" for reason in sorted(reasons)]
    return "\n".join(lines)


def draw(results: dict[str, Any]) -> None:
    """One panel a case, one bar a network, shorter is faster."""
    mpl.use("Agg")
    cases = results["cases"]
    figure, panels = plt.subplots(2, 4, figsize=(15, 6.4), layout="constrained")
    for panel, case in zip(panels.flat, cases, strict=False):
        names = list(case["seconds"])[::-1]
        times = [case["seconds"][name] * 1e3 for name in names]
        colours = [COLOURS.get(name, "#e3c9a8") for name in names]
        bars = panel.barh(names, times, color=colours)
        labels = [f"{ratio(case, name):.1f}x" for name in names]
        panel.bar_label(bars, labels, padding=3, fontsize=8)
        panel.set_title(case["name"], fontsize=10)
        panel.set_xlabel("milliseconds", fontsize=8)
        panel.tick_params(labelsize=8)
        panel.margins(x=0.18)
        panel.spines[["top", "right"]].set_visible(False)
    for panel in list(panels.flat)[len(cases) :]:
        panel.set_axis_off()
    figure.suptitle("Two layers, float32; shorter is faster, and N x is nn.GRU's time over it")
    figure.savefig(DOCS / "benchmarks.png", dpi=110)


def fill_in(page: Path, measured: str) -> None:
    """Rewrite the part of a page between its two marks."""
    before, rest = page.read_text().split("<!-- measured -->\n")
    _, after = rest.split("<!-- end -->\n")
    page.write_text(f"{before}<!-- measured -->\n{measured}\n<!-- end -->\n{after}")


def main() -> None:
    """Rewrite the picture and the tables."""
    results = json.loads((DOCS / "benchmarks.json").read_text())
    draw(results)
    fill_in(DOCS / "benchmarks.md", tables(results))
    measured_on_a_gpu = DOCS / "benchmarks-gpu.json"
    if measured_on_a_gpu.exists():
        fill_in(DOCS / "gpu.md", gpu_tables(json.loads(measured_on_a_gpu.read_text())))


if __name__ == "__main__":
    main()
