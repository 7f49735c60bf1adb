"""The public name of opening a run's network, which `show` defines."""

from brc_pytorch.experiments.show.networks import load_network

__all__ = ["load_network"]
