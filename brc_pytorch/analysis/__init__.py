"""What bistability does in a unit, a layer and a network: numbers, no pictures."""

from brc_pytorch.analysis.fixed_points import FixedPoints, bistable_range, fixed_points
from brc_pytorch.analysis.memory import memory_curve
from brc_pytorch.analysis.multistability import settle, soft_vaa, vaa, warmup

__all__ = [
    "FixedPoints",
    "bistable_range",
    "fixed_points",
    "memory_curve",
    "settle",
    "soft_vaa",
    "vaa",
    "warmup",
]
