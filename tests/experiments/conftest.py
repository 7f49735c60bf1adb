import json
import sys

import pytest
import torch

OWN_CELLS = '''
import torch
from torch import nn


class Plain(nn.Module):
    """One tensor as its state, random numbers of its own, and nothing that tells its state."""

    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.cell = nn.RNNCell(input_size, hidden_size)

    def forward(self, input_t, h):
        return nn.functional.dropout(self.cell(input_t, h), 0.2, self.training)


class Pair(nn.Module):
    """A pair as its state, which only a step shows."""

    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.cell = nn.LSTMCell(input_size, hidden_size)

    def forward(self, input_t, state):
        h, c = state
        return self.cell(input_t, (h, c))


class Broken(nn.Module):
    def __init__(self, input_size, hidden_size):
        super().__init__()
        raise RuntimeError("this cell cannot be built")


not_a_class = 3
'''


@pytest.fixture
def own_cells(tmp_path, monkeypatch):
    """A module `own_cells` of the user's own, importable."""
    (tmp_path / "own_cells.py").write_text(OWN_CELLS)
    monkeypatch.syspath_prepend(tmp_path)
    yield "own_cells"
    sys.modules.pop("own_cells", None)


@pytest.fixture(autouse=True)
def _one_thread():
    """Results repeat bit for bit with the same number of threads, in any process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def outcome():
    """A function that reads all that a run leaves, apart from the moment and the time it took."""

    def read(directory):
        files = {}
        for path in directory.iterdir():
            if path.suffix == ".csv":
                files[path.name] = path.read_text()
            elif path.suffix == ".pt":
                weights = torch.load(path, weights_only=True)
                files[path.name] = {key: value.tolist() for key, value in weights.items()}
            elif path.name == "result.json":
                result = json.loads(path.read_text())
                files[path.name] = {**result, "seconds": None, "time": None}
        assert "result.json" in files
        return files

    return read
