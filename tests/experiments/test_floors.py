"""The order in which data flow: files, tasks, training, showing, the command; imports go down."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import brc_pytorch.experiments.cli
from brc_pytorch.experiments.tasks import TASKS

FOLDER = Path(brc_pytorch.experiments.cli.__file__).parents[1]
FLOORS = {"files": 0, "weights": 1, "tasks": 1, "train": 2, "show": 2}
FLOORS |= dict.fromkeys(("cli", "networks", "sweep", "training"), 3)
PACKAGE = "brc_pytorch.experiments."


def imported(path):
    """The modules of the experiments that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith(PACKAGE):
            for name in node.names:
                yield f"{node.module}.{name.name}".removeprefix(PACKAGE)


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*.py")), ids=lambda path: path.stem)
def test_imports_go_down(path):
    own = path.relative_to(FOLDER).with_suffix("").parts[0]
    for name in imported(path):
        other = name.partition(".")[0]
        assert other == own or FLOORS[other] < FLOORS[own], f"{path} imports {name}"


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*.py")), ids=lambda path: path.stem)
def test_files_are_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def test_showing_imports_no_trainer():
    """It takes seconds to import, and files are read where nothing is trained."""
    code = """
import sys
from brc_pytorch.experiments.show import commands, comparison, plots, report, results, tables
print(*(name for name in sys.modules if "lightning" in name or "experiments.train" in name))
"""
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=600
    )
    assert done.stdout.split() == []


@pytest.mark.parametrize(
    ("arguments", "unwanted"),
    [
        (["--help"], ["lightning", "pandas", "matplotlib", "distributed"]),
        (["plot", "."], ["lightning", "distributed"]),
    ],
)
def test_the_command_imports_what_it_needs(arguments, unwanted, tmp_path):
    code = f"""
import sys
from brc_pytorch.experiments.cli import app
app({arguments!r}, standalone_mode=False)
print("imported:", *({{name.partition(".")[0] for name in sys.modules}} & set({unwanted!r})))
"""
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        cwd=tmp_path,
    )
    assert done.stdout.splitlines()[-1].split() == ["imported:"], done.stderr


@pytest.mark.parametrize("name", TASKS)
def test_a_task_says_what_it_measures(name):
    """The metrics that it names are those that it gives."""
    task = TASKS[name]
    settings = {each.name: each.default for each in task.__dataclass_fields__.values()}
    assert task.metric_names[0] == "loss"
    titles = [measure.title for measure in task.measures(settings)]
    assert len(set(titles)) == len(titles) > 0
    names = [curve.name for curve in task.curves(settings)]
    assert "training_loss" in names
    assert len(set(names)) == len(names)
