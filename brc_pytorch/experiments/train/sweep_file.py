"""Sweeps written down in a TOML or YAML file.

Each table of the file is an experiment, and its name that of the experiment's folder:

    [copying]
    task = "copy-first-input"
    cells = ["GRU", "nBRC"]
    seeds = [0, 1, 2]
    length = [5, 100]    # a dimension of the task: one value, or a list to sweep over
    epochs = 12          # any other setting of the task: one value
    learning_rates = [3e-4, 1e-3]    # each cell's is chosen from these on validation data
"""

import itertools
import re
import sys
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from brc_pytorch.experiments.tasks import TASKS, Task, known_cell, nearest
from brc_pytorch.experiments.tasks.settings import check_type
from brc_pytorch.experiments.train.run import Run

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_REQUIRED = ("task", "cells", "seeds")
_GRID = "learning_rates"
_NO_SETTINGS = (*_REQUIRED, _GRID)


def read_sweep(path: Path) -> dict[str, list[Run]]:
    """Read the experiments of a file, each with its runs.

    Args:
        path: A file whose name ends in .toml, .yaml or .yml.

    Returns:
        The runs by the name of their experiment, seed by seed, so that a first comparison of all
        cells is there early.

    Raises:
        ValueError: If the file cannot be read, or holds what no sweep has; the message names the
            file and the key, what was expected and what came.
    """
    content = _read(path)
    if not content:
        raise ValueError(f"{path}: expected at least one experiment, got an empty file")
    experiments = {}
    for name, table in content.items():
        if not isinstance(table, dict):
            raise ValueError(  # noqa: TRY004 - the file is wrong, not the call
                f"{path}: {name}: expected a table, the settings of an experiment of that name, "
                f"got {table!r}"
            )
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w. -]*", name):
            raise ValueError(
                f"{path}: {name}: expected the name of a folder, of letters, digits and _ - ., "
                f"got {name!r}"
            )
        try:
            experiments[name] = _runs(table)
        except ValueError as error:
            raise ValueError(f"{path}: {name}: {error}") from error
    return experiments


def read_grids(path: Path) -> dict[str, list[float]]:
    """Read the learning rates to choose from, of those experiments of a file that have any.

    Args:
        path: A file that `read_sweep` reads.

    Returns:
        The rates by the name of their experiment.

    Raises:
        ValueError: If `read_sweep` refuses the file.
    """
    return {
        name: [*map(float, _values(_GRID, table[_GRID], float))]
        for name, table in _read(path).items()
        if _GRID in table
    }


def _read(path: Path) -> dict[Any, Any]:
    """Read a mapping from a TOML or YAML file.

    Raises:
        ValueError: If it is not there, is in neither format, or is no mapping.
    """
    kinds = {".toml": "TOML", ".yaml": "YAML", ".yml": "YAML"}
    kind = kinds.get(path.suffix.lower())
    if kind is None:
        raise ValueError(f"{path}: expected a name that ends in {', '.join(kinds)}")
    try:
        text = path.read_text(encoding="utf-8")
        content = tomllib.loads(text) if kind == "TOML" else _parse_yaml(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"{path}: expected a {kind} file, which this is not: {reason}") from error
    if content is None:  # an empty YAML file
        return {}
    if not isinstance(content, dict):
        raise ValueError(  # noqa: TRY004 - the file is wrong, not the call
            f"{path}: expected experiments by their names, got {content!r}"
        )
    return content


def _parse_yaml(text: str) -> Any:  # noqa: ANN401 - whatever the file holds
    """Parse YAML as plain data.

    Raises:
        ValueError: If a key stands twice in a mapping; YAML itself would drop the first.
    """
    root = yaml.compose(text, yaml.SafeLoader)
    tables = [value for _, value in root.value] if isinstance(root, yaml.MappingNode) else []
    for node in (root, *tables):
        seen = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise ValueError(f"{key.value!r} stands twice,{key.start_mark}")
                seen.add(key.value)
    return yaml.safe_load(text)


def _runs(table: dict[str, Any]) -> list[Run]:
    """Make the runs of an experiment.

    Raises:
        ValueError: If a key is missing or unknown, or a value is not of its kind.
    """
    missing = [key for key in _REQUIRED if key not in table]
    if missing:
        raise ValueError(f"expected {', '.join(_REQUIRED)}, got no {' and no '.join(missing)}")
    name = table["task"]
    if not isinstance(name, str) or name not in TASKS:
        raise ValueError(f"task: expected a known task, got {name!r}; {nearest(str(name), TASKS)}")
    task = TASKS[name]
    # What a task's fields are called and of which type is all that is asked of it here.
    hints = get_type_hints(task)
    fields = {key: hints[key] for key in task.__dataclass_fields__}
    for key in table:
        if key not in {*_NO_SETTINGS, *fields}:
            raise ValueError(
                f"{key}: expected a setting of {name}, got an unknown one; "
                f"{nearest(str(key), [*_NO_SETTINGS, *fields])}"
            )
    cells = [known_cell(cell) for cell in _values("cells", table["cells"], str)]
    seeds = _values("seeds", table["seeds"], int)
    if _GRID in table:
        _values(_GRID, table[_GRID], float)
    lists = {}
    for key in [key for key in table if key not in _NO_SETTINGS]:
        value = table[key]
        if isinstance(value, list) and key not in task.dimensions:
            raise ValueError(
                f"{key}: expected one value, got the list {value!r}; the runs of one experiment "
                f"of {name} may differ in {', '.join(task.dimensions)}; for other values of "
                f"{key} make another experiment"
            )
        lists[key] = _values(key, value, fields[key])
    tasks = _tasks(task, lists)
    return [Run(task, cell, seed) for seed, task, cell in itertools.product(seeds, tasks, cells)]


def _tasks(task: type[Task], lists: dict[str, list[Any]]) -> list[Task]:
    """Make a task of each combination of values, in the order of the task's dimensions."""
    keys = sorted(lists, key=[*task.dimensions, *lists].index)
    combinations = itertools.product(*(lists[key] for key in keys))
    return [task(**dict(zip(keys, values, strict=True))) for values in combinations]


def _values(key: str, value: Any, kind: type) -> list[Any]:  # noqa: ANN401 - checked here
    """Return the values of a list, or of a single value, without repeats.

    Raises:
        ValueError: If there are none, or one is not of the kind.
    """
    values = value if isinstance(value, list) else [value]
    if not values:
        raise ValueError(f"{key}: expected at least one, got an empty list")
    for item in values:
        if kind is float and isinstance(item, str) and re.fullmatch(r"[\d.]+e[+-]?\d+", item):
            raise ValueError(
                f"{key}: expected a number, got {item!r}; YAML takes a number with an exponent "
                "for text unless it has a dot: 1.0e-3"
            )
        check_type(key, item, kind)
    return list(dict.fromkeys(values))
