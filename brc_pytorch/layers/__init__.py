"""Floor 2: the cells as modules, and networks made of any cell."""

from brc_pytorch.layers.brc_layer import BistableRecurrentCell
from brc_pytorch.layers.check_cell import check_cell
from brc_pytorch.layers.double import DoubleCell
from brc_pytorch.layers.multilayer_rnnbase import MultiLayerBase
from brc_pytorch.layers.neuromodulated_brc_layer import NeuromodulatedBistableRecurrentCell
from brc_pytorch.layers.peephole_lstm import PeepholeLSTMCell
from brc_pytorch.layers.rnn import BRC, NBRC
from brc_pytorch.layers.select_item import SelectItem
from brc_pytorch.layers.torch_networks import GRU, LSTM

__all__ = [
    "BRC",
    "GRU",
    "LSTM",
    "NBRC",
    "BistableRecurrentCell",
    "DoubleCell",
    "MultiLayerBase",
    "NeuromodulatedBistableRecurrentCell",
    "PeepholeLSTMCell",
    "SelectItem",
    "check_cell",
]
