"""The units that tell parity."""

import pytest
import torch

from brc_pytorch.experiments.networks import load_network
from brc_pytorch.experiments.tasks import StateTrackingTask
from brc_pytorch.experiments.tasks.cells import recurrent_part
from brc_pytorch.experiments.train.run import Run
from brc_pytorch.experiments.train.training import train
from brc_pytorch.experiments.weights import write_weights
from tests.scripts import load_script


@pytest.fixture
def script():
    return load_script("docs/results/parity_units.py")


@pytest.fixture
def run(tmp_path):
    """A run whose unit 1 flips at each 1 and keeps its state at each 0; units 0 and 2 do not."""
    task = StateTrackingTask(
        problem="Z2",
        layers=1,
        hidden_size=3,
        length=2,
        epochs=1,
        train_size=4,
        validation_size=4,
        test_size=2,
        max_test_length=2,
    )
    directory = tmp_path / "BRC-seed7"
    train(Run(task, "BRC", 7), directory)
    network = load_network(directory, "last")
    (cell,) = recurrent_part(network).cells
    with torch.no_grad():
        cell.kernelz[:, 1] = torch.tensor([15.0, -15.0])
        cell.memoryz[1], cell.bz[1] = 0, 0
        cell.kernelr[:, 1] = 0
        cell.memoryr[1], cell.br[1] = -20, 10
        cell.kernelh[:, 1] = torch.tensor([0.0, 0.3])
    write_weights(directory / "last.pt", network.state_dict())
    return directory


def test_a_unit_that_flips_is_found(script, run):
    (found,) = script.parity_units(run)
    assert found.unit == 1
    assert found.feedback == -20
    # From 0, the first 1 leads to the lower state.
    assert found.odd == pytest.approx((0.29, 0.29), abs=0.01)
    assert found.even == pytest.approx((0.71, 0.71), abs=0.01)
    *_, line = script.table([str(run)])
    assert line == "| 7 | 1 | -20.0 | 0.29 to 0.29 | 0.71 to 0.71 |"
