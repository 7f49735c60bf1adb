"""The public names of sweeps, which `train` defines."""

from brc_pytorch.experiments.train.sweep import Outcome, sweep, sweep_all

__all__ = ["Outcome", "sweep", "sweep_all"]
