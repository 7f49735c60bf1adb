"""The kernels find what the processor can do, whichever compiler built them."""

from pathlib import Path

import pytest

from brc_pytorch.ops import cpu

CPUINFO = Path("/proc/cpuinfo")
# By instruction set, what Linux calls its parts.
PARTS = {
    "avx512": {"avx2", "fma", "avx512f", "avx512dq", "avx512bw", "avx512vl"},
    "avx2": {"avx2", "fma"},
    "baseline": set(),
}


@pytest.mark.skipif(not CPUINFO.exists(), reason="needs Linux, which lists what a processor has")
def test_all_that_the_processor_has_are_found_best_first():
    words = CPUINFO.read_text(encoding="utf-8").split()
    assert cpu.instruction_sets() == [name for name, parts in PARTS.items() if parts <= set(words)]
