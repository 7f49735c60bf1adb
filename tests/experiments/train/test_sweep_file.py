import pytest

from brc_pytorch.experiments.tasks import BinaryAdditionTask, CopyFirstInputTask
from brc_pytorch.experiments.train.run import Run
from brc_pytorch.experiments.train.sweep_file import read_sweep

TOML = """
[copying]
task = "copy-first-input"
cells = ["gru", "nBRC"]
seeds = [0, 7]
layers = 1
length = [5, 100]
learning_rate = 1

[adding]
task = "binary-addition"
cells = "BRC"
seeds = 3
layers = [1, 2, 1]
"""
YAML = """
copying:
  task: copy-first-input
  cells: [gru, nBRC]
  seeds: [0, 7]
  layers: 1
  length: [5, 100]
  learning_rate: 1.0

adding: {task: binary-addition, cells: BRC, seeds: 3, layers: [1, 2, 1]}
"""


@pytest.mark.parametrize(
    ("name", "text"), [("a.toml", TOML), ("a.yaml", YAML), ("a.yml", YAML), ("A.TOML", TOML)]
)
def test_lists_of_dimensions_are_swept_and_other_settings_shared(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert read_sweep(tmp_path / name) == {
        "copying": [
            Run(CopyFirstInputTask(length=length, layers=1, learning_rate=1.0), cell, seed)
            for seed in (0, 7)
            for length in (5, 100)
            for cell in ("GRU", "nBRC")
        ],
        "adding": [Run(BinaryAdditionTask(layers=layers), "BRC", 3) for layers in (1, 2)],
    }


GOOD = {"task": '"copy-first-input"', "cells": '["GRU"]', "seeds": "[0]"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": None}, "expected task, cells, seeds, got no task"),
        ({"cells": None, "seeds": None}, "expected task, cells, seeds, got no cells and no seeds"),
        (
            {"task": '"copy-first"'},
            "task: expected a known task, got 'copy-first'; did you mean copy-first-input?",
        ),
        ({"task": "3"}, "task: expected a known task, got 3"),
        ({"cells": '["GRU", "nbcr"]'}, "cell: expected .* got 'nbcr'; did you mean nBRC?"),
        ({"cells": "[]"}, "cells: expected at least one, got an empty list"),
        ({"cells": "[1]"}, "cells: expected a name, got 1"),
        ({"seeds": "[]"}, "seeds: expected at least one, got an empty list"),
        ({"seeds": '["0"]'}, "seeds: expected a whole number, got '0'"),
        ({"seeds": "[true]"}, "seeds: expected a whole number, got True"),
        ({"seeds": "[[1]]"}, r"seeds: expected a whole number, got \[1\]"),
        ({"learning_rates": "[]"}, "learning_rates: expected at least one, got an empty list"),
        ({"learning_rates": '["fast"]'}, "learning_rates: expected a number, got 'fast'"),
        ({"length": "[]"}, "length: expected at least one, got an empty list"),
        ({"length": "5.0"}, "length: expected a whole number, got 5.0"),
        ({"length": "0"}, "length: expected 1 or more, got 0"),
        ({"learning_rate": '"fast"'}, "learning_rate: expected a number, got 'fast'"),
        (
            {"learning_rate": '"1e-3"'},
            "learning_rate: expected a number, got '1e-3'; YAML .* unless it has a dot: 1.0e-3",
        ),
        ({"lenght": "[5]"}, "lenght: expected a setting of copy-first-input.*did you mean length?"),
        (
            {"hidden_size": "[50, 100]"},
            r"hidden_size: expected one value, got the list \[50, 100\]; .* make another",
        ),
    ],
)
def test_bad_settings_are_told_with_file_experiment_and_key(tmp_path, changes, message):
    lines = [f"{key} = {value}" for key, value in {**GOOD, **changes}.items() if value is not None]
    path = tmp_path / "sweep.toml"
    path.write_text("\n".join(["[first]", *lines]))
    with pytest.raises(ValueError, match=rf"sweep.toml: first: {message}"):
        read_sweep(path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.toml", "", "expected at least one experiment, got an empty file"),
        ("a.yaml", "", "expected at least one experiment, got an empty file"),
        ("a.yaml", "- 1", r"expected experiments by their names, got \[1\]"),
        ("a.toml", "seeds = [1]", r"seeds: expected a table, .* got \[1\]"),
        ("a.toml", "[a\n", "expected a TOML file, which this is not: .*line 1"),
        ("a.yaml", "a: [\n", "expected a YAML file, which this is not: .*line 2"),
        ("a.toml", "[a]\n[a]", "expected a TOML file, which this is not: "),
        (
            "a.yaml",
            "a: {task: x}\na: {task: x}",
            "expected a YAML file.*'a' stands twice, .*line 2, column 1",
        ),
        ("a.yaml", "a: {seeds: 1, seeds: 2}", "expected a YAML file.*'seeds' stands twice"),
        ("a.yaml", "a: !!python/object/apply:os.getpid []", "expected a YAML file"),
        ("a.yaml", "1: {task: x}", "1: expected the name of a folder"),
        ("a.toml", '["../up"]\nseeds = 1', "../up: expected the name of a folder"),
        ("a.json", "{}", "expected a name that ends in .toml, .yaml, .yml"),
    ],
)
def test_files_that_are_no_sweep_are_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=f"(?s){name}: {message}"):
        read_sweep(tmp_path / name)


def test_files_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"none\.toml: .*: No such file or directory"):
        read_sweep(tmp_path / "none.toml")
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(ValueError, match=r"folder\.toml: .*: Is a directory"):
        read_sweep(tmp_path / "folder.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"binary.toml: .*utf-8"):
        read_sweep(tmp_path / "binary.toml")
