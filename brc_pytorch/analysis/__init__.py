"""What bistability does in a unit, a layer and a network: numbers, no pictures."""

from brc_pytorch.analysis.fixed_points import FixedPoints, bistable_range, fixed_points
from brc_pytorch.analysis.hysteresis import Hysteresis, bifurcation, hysteresis
from brc_pytorch.analysis.memory import memory_curve
from brc_pytorch.analysis.multistability import settle, soft_vaa, vaa, warmup
from brc_pytorch.analysis.network import bistable_share, stable_states

__all__ = [
    "FixedPoints",
    "Hysteresis",
    "bifurcation",
    "bistable_range",
    "bistable_share",
    "fixed_points",
    "hysteresis",
    "memory_curve",
    "settle",
    "soft_vaa",
    "stable_states",
    "vaa",
    "warmup",
]
