"""What an import brings along, and that the core needs torch alone."""

import re
import subprocess
import sys
from pathlib import Path

NEW_MODULES = """
import sys
import torch
before = set(sys.modules)
import brc_pytorch
print(*(set(sys.modules) - before))
"""


def output_of(*arguments):
    """What a fresh interpreter prints."""
    command = [sys.executable, "-W", "ignore", *arguments]  # torch warns that there is no numpy
    result = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - ours
    return result.stdout


def test_beside_torch_an_import_loads_the_package_and_the_standard_library_alone():
    """Its time is then that of some small files: torch's compiler alone would take a second."""
    new = {name.partition(".")[0] for name in output_of("-c", NEW_MODULES).split()}
    assert new - sys.stdlib_module_names == {"brc_pytorch"}


def test_without_extras_all_imports_but_what_an_extra_is_for():
    refused = output_of(Path(__file__).with_name("import_everything.py"))
    assert re.search("^brc_pytorch.experiments: .*needs lightning", refused, re.MULTILINE)
    assert re.search("^brc_pytorch.interop.onnx: ", refused, re.MULTILINE)
