import dataclasses
import json
import math
import shutil
from itertools import pairwise
from xml.etree import ElementTree as ET

import matplotlib as mpl
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from brc_pytorch.experiments.show import plots
from brc_pytorch.experiments.show.results import read_experiment
from brc_pytorch.experiments.show.seeds import Seeds
from brc_pytorch.experiments.show.style import STYLE, cell_styles
from brc_pytorch.experiments.tasks import CopyFirstInputTask, StateTrackingTask
from brc_pytorch.experiments.tasks.curves import held_out_share

GRU, NBRC = "#E69F00", "#009E73"


def figure(directory, name):
    experiment = read_experiment(directory)
    (plot,) = [plot for plot in plots.plots(experiment) if plot.name == name]
    return plots.draw(plot, experiment)


def lines(axis, colour):
    """The drawn lines of a colour: of several seeds each, then their median."""
    return [line for line in axis.get_lines() if to_hex(line.get_color()).upper() == colour]


def values(line):
    return dict(zip(line.get_xdata().tolist(), line.get_ydata().tolist(), strict=True))


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


def test_the_median_goes_on_when_a_run_has_ended(write_run):
    losses = [[1 / (1 + i + seed) for i in range(30 + 20 * seed)] for seed in (0, 1, 2)]
    for seed, each in enumerate(losses):
        run = write_run(f"GRU-seed{seed}", each, 0.5, seed=seed)
    axis = figure(run.parent, "training_loss").axes[0]
    *seeds, median = lines(axis, GRU)
    smooth = pd.concat([pd.Series(each).expanding().mean() for each in losses], axis=1)
    assert [line.get_xdata()[-1] for line in seeds] == [30, 50, 70]
    assert [*values(seeds[2]).values()] == pytest.approx(smooth[2].tolist())
    expected = smooth.ffill().median(axis=1)
    assert [*values(median)] == [*range(1, 71)]
    assert [*values(median).values()] == pytest.approx(expected.tolist())
    assert median.get_linewidth() > seeds[0].get_linewidth()


def test_the_median_ends_with_a_run_that_is_still_trained(write_run):
    write_run("GRU-seed0", [1.0] * 30)
    run = write_run("GRU-seed1", [1.0] * 50, 0.5, seed=1)
    *_, median = lines(figure(run.parent, "training_loss").axes[0], GRU)
    assert median.get_xdata()[-1] == 30


def test_a_run_that_diverges_is_worse_than_any(write_run):
    for seed, level in enumerate((1.0, 2.0)):
        write_run(f"GRU-seed{seed}", [level] * 300, 0.5, seed=seed)
    run = write_run("GRU-seed2", [3.0] * 100 + [math.nan] * 200, 0.5, seed=2)
    *seeds, median = lines(figure(run.parent, "training_loss").axes[0], GRU)
    assert seeds[2].get_xdata()[-1] == 199  # the last average that has a number
    assert set(median.get_ydata()) == {2.0}
    write_run("GRU-seed3", [math.nan] * 10, 0.5, seed=3)  # at once
    *_, median = lines(figure(run.parent, "training_loss").axes[0], GRU)
    assert values(median)[100] == 2.5  # 1, 2, 3 and infinity
    assert median.get_xdata()[-1] == 199


def test_one_point_alone_is_seen(write_run):
    run = write_run("GRU-seed0", [1.0] * 10, 0.5)
    (line,) = lines(figure(run.parent, "test_loss").axes[0], GRU)
    assert values(line) == {10: 0.5}
    assert line.get_marker() == "o"


def test_panels_of_one_scale_reach_as_far_as_the_highest(write_run):
    write_run("a", [0.1] * 20, 0.1, length=5)
    run = write_run("b", [5.0] * 20, 5.0)
    first, second = figure(run.parent, "training_loss").axes
    assert first.get_ylim() == second.get_ylim()
    assert second.get_ylim()[0] == 0
    assert second.get_ylim()[1] > 5


def test_marks_lie_on_the_curves_and_their_meaning_beside_the_panel(write_run):
    run = write_run("GRU-seed0", [1.0] * 20, 1.0)
    drawn = figure(run.parent, "training_loss")
    drawn.draw_without_rendering()
    (axis,) = drawn.axes
    curve, mark = axis.get_lines()
    assert set(mark.get_ydata()) == {1}
    assert mark.get_zorder() > curve.get_zorder()
    (meaning,) = axis.texts
    assert meaning.get_text() == "always\nguessing 0"
    box = meaning.get_window_extent()
    assert axis.get_window_extent().x1 < box.x0
    assert box.x1 <= drawn.bbox.x1
    assert axis.texts[0].get_zorder() > curve.get_zorder()


def test_long_trainings_keep_their_last_iteration_in_the_plot(copying, monkeypatch):
    monkeypatch.setattr(plots, "_MOST_POINTS", 30)
    for axis in figure(copying, "training_loss").axes:
        for colour in (GRU, NBRC):
            (line,) = lines(axis, colour)
            assert len(line.get_xdata()) <= 30
            assert line.get_xdata()[-1] == 100


def test_accuracy_is_drawn_by_length_with_every_seed(adding):
    drawn = figure(adding, "accuracy")
    titles = [axis.get_title(loc="left") for axis in drawn.axes]
    assert titles == ["1 layer of 4 units", "2 layers of 4 units"]
    for layers, axis in zip((1, 2), drawn.axes, strict=True):
        runs = [
            pd.read_csv(adding / f"GRU-layers{layers}-seed{seed}/test.csv")["accuracy"]
            for seed in (0, 1, 2)
        ]
        *seeds, median = lines(axis, GRU)
        for line, run in zip(seeds, runs, strict=True):
            assert [*values(line).values()] == pytest.approx(run.tolist())
        assert [*values(median)] == [3, 4, 5, 6]
        expected = pd.concat(runs, axis=1).median(axis=1)
        assert [*values(median).values()] == pytest.approx(expected.tolist())
        limit = axis.get_lines()[-1]
        assert list(limit.get_xdata()) == [4, 4]
        assert axis.texts[0].get_text() == "trained up to 4"


@pytest.mark.parametrize(
    ("lowest", "bottom"),
    [(1.0, 0.99), (0.987, 0.98), (0.96, 0.95), (0.877, 0.85), (0.5, 0.5), (0.49, 0), (0, 0)],
)
def test_an_axis_of_shares_begins_where_its_lowest_curve_needs_it(lowest, bottom):
    assert plots._bottom(lowest) == bottom


@pytest.mark.parametrize(
    ("longest", "expected"), [(128, [64, 128]), (512, [64, 128, 256, 512]), (4096, [64, 256, 1024])]
)
def test_a_short_range_of_lengths_has_more_ticks(longest, expected):
    curves = StateTrackingTask.curves(dataclasses.asdict(StateTrackingTask()))
    (accuracy,) = [curve for curve in curves if curve.name == "accuracy"]
    axis = Figure().subplots()
    axis.plot([64, longest], [1, 1])
    plots._finish(axis, accuracy, [], 1)
    low, high = axis.get_xlim()
    assert [tick for tick in axis.get_xticks() if low <= tick <= high][: len(expected)] == expected


@pytest.mark.parametrize(
    ("count", "most", "columns"), [(4, 9, 4), (4, 3, 2), (6, 5, 3), (7, 3, 3), (2, 0, 1)]
)
def test_rows_are_as_full_as_each_other(count, most, columns):
    assert plots._columns(count, most) == columns


def test_panels_of_shares_have_axes_of_their_own(adding):
    experiment = read_experiment(adding)
    for run in experiment.runs:
        high = 0.95 if run.settings["layers"] == 2 else 0
        run.tables["test.csv"]["accuracy"] = high + 0.05 * run.tables["test.csv"]["accuracy"]
    (plot,) = [plot for plot in plots.plots(experiment) if plot.name == "accuracy"]
    first, second = plots.draw(plot, experiment).axes
    assert first.get_ylim()[0] < 0
    assert second.get_ylim()[0] == 0.95
    assert "the vertical axes, which differ" in plots.caption(plot, experiment)


def test_every_seed_is_a_point_beside_the_median_and_its_interval(adding):
    drawn = figure(adding, "seeds")
    for layers, axis in zip((1, 2), drawn.axes, strict=True):
        shares = [
            100
            * pd.read_csv(adding / f"GRU-layers{layers}-seed{seed}/test.csv")["accuracy"].iloc[-1]
            for seed in (0, 1, 2)
        ]
        bar, points, stroke = [
            line
            for line in axis.get_lines()
            if GRU in {to_hex(line.get_color()).upper(), to_hex(line.get_markeredgecolor()).upper()}
        ]
        assert [*bar.get_xdata()] == pytest.approx([min(shares), max(shares)])
        assert [*points.get_xdata()] == pytest.approx(shares)
        assert len(set(points.get_ydata())) == 3  # equal ones are told apart
        assert [*stroke.get_xdata()] == pytest.approx([sorted(shares)[1]] * 2)
        assert axis.get_xlabel() == "% right at 6"
    assert [text.get_text() for text in drawn.axes[0].get_yticklabels()] == ["GRU", "BRC"]


def test_errors_of_seeds_are_on_a_logarithmic_axis(copying):
    axis, _ = figure(copying, "seeds").axes
    assert axis.get_xscale() == "log"
    assert axis.get_xlabel() == "test MSE"


def test_plots_are_written_as_png_and_svg_and_repeat(adding, copying, tmp_path):
    folder = tmp_path / "adding"
    shutil.copytree(adding, folder)
    paths = plots.plot(read_experiment(folder))
    assert [path.name for path in paths] == [
        f"{name}.{kind}"
        for name in ("seeds", "accuracy", "training_loss")
        for kind in ("png", "svg")
    ]
    first = [path.read_bytes() for path in paths]
    assert first[0].startswith(b"\x89PNG")
    assert b"<svg" in first[1]
    assert [path.read_bytes() for path in plots.plot(read_experiment(folder))] == first
    folder = tmp_path / "copying"
    shutil.copytree(copying, folder)
    assert [path.stem for path in plots.plot(read_experiment(folder))[::2]] == [
        "seeds",
        "test_loss",
        "training_loss",
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
    assert [text.get_text() for text in short.texts] == ["no data yet", "always\nguessing 0"]
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
    assert len({axis.get_position().y0 for axis in drawn.axes}) == 2
    assert len({axis.get_position().x0 for axis in drawn.axes}) == 2


def test_cells_of_one_s_own_have_colours_of_their_own():
    styles = cell_styles(["LSTM", "GRU", "mine:A", "mine:B", "nBRC"])
    assert list(styles) == ["LSTM", "GRU", "mine:A", "mine:B", "nBRC"]
    assert len({style["color"] for style in styles.values()}) == 5
    assert styles["nBRC"]["color"] == NBRC
    widths = [style["linewidth"] for style in styles.values()]
    assert widths == sorted(widths, reverse=True)


@pytest.mark.parametrize(
    "names",
    [
        ["LSTM", "GRU", "RNN", "BRC", "nBRC"],
        ["LSTM-forget", "LSTM-chrono", "BRC-switch", "PeepholeLSTM"],
    ],
)
def test_the_legend_of_one_panel_is_not_cut_off(write_run, names):
    for cell in names:
        run = write_run(cell, [1.0] * 10, cell=cell)
    experiment = read_experiment(run.parent)
    (plot,) = [plot for plot in plots.plots(experiment) if plot.name == "training_loss"]
    with mpl.rc_context(STYLE):
        figure = plots.draw(plot, experiment)
        figure.draw_without_rendering()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1


def test_numbers_below_seeds_over_decades_do_not_overlap(write_run):
    for seed, loss in enumerate((1e-6, 1e-3, 1.0)):
        run = write_run(f"GRU-seed{seed}", [loss] * 10, loss, seed=seed)
    experiment = read_experiment(run.parent)
    with mpl.rc_context(STYLE):
        figure = plots.draw(Seeds(experiment.task.measures(experiment.settings)[0]), experiment)
        figure.draw_without_rendering()
    (axis,) = figure.axes
    low, high = axis.get_xlim()
    shown = [tick for tick in axis.xaxis.get_major_ticks() if low <= tick.get_loc() <= high]
    boxes = [tick.label1.get_window_extent() for tick in shown]
    assert len(boxes) > 2
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


def test_seeds_above_the_largest_known_value_have_a_mark_of_their_own(write_run):
    for seed, loss in enumerate((0.1, 0.5, 1.0)):
        run = write_run(f"GRU-seed{seed}", [loss] * 10, loss, seed=seed)
    experiment = read_experiment(run.parent)
    measure = dataclasses.replace(experiment.task.measures(experiment.settings)[0], cap=0.5)
    (axis,) = plots.draw(Seeds(measure), experiment).axes
    marks = {line.get_xdata()[0]: line.get_marker() for line in axis.lines}
    assert [marks[loss] for loss in (0.1, 1.0)] == ["o", ">"]
    assert "▷ more than 0.5" in axis.get_xlabel()


def test_any_name_of_a_cell_stands_in_the_legend(write_run):
    names = ["_mine:A", "$x$"]
    for name in names:
        run = write_run(json.dumps(name), [1.0] * 10, cell=name)
    experiment = read_experiment(run.parent)
    (plot,) = [plot for plot in plots.plots(experiment) if plot.name == "training_loss"]
    plots.plot(read_experiment(run.parent))  # can be drawn
    (legend,) = plots.draw(plot, experiment).legends
    assert {text.get_text() for text in legend.get_texts()} == set(names)
