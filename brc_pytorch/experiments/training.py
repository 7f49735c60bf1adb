"""The public names of training, which `train` defines."""

from brc_pytorch.experiments.train.run import Progress, Run
from brc_pytorch.experiments.train.training import train

__all__ = ["Progress", "Run", "train"]
