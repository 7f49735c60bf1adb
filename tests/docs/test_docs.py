"""Examples run: those of the docstrings, and those of the documents."""

import ast
import doctest
import importlib
import json
import re
import shlex
import sys
from itertools import compress
from pathlib import Path

import pytest
import typer

from brc_pytorch.experiments.cli import app
from brc_pytorch.experiments.show.comparison import compare, read_others
from brc_pytorch.experiments.show.results import read_experiment
from brc_pytorch.experiments.show.tables import compare_cells, summarise
from brc_pytorch.experiments.train.sweep_file import read_grids, read_sweep
from tests.scripts import load_script

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "brc_pytorch").rglob("*.py"))
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in SOURCES
]
# What the core does without: an optional extra brings it, or a build of torch.
EXTRAS = [
    ROOT / "brc_pytorch" / "experiments",
    ROOT / "brc_pytorch" / "interop" / "gymnasium.py",
    ROOT / "brc_pytorch" / "interop" / "onnx.py",
    ROOT / "brc_pytorch" / "interop" / "torchrl.py",
    ROOT / "brc_pytorch" / "ops" / "triton",  # imported where a GPU is in use
]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# An example, and what it prints where a page shows that.
EXAMPLE = re.compile(
    r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE
)
BLOCKS = [
    pytest.param(code, shown, id=f"{path.relative_to(ROOT)}-{number}")
    for path in DOCUMENTS
    for number, (code, shown) in enumerate(EXAMPLE.findall(path.read_text(encoding="utf-8")))
]
NUMBER = re.compile(r"\d+(?:\.\d+)?")


def assert_same(printed, shown):
    """Compare word by word, and a number with decimals to one unit of the last place shown."""
    assert NUMBER.sub("#", printed) == NUMBER.sub("#", shown)
    for got, expected in zip(NUMBER.findall(printed), NUMBER.findall(shown), strict=True):
        decimals = expected.partition(".")[2]
        if decimals:
            assert float(got) == pytest.approx(float(expected), abs=1.01 * 10 ** -len(decimals))
        else:
            assert got == expected


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    if name.startswith("brc_pytorch.ops.triton."):
        pytest.importorskip("triton")
    results = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert results.failed == 0


@pytest.mark.parametrize(("code", "shown"), BLOCKS)
def test_document_examples(code, shown, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # what an example writes is not for the checkout
    exec(compile(code, "example", "exec"), {"__name__": "__main__"})  # noqa: S102 - our own text
    if shown:
        assert_same(capsys.readouterr().out, shown)


def test_the_examples_are_found():
    assert len(BLOCKS) >= 4
    assert sum(bool(block.values[1]) for block in BLOCKS) >= 3


@pytest.mark.parametrize(
    "printed", ["+0.000 apart", "0.002 apart", "0.000 apart, or so", "0.000"], ids=str
)
def test_another_output_than_the_one_shown_is_noticed(printed):
    assert_same("0.001 apart", "0.000 apart")
    with pytest.raises(AssertionError):
        assert_same(printed, "0.000 apart")


def rows(path):
    """The rows of all tables of a page."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in lines
        if line.startswith("|")
    ]


def blocks(*languages):
    """The code blocks of the documents that are in one of the languages."""
    pattern = re.compile(rf"^```({'|'.join(languages)})\n(.*?)^```", re.DOTALL | re.MULTILINE)
    return [
        pytest.param(language, code, id=f"{path.relative_to(ROOT)}-{number}")
        for path in DOCUMENTS
        for number, (language, code) in enumerate(pattern.findall(path.read_text(encoding="utf-8")))
    ]


@pytest.mark.parametrize(("language", "code"), blocks("toml", "yaml"))
def test_documented_sweeps_are_read(language, code, tmp_path, monkeypatch):
    (tmp_path / "leaky.py").write_text("class LeakyCell: ...")  # the cell of docs/your-own-cell.md
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / f"sweep.{language}"
    path.write_text(code)
    assert len(read_sweep(path)["copying"]) == 4 * 3 * 3


def chosen_rate(folder, settings, grid):
    """The learning rate that a run of an experiment has, chosen from a grid for its cell."""
    choice = json.loads((folder / "learning-rates.json").read_text(encoding="utf-8"))
    assert choice["grid"] == grid
    outcome = ("learning_rate", "held_out_losses")
    (rate,) = (
        each["learning_rate"]
        for each in choice["chosen"]
        if all(settings[key] == value for key, value in each.items() if key not in outcome)
    )
    assert rate in grid
    return rate


def test_published_runs_are_those_of_the_published_sweep():
    folder = ROOT / "docs" / "results"
    files = [folder / name for name in ("published.toml", "planned.toml")]
    grids = {name: grid for file in files for name, grid in read_grids(file).items()}
    planned = {
        (experiment, run.name): run.settings
        for file in files
        for experiment, runs in read_sweep(file).items()
        for run in runs
    }
    published = list((folder / "data").glob("*/*/result.json"))
    assert published
    for path in published:
        settings = json.loads(path.read_text(encoding="utf-8"))["settings"]
        expected = planned[path.parts[-3], path.parts[-2]]
        grid = grids.get(path.parts[-3])
        if grid is not None:
            rate = chosen_rate(path.parents[1], settings, grid)
            expected = {**expected, "learning_rate": rate}
        assert settings == expected


# What the page leaves out of the tables: the times, of a machine that did other work, for which
# it has a table of a quiet one; and more of each experiment's.
TIMES = ("time an iteration", "time a run")
LEFT_OUT = {
    "binary-addition": (
        *("% right at 30", "% right at 40", "% right at 50", "% right at 3-20"),
        *("training binary cross-entropy", "iterations", "learning rate"),
    ),
    "copy-first-input": ("layers", "iterations", "solved", "learning rate"),
    "copy-first-input-9000": ("layers", "iterations", "learning rate"),
    "copy-first-input-9000-rates": ("length", "layers", "iterations"),
    "copy-first-input-lstm": ("layers", "iterations", "learning rate"),
    "denoising": ("layers", "iterations", "learning rate"),
    "sequential-mnist": ("padding", "layers", "iterations"),
    "state-tracking": ("layers", "training cross-entropy", "iterations"),
    "state-tracking-patient": ("layers", "training cross-entropy", "iterations"),
    "warm-up": ("length", "layers", "iterations to below 0.1", "learning rate"),
    "holding": ("length", "layers", "iterations to below 0.1", "learning rate"),
}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_published_figures_are_those_of_the_data(name):
    folder = ROOT / "docs" / "results"
    shown = rows(folder / "README.md")
    experiment = read_experiment(folder / "data" / name)
    summary = summarise(experiment)
    kept = [column not in (*LEFT_OUT[name], *TIMES) for column in summary.columns]
    for row in (summary.columns, *summary.rows):
        assert [*compress(row, kept)] in shown
    if name == "binary-addition":
        pairs = compare_cells(experiment)
        assert len(pairs.rows) == 2 * 6
        for row in (pairs.columns, *pairs.rows):
            assert row in shown


def test_the_predecessor_s_figures_stand_beside_runs_of_the_same_settings_alone():
    folder = ROOT / "docs" / "results"
    others = read_others(folder / "brc-pytorch-0.1.3.json")
    shown = rows(folder / "README.md")
    (adding,) = compare(read_experiment(folder / "data" / "binary-addition"), others)
    assert len(adding.table.rows) == 8
    for row in adding.table.rows:
        assert row in shown
    copied = compare(read_experiment(folder / "data" / "copy-first-input-9000"), others)
    assert [len(copying.table.rows) for copying in copied] == [8, 4]
    for copying in copied:
        assert copying.differences == []
        for row in copying.table.rows:
            assert row in shown
    for copying in compare(read_experiment(folder / "data" / "copy-first-input"), others):
        assert copying.differences == ["train_size is 45000 here, 9000 there"]


def test_published_models_stand_below_our_cells():
    folder = ROOT / "docs" / "results"
    others = read_others(folder / "state-space-models.json")
    (comparison,) = compare(read_experiment(folder / "data" / "state-tracking"), others)
    assert comparison.differences == []
    shown = rows(folder / "README.md")
    assert [row[-1] for row in comparison.table.rows].count(others.source) == 3 * 3
    for row in (comparison.table.columns, *comparison.table.rows):
        assert row in shown


def test_errors_by_seed_are_those_of_the_data():
    folder = ROOT / "docs" / "results"
    runs = read_experiment(folder / "data" / "warm-up").groups(["cell"])
    assert len(runs) == 3
    shown = rows(folder / "README.md")
    for (cell,), of_cell in runs.items():
        errors = [f"{run.result['last_test_loss']:.3g}" for run in of_cell]
        assert [cell, *errors] in shown
    for name in (name for name in LEFT_OUT if name.startswith("copy-first-input-")):
        copied = read_experiment(folder / "data" / name)
        for (length, cell), of_cell in copied.groups(["length", "cell"]).items():
            found = {r.settings["seed"]: f"{r.result['last_test_loss']:.3g}" for r in of_cell}
            row = [str(length), cell, *(found.get(seed, "-") for seed in range(5))]
            assert length == 5 or row in shown
    tracking = read_experiment(folder / "data" / "state-tracking")
    measure, *_ = tracking.task.measures(tracking.settings)
    for key, of_cell in tracking.groups(["problem", "cell"]).items():
        found = {run.settings["seed"]: measure.show(measure.value(run)) for run in of_cell}
        assert [*key, *(found[seed] for seed in range(5))] in shown


def by_cell(summary, measure):
    """A measure of each cell, by what the first column tells."""
    found = {}
    for row in summary.rows:
        cell, value = (row[summary.columns.index(column)] for column in ("cell", measure))
        found.setdefault(row[0], {})[cell] = value
    return found


def test_figures_by_cell_are_those_of_the_data():
    """The tables with a column a cell, of the page on the paper and of the README."""
    data = ROOT / "docs" / "results" / "data"
    summary = summarise(read_experiment(data / "binary-addition"))
    found = {(layers,): of_cells for layers, of_cells in by_cell(summary, "% right at 60").items()}
    for name, size in (("copy-first-input", "45,000"), ("copy-first-input-9000", "9,000")):
        copied = by_cell(summarise(read_experiment(data / name)), "test MSE")
        found |= {(length, size): of_cells for length, of_cells in copied.items()}
    shown, in_readme = rows(ROOT / "docs" / "paper.md"), rows(ROOT / "README.md")
    assert len(found) == 2 + 3 + 3
    for setting, values in found.items():
        assert [*values] == ["LSTM", "GRU", "BRC", "nBRC"]
        row = [*setting, *values.values()]
        assert row in shown, setting
        assert row in in_readme or setting in {("5", "9,000"), ("5", "45,000"), ("100", "45,000")}
    images = summarise(read_experiment(data / "sequential-mnist"))
    accuracy = images.columns.index("% test accuracy")
    assert [row[accuracy] for row in images.rows] in shown
    page = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
    noise = summarise(read_experiment(data / "denoising"))
    told = [row[noise.columns.index("test MSE")] for row in noise.rows]
    errors = [text.removesuffix(" (n = 1)") for text in told]
    assert "the error of BRC is {} on the test sequences, that\nof nBRC {},".format(*errors) in page


def test_the_speed_shown_is_that_of_the_data():
    report = load_script("benchmarks/report.py")
    names = ("benchmarks", "benchmarks-agents", "benchmarks-gpu", "benchmarks-iterations")
    results, agents, on_a_gpu, iterations = (
        json.loads((ROOT / "docs" / f"{name}.json").read_text(encoding="utf-8")) for name in names
    )
    for page, text in (
        (ROOT / "docs" / "agents-and-streams.md", report.agent_tables(agents)),
        (ROOT / "docs" / "benchmarks.md", report.tables(results)),
        (ROOT / "docs" / "gpu.md", report.gpu_tables(on_a_gpu)),
        (ROOT / "docs" / "results" / "README.md", report.iteration_table(iterations)),
        (ROOT / "README.md", report.headline(results)),
    ):
        _, shown, _ = report.parts(page)
        assert shown == text


@pytest.mark.parametrize(("language", "code"), blocks("py"))
def test_examples_that_cannot_run_here_are_python(language, code):
    compile(code, language, "exec")


COMMANDS = [
    pytest.param(shlex.split(line, comments=True)[1:], id=line)
    for path in DOCUMENTS
    for line in re.findall(r"^brc .*", path.read_text(encoding="utf-8"), re.MULTILINE)
]


@pytest.mark.parametrize("arguments", COMMANDS)
def test_documented_commands_exist_with_their_options(arguments):
    name, *rest = arguments
    command = typer.main.get_command(app).commands[name]
    command.make_context(name, rest)  # raises for what the command does not know


def test_the_commands_are_found():
    assert len(COMMANDS) >= 5


LAYERS = {
    "BRC",
    "BistableRecurrentCell",
    "DoubleCell",
    "GRU",
    "LSTM",
    "MultiLayerBase",
    "NBRC",
    "NeuromodulatedBistableRecurrentCell",
    "PeepholeLSTMCell",
    "SelectItem",
    "check_cell",
}
EXPORTS = {
    "brc_pytorch": LAYERS,
    "brc_pytorch.analysis": {
        "FixedPoints",
        "Hysteresis",
        "bifurcation",
        "bistable_range",
        "bistable_share",
        "fixed_points",
        "hysteresis",
        "memory_curve",
        "settle",
        "soft_vaa",
        "stable_states",
        "vaa",
        "warmup",
    },
    "brc_pytorch.layers": LAYERS,
    "brc_pytorch.ops": {
        "backend",
        "backend_for",
        "brc",
        "brc_gates",
        "brc_step",
        "gru",
        "lstm",
        "nbrc",
        "nbrc_gates",
        "nbrc_step",
        "peephole_lstm_step",
        "scan",
        "scan_layers",
    },
}


@pytest.mark.parametrize("name", EXPORTS)
def test_exports_are_what_was_promised(name):
    module = importlib.import_module(name)
    assert {*module.__all__} == EXPORTS[name]
    assert all(hasattr(module, export) for export in module.__all__)


def test_the_core_imports_torch_and_nothing_else():
    """Every import of the core, at any level, is torch's, ours, or the standard library's."""
    allowed = {"torch", "brc_pytorch", *sys.stdlib_module_names}
    for path in SOURCES:
        if any(path.is_relative_to(extra) for extra in EXTRAS):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                assert name.split(".")[0] in allowed, f"{path.name} imports {name}"


def test_imports_only_go_down():
    floors = {"ops": 1, "datasets": 1, "layers": 2, "analysis": 3, "experiments": 4}
    for path in SOURCES:
        folder = path.relative_to(ROOT / "brc_pytorch").parts[0]
        floor = floors.get(folder, 5)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("brc_"):
                continue
            target = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            assert all(floors.get(part, 0) <= floor for part in target), f"{path}: {node.module}"
