import dataclasses
import io

import pandas as pd
import pytest
from matplotlib.colors import to_hex
from rich.console import Console

from brc_pytorch.experiments import report
from brc_pytorch.experiments.sweep import sweep
from brc_pytorch.experiments.tasks import BinaryAdditionTask, CopyFirstInputTask
from brc_pytorch.experiments.training import Run

COPY = CopyFirstInputTask(
    length=4, layers=1, hidden_size=4, train_size=1000, test_size=10, batch_size=10, epochs=1
)
ADD = BinaryAdditionTask(
    hidden_size=4,
    min_length=3,
    max_length=4,
    epochs_per_length=1,
    train_size=20,
    validation_size=10,
    batch_size=10,
    test_size=40,
    max_test_length=6,
)


@pytest.fixture(scope="module")
def copying(tmp_path_factory):
    directory = tmp_path_factory.mktemp("copying")
    tasks = [COPY, dataclasses.replace(COPY, length=7)]
    sweep([Run(task, cell, 0) for task in tasks for cell in ("nBRC", "GRU")], directory)
    return directory


@pytest.fixture(scope="module")
def adding(tmp_path_factory):
    directory = tmp_path_factory.mktemp("adding")
    tasks = [ADD, dataclasses.replace(ADD, layers=2)]
    sweep(
        [Run(task, cell, seed) for task in tasks for cell in ("GRU", "BRC") for seed in (0, 1, 2)],
        directory,
    )
    return directory


def text(directory):
    console = Console(file=io.StringIO(), width=100)
    console.print(report.table(directory))
    return console.file.getvalue()


def lines(axis):
    """The drawn lines, by colour and style, without the marks."""
    return {
        (to_hex(line.get_color()).upper(), line.get_linestyle()): line
        for line in axis.get_lines()
        if len(line.get_xdata()) > 2
    }


def test_training_loss_is_smoothed_by_the_predecessor_s_windows(copying):
    figure = report.draw_training_loss(report.read_experiment(copying))
    (axis,) = figure.axes
    drawn = lines(axis)
    assert len(drawn) == 4
    for length, style, window in ((7, "-", 100), (4, "--", 20)):
        losses = pd.read_csv(copying / f"GRU-length{length}-layers1-seed0/training.csv")["loss"]
        line = drawn["#E69F00", style]
        assert line.get_xdata().tolist() == list(range(1, 101))
        expected = [losses[max(0, i - window) : i].mean() for i in range(1, 101)]
        assert line.get_ydata().tolist() == pytest.approx(expected)
    (legend,) = figure.legends
    labels = [entry.get_text() for entry in legend.get_texts()]
    assert labels == ["GRU", "nBRC", "length 4", "length 7"]


def test_long_trainings_keep_their_last_iteration_in_the_plot(copying, monkeypatch):
    monkeypatch.setattr(report, "_MOST_POINTS", 30)
    figure = report.draw_training_loss(report.read_experiment(copying))
    for line in lines(figure.axes[0]).values():
        assert len(line.get_xdata()) <= 30
        assert line.get_xdata()[-1] == 100


def test_accuracy_is_a_mean_with_its_standard_error(adding):
    figure = report.draw_accuracy(report.read_experiment(adding))
    assert [axis.get_title(loc="left") for axis in figure.axes] == [
        "1 layer of 4 units",
        "2 layers of 4 units",
    ]
    for layers, axis in zip((1, 2), figure.axes, strict=True):
        runs = [
            pd.read_csv(adding / f"GRU-layers{layers}-seed{seed}/test.csv")["accuracy"]
            for seed in (0, 1, 2)
        ]
        accuracy = pd.concat(runs, axis=1)
        line = lines(axis)["#E69F00", "-"]
        assert line.get_xdata().tolist() == [3, 4, 5, 6]
        assert line.get_ydata().tolist() == pytest.approx(accuracy.mean(axis=1).tolist())
        error = accuracy.std(axis=1) / 3**0.5
        band = next(
            shape
            for shape in axis.collections
            if to_hex(shape.get_facecolor()[0]).upper() == "#E69F00"
        )
        outline = band.get_paths()[0].vertices
        for length, mean, half in zip((3, 4, 5, 6), accuracy.mean(axis=1), error, strict=True):
            heights = outline[outline[:, 0] == length][:, 1]
            assert heights.min() == pytest.approx(mean - half)
            assert heights.max() == pytest.approx(mean + half)
        limit = next(line for line in axis.get_lines() if len(line.get_xdata()) == 2)
        assert list(limit.get_xdata()) == [4, 4]
        assert axis.texts[0].get_text() == "trained up to 4"


def test_plots_are_written_as_png_and_svg_and_repeat(adding, copying):
    paths = report.plot(adding)
    assert [path.name for path in paths] == [
        "training_loss.png",
        "training_loss.svg",
        "accuracy.png",
        "accuracy.svg",
    ]
    first = [path.read_bytes() for path in paths]
    assert first[0].startswith(b"\x89PNG")
    assert b"<svg" in first[1]
    assert [path.read_bytes() for path in report.plot(adding)] == first
    assert [path.name for path in report.plot(copying)] == [
        "training_loss.png",
        "training_loss.svg",
    ]


def test_the_table_has_means_and_standard_errors(adding):
    tables = [
        pd.read_csv(adding / f"BRC-layers2-seed{seed}/test.csv").set_index("length")
        for seed in (0, 1, 2)
    ]
    beyond = 100 * pd.Series([table.loc[5:6, "accuracy"].mean() for table in tables])
    (row,) = [line for line in text(adding).splitlines() if "BRC" in line and " 2 " in line]
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    assert cells[:3] == ["BRC", "2", "3"]
    assert cells[4] == f"{beyond.mean():.1f} ± {beyond.sem():.1f}"


def test_the_table_of_copying_tells_the_best_loss(copying):
    rows = text(copying)
    result = pd.read_json(copying / "GRU-length7-layers1-seed0/result.json", typ="series")
    (row,) = [line for line in rows.splitlines() if "GRU" in line and " 7 " in line]
    assert f"{result['best_test_loss']:.3g}" in row
    assert " 100 " in row


def test_unfinished_runs_are_shown_as_far_as_they_have_come(tmp_path):
    sweep([Run(ADD, "GRU", 0)], tmp_path)

    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep([Run(ADD, "GRU", 1)], tmp_path, report=stop)
    with pytest.raises(KeyboardInterrupt):
        sweep([Run(ADD, "LSTM", 0)], tmp_path, report=stop)
    assert len(report.plot(tmp_path)) == 4
    assert " 1 of 2 " in text(tmp_path)
    assert " 0 of 1 " in text(tmp_path)


def test_a_folder_without_an_experiment_is_refused(tmp_path):
    for read in (report.plot, report.table):
        with pytest.raises(ValueError, match="directory: expected the output folder"):
            read(tmp_path)


def test_cells_of_one_s_own_have_colours_of_their_own():
    colours = report._colours(["LSTM", "GRU", "mine:A", "mine:B", "nBRC"])
    assert len(set(colours.values())) == 5
    assert colours["nBRC"] == report._CELL_COLOURS["nBRC"]
