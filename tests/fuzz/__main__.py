"""``python -m tests.fuzz``: generate calls, make them in processes of their own, and count.

A worker announces each call before it makes it, so that the one in which it crashed is known.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Timer
from typing import Any

import torch

import brc_pytorch.ops
from tests.fuzz.call import Call
from tests.fuzz.check import check
from tests.fuzz.draw import draw

ROOT = Path(__file__).parents[2]
GOOD = ("right", "refused")
_CALLS_OF_WORKER = 2500
_SECONDS_OF_WORKER = 1800


def make(call: Call) -> str:
    """Make a call; return ``"right"``, ``"refused"``, or what is wrong with it."""
    try:
        return check(call)
    except Exception as error:  # noqa: BLE001 - whatever else comes out of a call is a failure
        where = traceback.extract_tb(error.__traceback__)[-1]
        first = " ".join(str(error).split())[:300]
        return f"{type(error).__name__}: {first} ({Path(where.filename).name}:{where.lineno})"


def prepare() -> None:
    """Set this process up for calls."""
    warnings.simplefilter("ignore")  # what torch says of its own experimental parts
    # New memory holds NaN, so that an element that nobody wrote shows.
    torch.use_deterministic_algorithms(mode=True)
    torch.set_num_threads(1)  # where the call itself does not say how many


def work(seed: int, numbers: Sequence[int]) -> None:
    """Make calls; write each one's number before it and its outcome after it."""
    prepare()
    for number in numbers:
        print(number, end=" ", flush=True)
        print(make(draw(seed, number)), flush=True)


@dataclass
class Outcomes:
    """What became of the calls of some workers."""

    good: Counter[str] = field(default_factory=Counter)
    bad: dict[int, str] = field(default_factory=dict)


def run_workers(command: Sequence[str], start: int, stop: int) -> Outcomes:
    """Make the calls from ``start`` to ``stop`` in a worker, and in a new one after each crash.

    Args:
        command: a worker; the two numbers are appended to it.
        start: the first call.
        stop: the one after the last.
    """
    found = Outcomes()
    # A thread that waits for others must not keep a processor busy that they need.
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    while start < stop:
        worker = subprocess.Popen(  # noqa: S603 - our own command
            [*command, str(start), str(stop)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        timer = Timer(_SECONDS_OF_WORKER, worker.kill)
        timer.start()
        printed, errors = worker.communicate()
        timer.cancel()
        outcome = ""
        for line in printed.splitlines():
            number, _, outcome = line.partition(" ")
            start = int(number) + 1
            if outcome in GOOD:
                found.good[outcome] += 1
            elif outcome:
                found.bad[int(number)] = outcome
        if worker.returncode == 0:
            break
        if outcome or not printed:
            raise RuntimeError(f"a worker ended between two calls:\n{errors[-2000:]}")
        found.bad[start - 1] = f"{_end(worker.returncode)} {errors.strip()[-300:]}"
    return found


def _end(returncode: int) -> str:
    if returncode >= 0:
        return f"the process ended with status {returncode}"
    return f"the process was ended by {signal.Signals(-returncode).name}"


def _chunks(calls: int) -> Iterator[tuple[int, int]]:
    for start in range(0, calls, _CALLS_OF_WORKER):
        yield start, min(start + _CALLS_OF_WORKER, calls)


def fuzz(seed: int, calls: int, jobs: int) -> dict[str, Any]:
    """Make calls and return the figures, printing each failure as it is found."""
    command = [sys.executable, "-m", "tests.fuzz", "--seed", str(seed), "--work"]
    began = time.monotonic()
    total = Outcomes()
    with ThreadPoolExecutor(jobs) as pool:
        for found in pool.map(lambda chunk: run_workers(command, *chunk), _chunks(calls)):
            total.good += found.good
            total.bad |= found.bad
            for number, outcome in found.bad.items():
                print(
                    f"{number}: {outcome}\n  python -m tests.fuzz --call '{draw(seed, number)}'",
                    flush=True,
                )
    kinds = Counter((call.subject, call.way) for call in (draw(seed, n) for n in range(calls)))
    subjects, ways = Counter[str](), Counter[str]()
    for (subject, way), count in kinds.items():
        subjects[subject] += count
        ways[way] += count
    return {
        "calls": calls,
        "seed": seed,
        "right": total.good["right"],
        "refused": total.good["refused"],
        "failures": {str(draw(seed, number)): text for number, text in total.bad.items()},
        "seconds": round(time.monotonic() - began),
        "subjects": dict(subjects.most_common()),
        "ways": dict(ways.most_common()),
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "python": platform.python_version(),
            "torch": torch.__version__,
            "instruction sets": brc_pytorch.ops.cpu.instruction_sets(),
        },
    }


def summary(figures: dict[str, Any]) -> str:
    """The figures in a line, as the page on testing shows them."""
    return (
        f"{figures['calls']} calls in {figures['seconds']} s: {figures['right']} right, "
        f"{figures['refused']} refused as they should be, {len(figures['failures'])} failures"
    )


def main() -> int:
    """Run the command line; return 1 if a call failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--calls", type=int, default=2000, help="how many calls")
    parser.add_argument("--seed", type=int, default=0, help="the seed of their sequence")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="workers at a time")
    parser.add_argument("--output", type=Path, help="write the figures to this JSON file")
    parser.add_argument("--call", type=Call.read, help="make this call alone, here")
    parser.add_argument("--work", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.seed, range(*options.work))
        return 0
    if options.call:
        prepare()
        print(check(options.call))
        return 0
    figures = fuzz(options.seed, options.calls, options.jobs)
    if options.output:
        options.output.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(summary(figures))
    return bool(figures["failures"])


if __name__ == "__main__":
    sys.exit(main())
