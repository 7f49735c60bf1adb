"""Check what build_wheels.py built, without running it.

Every wheel is for its platform, holds its licence and the kernels, shows the C interface alone and
needs the C library alone. The kernels for ARM multiply and add whole vectors in one instruction.
"""

import argparse
import os
import re
import subprocess
import sys
import tarfile
from email import message_from_bytes
from pathlib import Path
from zipfile import ZipFile

import capstone
import lief
from build_wheels import ROOT, TARGETS

# What is part of the C library, by the platform's first word.
C_LIBRARY = {
    "manylinux": r"(libc|libm|libdl|libpthread|librt)\.so\.\d|ld-linux-(x86-64|aarch64)\.so\.\d",
    "musllinux": r"libc\.so",
    "macosx": r"/usr/lib/libSystem\.B\.dylib",
    "win": r"(?i:api-ms-win-crt-\w+-l1-1-0|kernel32|ntdll)\.dll",
}
# Zig's linker for macOS hides neither C++'s new and delete nor the file's header.
SHOWN_ON_MACOS = r"__Z[nd][aw].*|__Zdl.*|__mh_dylib_header|___dso_handle"


def expect(what: str, found: object, expected: object) -> None:
    """End the program unless ``found`` is as expected."""
    if found != expected:
        sys.exit(f"{what}: expected {expected}, got {found}")


def c_interface() -> set[str]:
    """Return the functions that the headers declare."""
    headers = "".join(path.read_text() for path in ROOT.glob("csrc/**/*.h"))
    return set(re.findall(r"^BRC_API [^(]*?(\w+)\(", headers, re.MULTILINE))


def vector_fmas(code: bytes) -> int:
    """Count the fused multiply-adds of four floats or two doubles in ARM's machine code."""
    disassembler = capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_ARM)
    disassembler.skipdata = True
    return sum(
        name in {"fmla", "fmls"} and re.match(r"v\d+\.(4s|2d)", operands) is not None
        for _, _, name, operands in disassembler.disasm_lite(code, 0)
    )


def check_library(content: bytes, platform: str) -> None:
    """Check the kernels of one platform."""
    library = lief.parse(content)
    general = library.abstract
    on_arm = platform.endswith(("aarch64", "arm64"))
    architecture = lief.Header.ARCHITECTURES.ARM64 if on_arm else lief.Header.ARCHITECTURES.X86_64
    expect(f"{platform}: architecture", general.header.architecture, architecture)

    shown = {function.name for function in general.exported_functions}
    needed = set(general.libraries)
    code = ".text"
    if isinstance(library, lief.MachO.Binary):
        shown = {name.removeprefix("_") for name in shown if not re.fullmatch(SHOWN_ON_MACOS, name)}
        needed = {lib.name for lib in library.libraries if lib.command.name == "LOAD_DYLIB"}
        code = "__text"
        wanted = [int(number) for number in platform.split("_")[1:3]]
        expect(f"{platform}: oldest macOS", library.build_version.minos[:2], wanted)
        if on_arm:  # which runs nothing that is not signed
            expect(f"{platform}: signed", library.has_code_signature, expected=True)
    expect(f"{platform}: functions shown", shown, c_interface())
    pattern = C_LIBRARY[re.match("[a-z]+", platform)[0]]
    others = {name for name in needed if not re.fullmatch(pattern, name)}
    expect(f"{platform}: libraries needed beside C's", others, set())
    if on_arm:
        fmas = vector_fmas(bytes(library.get_section(code).content))
        expect(f"{platform}: vector multiply-adds ({fmas})", fmas > 0, expected=True)
    print(f"{platform}: shows {sorted(shown)}, needs {sorted(needed)}")


def check_wheel(path: Path, platform: str) -> None:
    """Check a wheel's tag, metadata and files, then its kernels."""
    with ZipFile(path) as wheel:
        files = {name: wheel.read(name) for name in wheel.namelist()}
    (folder,) = {name.split("/")[0] for name in files if ".dist-info/" in name}
    description = message_from_bytes(files[f"{folder}/WHEEL"])
    expect(f"{path.name}: tag", description.get_all("Tag"), [f"py3-none-{platform}"])
    licence = files.get(f"{folder}/licenses/LICENSE")
    expect(f"{path.name}: licence", licence, (ROOT / "LICENSE").read_bytes())
    others = {name for name in files if not name.startswith(("brc_pytorch/", folder))}
    expect(f"{path.name}: files outside the package", others, set())
    expect(f"{path.name}: typed", "brc_pytorch/py.typed" in files, expected=True)
    libraries = [name for name in files if re.search(r"brc_cpu\.(so|dylib|dll)$", name)]
    expect(f"{path.name}: libraries", len(libraries), 1)
    content = files[libraries[0]]
    for home in (os.fsencode(ROOT), os.fsencode(Path.home()), b"/tmp/"):
        expect(f"{path.name}: holds the path {home!r}", home in content, expected=False)
    check_library(content, platform)


def check_with_auditwheel(path: Path, platform: str) -> None:
    """Ask auditwheel whether a Linux wheel may carry its tag."""
    command = [sys.executable, "-m", "auditwheel", "show", path]
    report = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    words = " ".join(report.split())
    consistent = re.search(r'platform tag: "(\w+)"', words)
    least = consistent[1] if consistent else f"none: {words}"
    version = r"_(\d+)_(\d+)_"
    numbers = [re.search(version, tag) for tag in (least, platform)]
    allowed = all(numbers) and [int(n) for n in numbers[0].groups()] <= [
        int(n) for n in numbers[1].groups()
    ]
    expect(f"{path.name}: auditwheel says {least}", allowed, expected=True)
    print(f"{platform}: auditwheel says {least}")


def main() -> None:
    """Check the folder that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / "dist")
    parser.add_argument("platforms", nargs="*", metavar="PLATFORM", default=TARGETS)
    arguments = parser.parse_args()
    (sdist,) = arguments.folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for name in ("LICENSE", "PKG-INFO", "CMakeLists.txt", "brc_pytorch/py.typed"):
        expect(f"{sdist.name}: holds {name}", name in names, expected=True)
    for platform in arguments.platforms:
        wheels = sorted(arguments.folder.glob(f"*-{platform}.whl"))
        expect(f"wheels for {platform} in {arguments.folder}", len(wheels), 1)
        check_wheel(wheels[0], platform)
        if platform.startswith("manylinux"):  # musl needs a machine with musl
            check_with_auditwheel(wheels[0], platform)


if __name__ == "__main__":
    main()
