"""Build the sdist and the wheels of all platforms, on one Linux machine.

Zig compiles for every platform (zig.cmake). The wheels come from the sdist, so that it is complete,
and hold no time but SOURCE_DATE_EPOCH and no path: built again, the files are the same bytes.
"""

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]

# The platform of a wheel, as in its name, and Zig's word for it.
TARGETS = {
    "manylinux_2_28_x86_64": "x86_64-linux-gnu.2.28",
    "manylinux_2_28_aarch64": "aarch64-linux-gnu.2.28",
    "musllinux_1_2_x86_64": "x86_64-linux-musl",
    "macosx_11_0_arm64": "aarch64-macos.11.0",
    "macosx_11_0_x86_64": "x86_64-macos.11.0",
    "win_amd64": "x86_64-windows-gnu",
}


def environment(platform: str | None = None) -> dict[str, str]:
    """Return the environment of a build: for this machine, or with Zig for a platform."""
    variables = dict(os.environ)
    if "SOURCE_DATE_EPOCH" not in variables:  # the time of the last commit
        last_commit = ["git", "-C", ROOT, "log", "-1", "--format=%ct"]
        time = subprocess.run(last_commit, check=True, capture_output=True, text=True).stdout
        variables["SOURCE_DATE_EPOCH"] = time.strip()
    if platform:
        variables |= {
            "CMAKE_TOOLCHAIN_FILE": str(ROOT / "release" / "zig.cmake"),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{variables['PATH']}",
            "ZIG_TARGET": TARGETS[platform],
            "_PYTHON_HOST_PLATFORM": platform,  # scikit-build-core names the wheel after it
        }
    return variables


def build(source: Path, output: Path, kind: str, platform: str | None = None) -> None:
    """Build the sdist or a wheel from ``source`` into ``output``."""
    command = [sys.executable, "-m", "build", f"--{kind}", "--no-isolation", f"--outdir={output}"]
    subprocess.run([*command, source], check=True, env=environment(platform))


def main() -> None:
    """Build what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="default: %(default)s")
    parser.add_argument("platforms", nargs="*", metavar="PLATFORM", help=f"of {', '.join(TARGETS)}")
    arguments = parser.parse_args()
    if unknown := set(arguments.platforms) - set(TARGETS):
        parser.error(f"PLATFORM: expected some of {', '.join(TARGETS)}, got {', '.join(unknown)}")
    output = arguments.output.absolute()
    for old in [*output.glob("*.whl"), *output.glob("*.tar.gz")]:
        old.unlink()

    build(ROOT, output, "sdist")
    (sdist,) = output.glob("*.tar.gz")
    with tempfile.TemporaryDirectory() as folder, tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
        for platform in arguments.platforms or TARGETS:
            build(Path(folder) / sdist.name.removesuffix(".tar.gz"), output, "wheel", platform)


if __name__ == "__main__":
    main()
