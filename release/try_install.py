"""Install the wheel of this machine in a fresh environment, in the place of 0.1.3, and use it.

Nothing is compiled: no compiler is on the PATH. A program written for 0.1.3 prints what it printed,
every module imports without extras, and a training step goes through the kernels. With --lowest
torch is the oldest that pyproject.toml allows, else the newest.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from build_wheels import ROOT

RELEASE = ROOT / "release"
ROUNDING = 2e-4  # of losses near 1, printed with four decimals


def main() -> None:
    """Try the wheel with the Python that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("python", help="its version, or the path of the program")
    parser.add_argument("--lowest", action="store_true", help="the oldest torch that is supported")
    parser.add_argument("--folder", type=Path, default=ROOT / "dist", help="default: %(default)s")
    arguments = parser.parse_args()
    (wheel,) = arguments.folder.absolute().glob("*-manylinux*_x86_64.whl")
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    oldest = re.search(r'"torch>=([\d.]+)"', pyproject)[1]
    torch = f"torch=={oldest}.*" if arguments.lowest else "torch"

    with tempfile.TemporaryDirectory() as name:
        environment = Path(name) / "environment"
        python = environment / "bin" / "python"
        uv = [sys.executable, "-m", "uv"]
        install = [*uv, "pip", "install", "--quiet", f"--python={python}"]
        venv = [*uv, "venv", "--quiet", f"--python={arguments.python}", environment]
        subprocess.run(venv, check=True)

        def run(*command: str | Path) -> str:
            """Return what a Python program prints in the environment, without a compiler."""
            variables = {"PATH": str(python.parent), "HOME": os.environ["HOME"]}
            result = subprocess.run(
                [python, *command],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
                cwd=name,
                env=variables,
            )
            return result.stdout.strip()

        version = "from importlib.metadata import version; print(version('brc_pytorch'))"
        program = RELEASE / "predecessor_program.py"
        # The wheel's own torch first, so that what comes later is the wheel alone.
        subprocess.run([*install, wheel, torch], check=True)
        subprocess.run([*install, "--no-deps", "brc-pytorch==0.1.3"], check=True)
        expect("before", run("-c", version), "0.1.3")
        before = run(program, name)

        start = time.perf_counter()
        subprocess.run([*install, "--no-deps", "--upgrade", wheel], check=True)
        installed = wheel.name.split("-")[1]
        expect("after", run("-c", version), installed)
        print(run(RELEASE / "first_step.py"))
        print(f"from pip install to the first step: {time.perf_counter() - start:.1f} s")
        for now, then in zip(run(program, name).split(), before.split(), strict=True):
            if now != then and abs(float(now) - float(then)) > ROUNDING:
                sys.exit(f"a program for 0.1.3 printed {then}, and now {now}")
        refused = run(ROOT / "tests" / "packaging" / "import_everything.py").splitlines()
        print(f"without extras all imports but {len(refused)} modules, which say what they need")


def expect(what: str, found: str, expected: str) -> None:
    """End the program unless ``found`` is as expected."""
    if found != expected:
        sys.exit(f"{what}: expected {expected}, got {found}")


if __name__ == "__main__":
    main()
