"""The baseline comparisons: train cells on the benchmark tasks, then tabulate, plot and report.

Needs the extra `brc_pytorch[experiments]`; the command is `brc`.
"""

from importlib.util import find_spec

_missing = [
    name
    for name in ("filelock", "jinja2", "lightning", "matplotlib", "pandas", "rich", "typer", "yaml")
    if not find_spec(name)
]
if _missing:
    raise ModuleNotFoundError(
        f"brc_pytorch.experiments needs {', '.join(_missing)}: "
        'pip install "brc_pytorch[experiments]"'
    )
