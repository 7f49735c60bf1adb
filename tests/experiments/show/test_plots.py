import json
import math
import shutil
from xml.etree import ElementTree as ET

import pandas as pd
import pytest
from matplotlib.colors import to_hex

from brc_pytorch.experiments.show import plots
from brc_pytorch.experiments.show.results import read_experiment
from brc_pytorch.experiments.tasks import CopyFirstInputTask
from brc_pytorch.experiments.tasks.curves import held_out_share

GRU, NBRC = "#E69F00", "#009E73"


def figure(directory, name):
    experiment = read_experiment(directory)
    (plot,) = [plot for plot in plots.plots(experiment) if plot.name == name]
    return plots.draw(plot, experiment)


def lines(axis, colour):
    """The drawn lines of a colour, without the marks."""
    return [
        line
        for line in axis.get_lines()
        if to_hex(line.get_color()).upper() == colour and len(line.get_xdata()) > 2
    ]


def band(axis, colour, x):
    """The lower and the upper end of a band at a place."""
    (shape,) = [
        shape for shape in axis.collections if to_hex(shape.get_facecolor()[0]).upper() == colour
    ]
    outline = shape.get_paths()[0].vertices
    heights = outline[outline[:, 0] == x][:, 1]
    return heights.min(), heights.max()


def test_training_loss_is_smoothed_by_the_predecessor_s_windows(copying):
    drawn = figure(copying, "training_loss")
    titles = [axis.get_title(loc="left") for axis in drawn.axes]
    assert titles == ["length 4", "length 7"]
    assert drawn.get_suptitle() == "Copy-First-Input, 1 layer of 4 units"
    for axis, length, window in zip(drawn.axes, (4, 7), (20, 100), strict=True):
        losses = pd.read_csv(copying / f"GRU-length{length}-layers1-seed0/training.csv")["loss"]
        (line,) = lines(axis, GRU)
        assert line.get_xdata().tolist() == list(range(1, 101))
        expected = [losses[max(0, i - window) : i].mean() for i in range(1, 101)]
        assert line.get_ydata().tolist() == pytest.approx(expected)
        assert len(lines(axis, NBRC)) == 1
    (legend,) = drawn.legends
    assert [entry.get_text() for entry in legend.get_texts()] == ["GRU", "nBRC"]


def test_runs_are_averaged_as_far_as_all_go_and_then_drawn_alone(write_run):
    losses = [[1 / (1 + i + seed) for i in range(30 + 20 * seed)] for seed in (0, 1, 2)]
    for seed, values in enumerate(losses):
        run = write_run(f"GRU-seed{seed}", values, 0.5, seed=seed)
    axis = figure(run.parent, "training_loss").axes[0]
    mean, *alone = lines(axis, GRU)
    smooth = pd.concat([pd.Series(values).expanding().mean() for values in losses], axis=1)
    assert mean.get_xdata().tolist() == list(range(1, 31))
    assert mean.get_ydata().tolist() == pytest.approx(smooth[:30].mean(axis=1).tolist())
    error = smooth.loc[9].std() / 3**0.5
    middle = smooth.loc[9].mean()
    assert band(axis, GRU, 10) == pytest.approx((middle - error, middle + error))
    assert [line.get_xdata().tolist() for line in alone] == [
        list(range(31, 51)),
        list(range(31, 71)),
    ]
    assert alone[1].get_ydata().tolist() == pytest.approx(smooth[2][30:].tolist())


def test_a_run_that_diverges_ends_the_mean(write_run):
    write_run("GRU-seed0", [1.0] * 300, 0.5)
    run = write_run("GRU-seed1", [3.0] * 100 + [math.nan] * 200, 0.5, seed=1)
    axis = figure(run.parent, "training_loss").axes[0]
    mean, alone = lines(axis, GRU)
    assert set(mean.get_ydata()) == {2.0}
    assert alone.get_xdata()[0] == mean.get_xdata()[-1] + 1
    assert alone.get_xdata()[-1] == 300
    assert set(alone.get_ydata()) == {1.0}
    write_run("GRU-seed2", [math.nan] * 10, 0.5, seed=2)  # at once: nothing is left to average
    assert len(lines(figure(run.parent, "training_loss").axes[0], GRU)) == 2


def test_long_trainings_keep_their_last_iteration_in_the_plot(copying, monkeypatch):
    monkeypatch.setattr(plots, "_MOST_POINTS", 30)
    for axis in figure(copying, "training_loss").axes:
        for colour in (GRU, NBRC):
            (line,) = lines(axis, colour)
            assert len(line.get_xdata()) <= 30
            assert line.get_xdata()[-1] == 100


def test_accuracy_is_a_mean_with_its_standard_error(adding):
    drawn = figure(adding, "accuracy")
    titles = [axis.get_title(loc="left") for axis in drawn.axes]
    assert titles == ["1 layer of 4 units", "2 layers of 4 units"]
    for layers, axis in zip((1, 2), drawn.axes, strict=True):
        runs = [
            pd.read_csv(adding / f"GRU-layers{layers}-seed{seed}/test.csv")["accuracy"]
            for seed in (0, 1, 2)
        ]
        accuracy = pd.concat(runs, axis=1)
        (line,) = lines(axis, GRU)
        assert line.get_xdata().tolist() == [3, 4, 5, 6]
        assert line.get_ydata().tolist() == pytest.approx(accuracy.mean(axis=1).tolist())
        error = accuracy.std(axis=1) / 3**0.5
        for length, mean, half in zip((3, 4, 5, 6), accuracy.mean(axis=1), error, strict=True):
            assert band(axis, GRU, length) == pytest.approx((mean - half, mean + half))
        limit = next(line for line in axis.get_lines() if len(line.get_xdata()) == 2)
        assert list(limit.get_xdata()) == [4, 4]
        assert axis.texts[0].get_text() == "trained up to 4"


def test_plots_are_written_as_png_and_svg_and_repeat(adding, copying, tmp_path):
    folder = tmp_path / "adding"
    shutil.copytree(adding, folder)
    paths = plots.plot(read_experiment(folder))
    assert [path.name for path in paths] == [
        "training_loss.png",
        "training_loss.svg",
        "accuracy.png",
        "accuracy.svg",
    ]
    first = [path.read_bytes() for path in paths]
    assert first[0].startswith(b"\x89PNG")
    assert b"<svg" in first[1]
    assert [path.read_bytes() for path in plots.plot(read_experiment(folder))] == first
    folder = tmp_path / "copying"
    shutil.copytree(copying, folder)
    assert [path.name for path in plots.plot(read_experiment(folder))] == [
        "training_loss.png",
        "training_loss.svg",
    ]


def test_each_panel_is_a_picture_of_its_own(adding):
    experiment = read_experiment(adding)
    for plot in plots.plots(experiment):
        panels = plots.draw_panels(plot, experiment)
        assert list(panels) == ["1 layer of 4 units", "2 layers of 4 units"]
        for svg in panels.values():
            assert ET.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"  # noqa: S314 - ours


def test_runs_without_the_table_of_a_plot_are_left_out_of_it(write_run):
    run = write_run("GRU-seed0", [])
    assert plots.plots(read_experiment(run.parent)) == []
    write_run("nBRC-seed0", [1.0] * 20, cell="nBRC", length=40)
    short, long = figure(run.parent, "training_loss").axes
    assert [text.get_text() for text in short.texts] == ["no data yet", "always guessing 0"]
    assert len(lines(long, NBRC)) == 1
    assert lines(long, GRU) == []


def test_held_out_accuracy_is_drawn_where_lengths_are_not_tested(write_run, monkeypatch):
    monkeypatch.setattr(CopyFirstInputTask, "metric_names", ("loss", "accuracy"))
    monkeypatch.setattr(
        CopyFirstInputTask, "curves", lambda _: [held_out_share("test", "accuracy")]
    )
    run = write_run("GRU-seed0", [1.0] * 30, 0.5)
    epochs = pd.read_csv(run / "epochs.csv").assign(test_accuracy=[0.2, 0.4, 0.5])
    epochs.to_csv(run / "epochs.csv", index=False)
    (line,) = lines(figure(run.parent, "test_accuracy").axes[0], GRU)
    assert line.get_xdata().tolist() == [10, 20, 30]
    assert line.get_ydata().tolist() == [0.2, 0.4, 0.5]


def test_many_panels_are_several_rows(write_run):
    for length in (10, 20, 30, 40):
        run = write_run(f"GRU-length{length}-seed0", [1.0] * 10, length=length)
    drawn = figure(run.parent, "training_loss")
    assert [axis.get_title(loc="left") for axis in drawn.axes] == [
        f"length {length}" for length in (10, 20, 30, 40)
    ]


def test_cells_of_one_s_own_have_colours_of_their_own():
    styles = plots._styles(["LSTM", "GRU", "mine:A", "mine:B", "nBRC"])
    assert list(styles) == ["LSTM", "GRU", "mine:A", "mine:B", "nBRC"]
    assert len({style["color"] for style in styles.values()}) == 5
    assert styles["nBRC"]["color"] == NBRC
    widths = [style["linewidth"] for style in styles.values()]
    assert widths == sorted(widths, reverse=True)


def test_any_name_of_a_cell_stands_in_the_legend(write_run):
    names = ["_mine:A", "$x$"]
    for name in names:
        run = write_run(json.dumps(name), [1.0] * 10, cell=name)
    experiment = read_experiment(run.parent)
    (plot,) = plots.plots(experiment)
    plots.plot(read_experiment(run.parent))  # can be drawn
    (legend,) = plots.draw(plot, experiment).legends
    assert {text.get_text() for text in legend.get_texts()} == set(names)
