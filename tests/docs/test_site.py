"""The documentation site has a place for everything that is public."""

import importlib
import inspect
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
INTEROP = ROOT / "brc_pytorch" / "interop"
REFERENCE = [
    name
    for page in sorted((DOCS / "reference").glob("*.md"))
    for name in re.findall(
        r"^\.\. auto\w+:: (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE
    )
]


def public(module):
    """The names that a module offers: those it lists, or else those it defines."""
    if hasattr(module, "__all__"):
        return module.__all__
    return [
        name
        for name, thing in vars(module).items()
        if not name.startswith("_") and inspect.getmodule(thing) is module
    ]


@pytest.mark.parametrize(
    "name",
    [
        "brc_pytorch",
        "brc_pytorch.analysis",
        "brc_pytorch.datasets",
        "brc_pytorch.experiments.networks",
        "brc_pytorch.experiments.sweep",
        "brc_pytorch.experiments.training",
        "brc_pytorch.ops",
        *(f"brc_pytorch.interop.{path.stem}" for path in INTEROP.glob("[!_]*.py")),
    ],
)
def test_every_public_name_is_in_the_reference(name):
    names = public(importlib.import_module(name))
    assert names
    for each in names:
        assert REFERENCE.count(f"{name}.{each}") == 1, each
