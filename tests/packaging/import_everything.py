"""Imports every module with none of the extras, and prints what those say that need one.

Any other that cannot be imported ends the program with its error. Installed packages that neither
this one nor torch asks for are hidden first. Run as a program, in a process of its own.
"""

import importlib
import re
import sys
from importlib import metadata
from pathlib import Path

OF_EXTRAS = r"brc_pytorch\.(experiments|interop\.(gymnasium|onnx|torchrl)|ops\.triton)\b"


def required(distribution: str) -> set[str]:
    """Return the distributions that one needs without extras, itself included."""
    found, waiting = set(), {distribution}
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        try:
            requirements = metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # of another platform
            continue
        found.add(name)
        waiting |= {
            re.match(r"[\w.-]+", requirement)[0]
            for requirement in requirements
            if not re.search(r";.*\bextra\b", requirement)
        } - found
    return found


class Hiding:
    """A finder that does not find some packages."""

    def __init__(self, finder, hidden: set[str]):
        self._finder, self._hidden = finder, hidden

    def find_spec(self, name, *where):
        hidden = name.partition(".")[0] in self._hidden
        return None if hidden else self._finder.find_spec(name, *where)

    def __getattr__(self, name):
        return getattr(self._finder, name)


def main() -> None:
    needed = required("brc-pytorch")
    hidden = {
        package
        for package, owners in metadata.packages_distributions().items()
        if needed.isdisjoint(re.sub(r"[-_.]+", "-", owner).lower() for owner in owners)
    }
    sys.meta_path[:] = [Hiding(finder, hidden) for finder in sys.meta_path]
    brc_pytorch = importlib.import_module("brc_pytorch")
    package = Path(brc_pytorch.__file__).parent
    for path in sorted(package.rglob("*.py")):
        module = ".".join(path.relative_to(package.parent).with_suffix("").parts)
        name = module.removesuffix(".__init__")
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if not re.match(OF_EXTRAS, name):
                raise
            print(f"{name}: {error}")  # noqa: T201 - this is its result


if __name__ == "__main__":
    main()
