"""Settings of a task: how they are declared, listed and checked."""

import difflib
from collections.abc import Iterable
from dataclasses import field, fields
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

if TYPE_CHECKING:
    from brc_pytorch.experiments.tasks.task import Task

Value = TypeVar("Value")


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint at the known name most like `name`, or at all of them if none is near."""
    names = {candidate.casefold(): candidate for candidate in known}
    close = difflib.get_close_matches(name.casefold(), names, n=1)
    return f"did you mean {names[close[0]]}?" if close else f"known are {', '.join(names.values())}"


def setting(
    default: Value,
    help: str,
    *,
    least: float = 1,
    choices: tuple[str, ...] = (),
    compared: tuple[Value, ...] = (),
    is_identity: bool = True,
) -> Value:
    """Declare a setting of a task: a field of its dataclass, and an option of its command.

    Args:
        default: Its default.
        help: What it is, in a sentence; for one of the task's dimensions, of its values.
        least: Least value of a number.
        choices: What a string may be, if not anything.
        compared: For one of the task's dimensions, the values that its command compares unless
            told otherwise.
        is_identity: Whether the result depends on it. If not, tasks and runs that differ in it
            alone are the same.
    """
    metadata = {"help": help, "least": least, "choices": choices, "compared": compared}
    return field(default=default, metadata=metadata, compare=is_identity)


def plural(dimension: str) -> str:
    """Return the name of a list of a dimension's values, as the command calls it."""
    return dimension if dimension.endswith("s") else f"{dimension}s"


def settings(task: "Task") -> dict[str, Any]:
    """Return all that the results of a task depend on, as plain data."""
    return {each.name: getattr(task, each.name) for each in fields(task) if each.compare}


def own_settings(task: "type[Task]") -> set[str]:
    """Return what runs of one experiment of a task may differ in."""
    return {"cell", "seed", "learning_rate", *task.dimensions}


# The types that a setting may have, in words.
_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a name"}


def check_type(name: str, value: object, kind: type) -> None:
    """Refuse a value that is not of a kind; a whole number is a number, too.

    Raises:
        ValueError: If it is not; the message has the name.
    """
    allowed = (int, float) if kind is float else kind
    if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{name}: expected {_KINDS[kind]}, got {value!r}")


def check_settings(task: "Task", **least: float) -> None:
    """Refuse a task with a setting of another type, below its least value, or not of its choices.

    Args:
        task: The task.
        least: Least values that depend on other settings.

    Raises:
        ValueError: If there is one; the message names it.
    """
    types = get_type_hints(type(task))
    for each in fields(task):
        value, kind = getattr(task, each.name), types[each.name]
        check_type(each.name, value, kind)
        limit = least.get(each.name, each.metadata["least"])
        if kind in (int, float) and not value >= limit:  # NaN is refused, too
            raise ValueError(f"{each.name}: expected {limit} or more, got {value}")
        choices = each.metadata["choices"]
        if choices and value not in choices:
            raise ValueError(f"{each.name}: expected {' or '.join(choices)}, got {value!r}")
