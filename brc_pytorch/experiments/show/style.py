"""How plots look: the colours of cells, and what all figures have in common."""

from collections.abc import Sequence
from typing import Any

# Okabe and Ito's colours, which colour-blind readers can tell apart, with dashes for prints in
# grey; a cell keeps its own in every plot, and cells of the user's own take what is left.
_CELL_STYLES: dict[str, tuple[str, Any]] = {
    "LSTM": ("#0072B2", (0, (5, 1.5))),
    "LSTM-forget": ("#332288", (0, (3, 1, 1, 1))),
    "LSTM-chrono": ("#882255", (0, (7, 2))),
    "GRU": ("#E69F00", (0, (2, 1))),
    "BRC": ("#D55E00", (0, (9, 1.5, 2, 1.5))),
    "BRC-switch": ("#661100", (0, (1, 1, 5, 1))),
    "nBRC": ("#009E73", "solid"),
    "RNN": ("#56B4E9", (0, (1, 1))),
    "PeepholeLSTM": ("#CC79A7", (0, (5, 1, 1, 1, 1, 1))),
}
_SPARE_COLOURS = ("#000000", "#7F7F7F", "#8C564B", "#9A8700")
GREY = "#333333"
STYLE: dict[Any, Any] = {
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.labelsize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E5E5E5",
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "svg.hashsalt": "brc",  # the same data give the same file
    "text.parse_math": False,  # a cell's name is no formula
}


def cell_styles(cells: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return how the line of each cell is drawn."""
    spare = iter(_SPARE_COLOURS)
    styles: dict[str, dict[str, Any]] = {}
    for place, cell in enumerate(reversed(cells)):
        colour, dashes = _CELL_STYLES.get(cell) or (next(spare, "#BBBBBB"), "solid")
        # Thin lines over thick ones: cells that learn all, or nothing, lie upon each other.
        styles[cell] = {"color": colour, "linestyle": dashes, "linewidth": 1.5 + 0.35 * place}
    return dict(reversed(styles.items()))
