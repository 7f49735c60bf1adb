"""The picture of a value that is held."""

import pytest
import torch

from brc_pytorch.experiments.networks import load_network
from brc_pytorch.experiments.show.networks import task_of
from brc_pytorch.experiments.show.results import read_run
from tests.scripts import load_script


@pytest.fixture
def script():
    return load_script("docs/results/held_value.py")


@torch.no_grad()
def test_lines_end_where_the_network_s_predictions_are(script, copying):
    runs = [copying / f"{cell}-length4-layers1-seed0" for cell in ("GRU", "nBRC")]
    figure = script.draw(runs)
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    assert titles == [script.TITLES["GRU"], "nBRC"]
    for axis, directory in zip(figure.axes, runs, strict=True):
        inputs, targets = task_of(read_run(directory)).data(0, 4)[1][torch.arange(10)]
        predictions = load_network(directory)(inputs)
        lines, marks = axis.get_lines()[::2], axis.get_lines()[1::2]
        assert len(lines) == len(marks) == len(script.NUMBERS)
        for line, mark, wanted in zip(lines, marks, script.NUMBERS, strict=True):
            place = (targets[:, 0] - wanted).abs().argmin()
            assert mark.get_ydata()[0] == pytest.approx(targets[place].item())
            assert line.get_xdata()[-1] == 4
            assert line.get_ydata()[-1] == pytest.approx(predictions[place].item(), abs=1e-5)
