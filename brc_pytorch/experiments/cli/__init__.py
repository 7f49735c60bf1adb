"""The command `brc`."""

from brc_pytorch.experiments.cli.app import app, main
from brc_pytorch.experiments.cli.output import console, errors

__all__ = ["app", "console", "errors", "main"]
