import json

import pandas as pd
import pytest

from brc_pytorch.experiments.files import (
    DamagedFileError,
    read_config,
    read_json,
    read_result,
    read_shared_settings,
    read_table,
    write_json,
    write_table,
)

RESULT = {"parameters": 3, "iterations": 4, "best_epoch": 1, "seconds": 0.5, "solved": False}
COLUMNS = {"iteration": int, "loss": float}


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "an empty file"),
        (b"{", "no JSON: "),
        (b"[1, 2]", r"\[1, 2\]"),
        (b"null", "None"),
        (b"\xff\xfe\x00", "no text: "),
        (b'{"a": NaN}', "NaN is no number"),
        (b'{"a": ' * 100_000, "too deeply nested"),
        (b'{"a": "\\ud800"}', "surrogates not allowed"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "limit"),
        (None, "No such file"),
        ("folder", "Is a directory"),
    ],
)
def test_what_is_no_json_object_is_named(tmp_path, content, found):
    path = tmp_path / "result.json"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(DamagedFileError, match=rf"result.json: expected a JSON object, .*{found}"):
        read_json(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seconds": "long"}, "a number for seconds, got 'long'"),
        ({"seconds": True}, "a number for seconds, got True"),
        ({"parameters": 1.5}, "a whole number for parameters, got 1.5"),
        ({"iterations": 10**400}, r"a whole number for iterations, got 10+\.\.\."),
        ({"solved": None}, "true or false for solved, got None"),
        ({"best_test_loss": "low"}, "a number for best_test_loss, got 'low'"),
    ],
)
def test_a_result_is_checked(tmp_path, changes, message):
    write_json(tmp_path / "result.json", {**RESULT, "best_test_loss": 0.25})
    assert read_result(tmp_path, "test")["best_test_loss"] == 0.25
    with pytest.raises(DamagedFileError, match="expected best_validation_loss, a number, got none"):
        read_result(tmp_path, "validation")
    write_json(tmp_path / "result.json", {**RESULT, "best_test_loss": None, **changes})
    with pytest.raises(DamagedFileError, match=f"result.json: expected {message}"):
        read_result(tmp_path, "test")


def test_a_config_is_checked(tmp_path):
    settings = {"task": "copy-first-input", "cell": "GRU", "seed": 0}
    start = {"time": "2026-01-01T00:00:00+00:00", "versions": {}, "machine": {}}
    good = {"settings": settings, "starts": [start]}
    write_json(tmp_path / "config.json", good)
    assert read_config(tmp_path) == good
    for damaged, message in (
        ({}, "settings, a mapping, got none"),
        ({**good, "starts": {}}, "a list for starts, got {}"),
        ({**good, "starts": [None]}, r"a mapping for starts\[0\], got None"),
        ({**good, "starts": [start, {"time": 3}]}, r"text for starts\[1\]\.time, got 3"),
        ({**good, "settings": {**settings, "seed": "0"}}, "a whole number for settings.seed"),
    ):
        write_json(tmp_path / "config.json", damaged)
        with pytest.raises(DamagedFileError, match=f"config.json: expected {message}"):
            read_config(tmp_path)
    write_json(tmp_path / "experiment.json", {"task": 1})
    with pytest.raises(DamagedFileError, match=r"experiment\.json: expected text for task, got 1"):
        read_shared_settings(tmp_path)


def test_a_table_is_read_as_it_was_written(tmp_path):
    table = pd.DataFrame({"iteration": [1, 2, 3], "loss": [0.1 + 0.2, float("nan"), float("inf")]})
    write_table(tmp_path / "training.csv", table)
    read = read_table(tmp_path / "training.csv", COLUMNS)
    pd.testing.assert_frame_equal(read, table)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a table, got an empty file"),
        (b"iteration,loss\n", "a table, got a header without rows"),
        (b"iteration,loss\n1,0.25", "a table, got one whose last line is cut off"),
        (b"iteration,loss\n1,0.25\n2\n", "2 values in each line, got 1 in line 3"),
        (b"iteration,loss\n1,0.25,3\n2,1,3\n", "2 values in each line, got 3 in line 2"),
        (b"\x89PNG\r\n\x1a\n\x00", "a table, got no text"),
        (b"epoch,loss\n1,0.25\n", "a column iteration, got only epoch, loss"),
        (b"iteration,loss\n1,0.2s\n", "numbers in column loss, got other values"),
        (b"iteration,loss\n2,0.25\n1,0.25\n", "growing whole numbers in column iteration"),
        (b"iteration,loss\n1,0.25\n1,0.25\n", "growing whole numbers in column iteration"),
        (b"iteration,loss\n,0.25\n2,0.25\n", "growing whole numbers in column iteration"),
        (b'iteration,loss\n1,"0.25\n', "a table, got none: "),
        (None, "a table, got No such file"),
        ("folder", "a table, got Is a directory"),
    ],
)
def test_what_is_no_table_is_named(tmp_path, content, message):
    path = tmp_path / "training.csv"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(DamagedFileError, match=f"training.csv: expected {message}"):
        read_table(path, COLUMNS)


def test_what_cannot_be_written_as_json_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "result.json", {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []
    write_json(tmp_path / "result.json", {"name": "é"})
    assert json.loads((tmp_path / "result.json").read_bytes()) == {"name": "é"}
