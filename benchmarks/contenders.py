"""The networks that are compared: two layers each, with the same weights where they are the same.

Every network takes an input (T, B, I) and returns the output sequence and the last states.
"""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from cases import LAYERS
from torch import Tensor, nn

import brc_pytorch
from brc_pytorch import ops

Network = Callable[[Tensor], tuple[Tensor, Tensor]]


class Reference(nn.Module):
    """The looped reference with the weights of another network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, input: Tensor) -> tuple[Tensor, Tensor]:
        """Run the network without compiled kernels."""
        with ops.backend("reference"):
            output, last = self.network(input)
        return output, last


def our_networks(inputs: int, hidden: int) -> dict[str, nn.Module]:
    """BRC and NBRC, and each through the looped reference."""
    networks: dict[str, nn.Module] = {
        "nBRC": brc_pytorch.NBRC(inputs, hidden, LAYERS),
        "BRC": brc_pytorch.BRC(inputs, hidden, LAYERS),
    }
    return networks | {f"{name}, reference": Reference(net) for name, net in networks.items()}


def torch_networks(inputs: int, hidden: int) -> dict[str, nn.Module]:
    """What PyTorch itself offers."""
    return {"nn.GRU": nn.GRU(inputs, hidden, LAYERS), "nn.LSTM": nn.LSTM(inputs, hidden, LAYERS)}


def torch_networks_in_our_kernels(theirs: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """GRU and LSTM with the weights of torch's."""
    networks: dict[str, nn.Module] = {}
    for network_type in (brc_pytorch.GRU, brc_pytorch.LSTM):
        source = theirs[f"nn.{network_type.__name__}"]
        network = network_type(source.input_size, source.hidden_size, LAYERS)
        network.load_state_dict(source.state_dict())
        networks[network_type.__name__] = network
    return networks


def predecessors(folder: Path, ours: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """brc-pytorch 0.1.3, installed apart in a folder, with our weights.

    It has our import name: its modules are loaded in place of ours and then put aside.
    """
    own = {name: sys.modules.pop(name) for name in [*sys.modules] if _is_brc_pytorch(name)}
    finders = [*sys.meta_path]
    # An editable installation finds its package before any folder is looked into.
    sys.meta_path[:] = [finder for finder in finders if isinstance(finder, type)]
    sys.path.insert(0, str(folder))
    try:
        layers = importlib.import_module("brc_pytorch.layers")
    finally:
        sys.path.remove(str(folder))
        sys.meta_path[:] = finders
        for name in [*sys.modules]:
            if _is_brc_pytorch(name):
                del sys.modules[name]
        sys.modules.update(own)
    networks = {}
    for name, cell in (
        ("nBRC", layers.NeuromodulatedBistableRecurrentCell),
        ("BRC", layers.BistableRecurrentCell),
    ):
        cells = []
        for source in ours[name].cells:
            cells.append(cell(source.input_size, source.hidden_size))
            cells[-1].load_state_dict(source.state_dict())
        networks[f"{name}, brc-pytorch 0.1.3"] = layers.MultiLayerBase(
            name, cells, cells[0].output_dim, batch_first=False, return_sequences=True, device="cpu"
        )
    return networks


def _is_brc_pytorch(module: str) -> bool:
    return module.split(".", maxsplit=1)[0] == "brc_pytorch"


def torchrecurrent_networks(ours: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """The layers of torchrecurrent with our weights; its order is a, c, candidate, transposed."""
    module = importlib.import_module("torchrecurrent")
    networks = {}
    for name, layer in (("nBRC", module.NBR), ("BRC", module.BR)):
        network = layer(ours[name].cells[0].input_size, ours[name].hidden_size, LAYERS)
        for source, target in zip(ours[name].cells, network.cells, strict=True):
            with torch.no_grad():
                kernels = source.kernelr, source.kernelz, source.kernelh
                target.weight_ih.copy_(torch.cat([kernel.t() for kernel in kernels]))
                memories = source.memoryr.t(), source.memoryz.t()
                target.weight_hh.copy_(torch.cat(memories))
        networks[f"{name}, torchrecurrent 0.2.5"] = network
    return networks
