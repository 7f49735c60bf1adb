"""The files of an output folder: their names, and how each is written and read.

An output folder belongs to one experiment. It holds

- `experiment.json`: the settings that its runs share;
- a directory for each run;
- where learning rates were chosen from a grid, `learning-rates.json` with the choice, and `tuning`,
  which holds a folder of the same kind for each rate.

The directory of a run holds

- `config.json`: the settings, and for every start the versions and the machine;
- `training.csv`: the loss of every gradient iteration;
- `epochs.csv`: the held-out metrics after every epoch;
- `test.csv`: the metrics of the last model for every test length, where the task has them;
- `best.pt` and `last.pt`: the state dictionaries of the network with the lowest held-out loss on
  sequences of the last length, and after the last epoch; read them with
  `torch.load(path, weights_only=True)`;
- `resume.ckpt`: Lightning's checkpoint of the last whole epoch, gone when the run is finished;
- `lock`: held by the process that trains the run, gone when the run is finished; a file that
  nobody holds, after a kill, means nothing;
- `tensorboard`: a log for TensorBoard, where it was asked for;
- `result.json`: the outcome, written last. A run is finished when it is there.

Each is written to a temporary name and moved into place. What is read is checked: a file that
holds something else is a `DamagedFileError`, whatever is wrong with it.
"""

import contextlib
import csv
import io
import json
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

EXPERIMENT = "experiment.json"
LEARNING_RATES = "learning-rates.json"
CONFIG, RESULT, CHECKPOINT, LOCK = "config.json", "result.json", "resume.ckpt", "lock"
TRAINING, EPOCHS, TEST = "training.csv", "epochs.csv", "test.csv"
BEST, LAST = "best.pt", "last.pt"
TENSORBOARD = "tensorboard"

_LARGEST = 1e300
"""No number of a run is as large; what is can be neither added nor printed as others are."""

_KINDS: dict[type, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "a mapping",
    list: "a list",
    object: "a value",
}


class FileError(ValueError):
    """A file of an output folder stands in the way; the message begins with its path."""


class DamagedFileError(FileError):
    """A file does not hold what a run writes into it.

    Args:
        path: The file.
        expected: What it should hold, or be.
        found: What it holds, or is.
    """

    def __init__(self, path: Path, expected: str, found: str) -> None:
        super().__init__(path, expected, found)
        self.path, self.expected, self.found = path, expected, found

    def __str__(self) -> str:
        return f"{self.path}: expected {self.expected}, got {self.found}"


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then move it into place.

    The temporary file has a name of its own: of processes that write the same file at the same
    time, the last one wins.

    Raises:
        OSError: If it cannot be written, with `path` as its file name; what was there is kept.
    """
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        write(temporary)
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):  # of a full disk it tells no file
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error
        raise


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a mapping as indented JSON, all or nothing."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    write_file(path, lambda file: file.write_text(text, encoding="utf-8"))


def write_table(path: Path, table: "pd.DataFrame") -> None:
    """Write a table as CSV, all or nothing."""
    write_file(path, lambda file: table.to_csv(file, index=False))


def _read_text(path: Path, expected: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise DamagedFileError(path, expected, error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise DamagedFileError(path, expected, f"no text: {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """Read a mapping from JSON.

    Raises:
        DamagedFileError: If the file cannot be read, or holds anything else.
    """
    expected = "a JSON object"
    text = _read_text(path, expected)
    try:
        content = json.loads(text, parse_constant=_refuse_constant)
        json.dumps(content, ensure_ascii=False).encode()  # half a character can be escaped
    except RecursionError as error:
        raise DamagedFileError(path, expected, "one that is too deeply nested") from error
    except ValueError as error:
        found = f"no JSON: {error}" if text.strip() else "an empty file"
        raise DamagedFileError(path, expected, found) from error
    if not isinstance(content, dict):
        raise DamagedFileError(path, expected, _shorten(content))
    return content


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."  # noqa: PLR2004 - so much of a line


def check_keys(
    path: Path, content: Mapping[str, Any], kinds: Mapping[str, type], where: str = ""
) -> None:
    """Refuse a mapping that lacks one of some keys, or has a value of another kind for it.

    Args:
        path: The file that it was read from.
        content: The mapping.
        kinds: The type of the value of each key: str, int, float for any number, bool, dict, list,
            object for any.
        where: Where in the file the mapping is, such as "settings".

    Raises:
        DamagedFileError: If there is one; the message names it.
    """
    for key, kind in kinds.items():
        name = f"{where}.{key}" if where else key
        if key not in content:
            raise DamagedFileError(path, f"{name}, {_KINDS[kind]}", "none")
        if not _is_a(content[key], kind):
            raise DamagedFileError(path, f"{_KINDS[kind]} for {name}", _shorten(content[key]))


def _is_a(value: object, kind: type) -> bool:
    if kind in (int, float):
        numbers = (int, float) if kind is float else (int,)
        return (
            isinstance(value, numbers)
            and not isinstance(value, bool)
            and -_LARGEST < value < _LARGEST
        )
    return isinstance(value, kind)


def read_shared_settings(directory: Path) -> dict[str, Any]:
    """Read the settings that the runs of an output folder share; "task" is among them.

    Raises:
        DamagedFileError: If `experiment.json` is not there, or damaged.
    """
    path = directory / EXPERIMENT
    settings = read_json(path)
    check_keys(path, settings, {"task": str})
    settings.pop("learning_rate", None)  # which runs of earlier versions shared
    return settings


def read_config(directory: Path) -> dict[str, Any]:
    """Read the settings and the starts of a run.

    Returns:
        "settings", a mapping with at least "task", "cell" and "seed"; and "starts", a list of
        mappings with at least "time" (ISO 8601), "versions" and "machine".

    Raises:
        DamagedFileError: If `config.json` is not there, or damaged.
    """
    path = directory / CONFIG
    config = read_json(path)
    check_keys(path, config, {"settings": dict, "starts": list})
    check_keys(path, config["settings"], {"task": str, "cell": str, "seed": int}, "settings")
    for place, start in enumerate(config["starts"]):
        check_keys(path, {f"starts[{place}]": start}, {f"starts[{place}]": dict})
        check_keys(
            path, start, {"time": str, "versions": dict, "machine": dict}, f"starts[{place}]"
        )
        if "command" in start:
            check_keys(path, start, {"command": str}, f"starts[{place}]")
    return config


def read_result(directory: Path, held_out: str) -> dict[str, Any]:
    """Read the outcome of a finished run.

    Args:
        directory: The run's directory.
        held_out: What its held-out data are called: test or validation.

    Returns:
        A mapping with at least "parameters", "iterations", "best_epoch", "seconds", "solved", and
        "best_test_loss" or "best_validation_loss", a number or None.

    Raises:
        DamagedFileError: If `result.json` is not there, or damaged.
    """
    path = directory / RESULT
    result = read_json(path)
    counts = {"parameters": int, "iterations": int, "best_epoch": int}
    check_keys(path, result, {**counts, "seconds": float, "solved": bool})
    best = f"best_{held_out}_loss"
    if result.get(best, 0) is not None:
        check_keys(path, result, {best: float})
    return result


def read_table(path: Path, kinds: Mapping[str, type]) -> "pd.DataFrame":
    """Read a table of numbers.

    Args:
        path: The file.
        kinds: The columns that it has at least, each with int for whole numbers that grow from
            row to row, or float for any numbers, NaN and infinity among them.

    Returns:
        The table, of at least one row.

    Raises:
        DamagedFileError: If the file cannot be read, holds no such table, or rows of other lengths.
    """
    import pandas as pd  # noqa: PLC0415 - takes a second, which the names of files need not

    header, *_ = _rows(path)
    try:
        table = pd.read_csv(io.StringIO(_read_text(path, "a table")), index_col=False)
    except (ValueError, OverflowError) as error:
        raise DamagedFileError(path, "a table", f"none: {error}") from error
    for wanted in kinds:
        if wanted not in header:
            raise DamagedFileError(path, f"a column {wanted}", f"only {', '.join(header)}")
    for column, values in table.items():
        if values.dtype.kind not in "if":
            raise DamagedFileError(path, f"numbers in column {column}", "other values")
        grows = values.dtype.kind == "i" and values.min() > 0 and values.is_monotonic_increasing
        if kinds.get(str(column)) is int and not (grows and values.is_unique):
            raise DamagedFileError(path, f"growing whole numbers in column {column}", "other ones")
    return table


def _rows(path: Path) -> list[list[str]]:
    """Return the texts of a table, the header first."""
    text = _read_text(path, "a table")
    if not text.strip():
        raise DamagedFileError(path, "a table", "an empty file")
    if not text.endswith("\n"):
        raise DamagedFileError(path, "a table", "one whose last line is cut off")
    try:
        rows = list(csv.reader(io.StringIO(text), strict=True))
    except csv.Error as error:
        raise DamagedFileError(path, "a table", f"none: {error}") from error
    if len(rows) == 1:
        raise DamagedFileError(path, "a table", "a header without rows")
    for line, row in enumerate(rows, start=1):
        if len(row) != len(rows[0]):
            raise DamagedFileError(
                path, f"{len(rows[0])} values in each line", f"{len(row)} in line {line}"
            )
    return rows
