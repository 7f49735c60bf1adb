"""The machine that a run is trained on, and the command that it is part of."""

import datetime as dt
import os
import platform
import re
import shlex
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from brc_pytorch import ops


def choose_device(name: str) -> torch.device:
    """Turn "auto", "cpu", "cuda" or "cuda:1" into a device; "auto" is CUDA where there is one.

    Raises:
        ValueError: If the name is another one, or CUDA is asked for and not there.
    """
    check_device_name(name)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        name = "cuda" if count else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ValueError(
            f"device: expected a CUDA device for {name!r}, found {count or 'none'}; use cpu or auto"
        )
    return device


def check_device_name(name: str) -> None:
    """Refuse what names no device of any machine.

    Raises:
        ValueError: If the name is not one that `choose_device` knows.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise ValueError(f"device: expected auto, cpu, cuda or cuda:N, got {name!r}")


def command_line() -> str:
    """Return how this process was called, as a shell takes it, without the program's folder."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def describe_start(device: torch.device, flushes: bool, command: str) -> dict[str, Any]:
    """Describe the moment, the command, the versions and the machine of a start."""
    packages = ("brc_pytorch", "torch", "lightning", "numpy", "pandas")
    machine = {
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": device.type,
        "backend": ops.backend_for(device),
        "flushes denormals": flushes,
    }
    if device.type == "cuda":
        machine["gpu"] = torch.cuda.get_device_name(device)
    return {
        "time": dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds"),
        "command": command,
        "versions": {"python": platform.python_version(), **{p: version(p) for p in packages}},
        "machine": machine,
    }


def _processor() -> str:
    """Return the processor's name; on Linux the `platform` module knows only its family."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
