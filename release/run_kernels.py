"""Run the kernels of the built wheels, and the kernels' own tests, wherever this machine can.

ARM runs under qemu, Windows under wine, musl with its own loader; macOS cannot be run on Linux.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from zipfile import ZipFile

from build_wheels import ROOT, TARGETS, environment

# What runs a program of each platform on x86-64 Linux, and the Debian package that brings it.
RUNNERS = {
    "manylinux_2_28_x86_64": ([], None),
    "manylinux_2_28_aarch64": (
        ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu"],
        "qemu-user libc6-arm64-cross",
    ),
    "musllinux_1_2_x86_64": ([], "musl"),
    "win_amd64": (["wine"], "wine64"),
}
# Of many cases of the tests one in so many is run: an emulated processor is slow.
EVERY = {"manylinux_2_28_aarch64": "13"}


def expected_sets(platform: str) -> str:
    """Return the instruction sets that the kernels should find on this processor."""
    flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    names = ["baseline"]
    if not platform.endswith("aarch64") and {"avx2", "fma"} <= flags:
        names.insert(0, "avx2")
        if {"avx512f", "avx512dq", "avx512bw", "avx512vl"} <= flags:
            names.insert(0, "avx512")
    return ",".join(names)


def run(platform: str, *command: str | Path) -> str:
    """Run a program of a platform, and return what it printed."""
    runner, package = RUNNERS[platform]
    try:
        result = subprocess.run([*runner, *command], check=False, capture_output=True, text=True)
    except FileNotFoundError:  # of the runner, or of the loader that the program names
        sys.exit(f"{platform}: nothing here runs it; Debian has what does in: {package}")
    if result.returncode:
        sys.exit(f"{platform}: {command[0]} failed\n{result.stdout}{result.stderr}")
    return result.stdout.strip()


def test_program(platform: str) -> Path:
    """Build the kernels' own tests for a platform."""
    folder = ROOT / "build" / "release" / platform
    cmake = f"cmake -S {ROOT} -B {folder} -G Ninja -DBRC_TESTS=ON"
    variables = environment(platform)
    subprocess.run(cmake.split(), check=True, env=variables)
    build = ["cmake", "--build", folder, "--target", "brc_tests"]
    subprocess.run(build, check=True, env=variables)
    return folder / ("brc_tests.exe" if platform.startswith("win") else "brc_tests")


def loader(platform: str, folder: Path) -> Path:
    """Build the program that loads the kernels of a wheel."""
    program = folder / "load.exe"
    source = ROOT / "release" / "load.cpp"
    zig = [sys.executable, "-m", "ziglang", "c++", "-target", TARGETS[platform]]
    dynamic = ["-dynamic"] if "musl" in platform else []  # by default it holds the C library
    subprocess.run([*zig, *dynamic, "-O2", source, "-o", program], check=True)
    return program


def main() -> None:
    """Run all that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / "dist")
    parser.add_argument("platforms", nargs="*", metavar="PLATFORM", default=RUNNERS)
    arguments = parser.parse_args()
    for platform in arguments.platforms:
        (path,) = arguments.folder.glob(f"*-{platform}.whl")
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            with ZipFile(path) as wheel:
                (library,) = (n for n in wheel.namelist() if re.search(r"brc_cpu\.\w+$", n))
                kernels = wheel.extract(library, folder)
            found = run(platform, loader(platform, folder), kernels)
        if found != expected_sets(platform):
            sys.exit(f"{path.name}: expected {expected_sets(platform)}, got {found}")
        print(f"{path.name} loads: {found}")
        results = run(platform, test_program(platform), "--every", EVERY.get(platform, "1"))
        print(f"{platform}: {'; '.join(results.splitlines())}")


if __name__ == "__main__":
    main()
