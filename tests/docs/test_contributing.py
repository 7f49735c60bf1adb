"""The contributor's guide names what there is."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
LIMITS = {"A new cell with kernels": 10, "A new backend": 6, "A new task": 5, "A new plot": 3}
NUMBERS = {3: "Three", 4: "Four", 5: "Five", 10: "Ten"}


def section(title):
    _, _, rest = GUIDE.partition(f"\n## {title}\n")
    assert rest, title
    return rest.partition("\n## ")[0]


@pytest.mark.parametrize(("title", "limit"), LIMITS.items())
def test_a_walk_through_lists_files_that_are_there_or_new(title, limit):
    text = section(title)
    listed = re.findall(r"^\d+\. `(.+?)`( \(new\))?:", text, re.MULTILINE)
    assert 0 < len(listed) <= limit
    assert f"\n{NUMBERS[len(listed)]} files" in text
    for path, new in listed:
        assert (ROOT / path).is_file() != bool(new), path


def test_folders_and_their_files_are_there():
    rows = re.findall(
        r"^\|[^|]*\| `(\S+?)` \| (.*) \|$", section("Where things live"), re.MULTILINE
    )
    assert len(rows) >= 6
    for folder, what in rows:
        assert (ROOT / folder).is_dir(), folder
        for name in re.findall(r"`(\w+(?:\.py)?)`", what):
            if name != "brc":  # the command
                assert (ROOT / folder / name).exists(), f"{folder}/{name}"


def test_commands_name_paths_that_are_there():
    for path in re.findall(r"(?:pytest|bash)[^#\n]*? ((?:tests|\.ci)/?[\w/.]+)", GUIDE):
        assert (ROOT / path).exists(), path
    targets = re.findall(
        r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE
    )
    for target in re.findall(r"make ([a-z-]+)", GUIDE):
        assert target in targets, target
