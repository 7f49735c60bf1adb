import base64
import html.parser
import json
import re
import shutil
from pathlib import Path

import pytest

from brc_pytorch.experiments.show import report
from brc_pytorch.experiments.show.comparison import compare, read_others
from brc_pytorch.experiments.show.plots import draw_panels, plots
from brc_pytorch.experiments.show.results import read_experiment
from brc_pytorch.experiments.show.tables import compare_cells, summarise

VOID = {"meta", "img", "br", "hr", "link", "input"}
# What a browser would fetch.
RESOURCES = {"src", "srcset", "poster", "data", "background", "action", "formaction"}


class Page(html.parser.HTMLParser):
    """What a page holds; an error if its elements are not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open = []
        self.tags = []
        self.attributes = []
        self.tables = []
        self.text = self.style = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in {"th", "td"}:
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" in self.open:
            self.style += data
            return
        self.text += data
        if self.open and self.open[-1] in {"th", "td"}:
            self.tables[-1][-1][-1] += data


def read(*directories, others=()):
    page = report.render([read_experiment(directory) for directory in directories], others)
    assert page.lstrip().lower().startswith("<!doctype html>")
    return Page(page)


def images(page):
    """The pictures of a page, as text."""
    sources = [value for tag, name, value in page.attributes if (tag, name) == ("img", "src")]
    kind = "data:image/svg+xml;base64,"
    assert all(source.startswith(kind) for source in sources)
    return [base64.b64decode(source.removeprefix(kind)).decode() for source in sources]


@pytest.fixture(scope="module")
def both(copying, adding):
    """The page of both experiments."""
    return read(copying, adding)


def test_a_page_has_the_tables_and_plots_of_all_folders(both, copying, adding):
    page = both
    expected = []
    for directory in (copying, adding):
        experiment = read_experiment(directory)
        summary = summarise(experiment)
        assert [summary.columns, *summary.rows] in page.tables
        pairs = compare_cells(experiment)
        assert ([pairs.columns, *pairs.rows] in page.tables) == bool(pairs.rows)
        for plot in plots(experiment):
            expected += draw_panels(plot, experiment).values()
    assert images(page) == expected
    assert page.tags.count("section") == 2
    for title in ("Copy-First-Input", "Binary Addition"):
        assert title in page.text


def test_every_picture_has_a_text_of_its_own(both):
    texts = [value for tag, name, value in both.attributes if (tag, name) == ("img", "alt")]
    assert len(texts) == len(set(texts)) == len(images(both))
    about = [
        "test MSE, a row each for GRU, nBRC",
        "Test mean squared error against gradient iteration, a line each for GRU, nBRC",
        "Training mean squared error against gradient iteration, a line each for GRU, nBRC",
    ]
    expected = [f"{each}: length {length}" for each in about for length in (4, 7)]
    assert texts[: len(expected)] == expected


def test_a_page_needs_nothing_from_elsewhere(both):
    page = both
    assert not {"script", "link", "iframe", "object", "embed"} & set(page.tags)
    for _, name, value in page.attributes:
        if name in RESOURCES:
            assert value.startswith("data:")
        if name == "href":
            assert value.startswith("#")
            assert ("id", value[1:]) in [(name, value) for _, name, value in page.attributes]
    assert "url(" not in page.style
    assert "@import" not in page.style
    policy = [value for _, name, value in page.attributes if name == "content"]
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in policy
    for svg in images(page):  # an image that an SVG names is not loaded within <img>, but still
        assert not re.search(r"href=\"(?!#)", svg)


def test_the_ids_of_a_page_are_its_own(copying):
    page = read(copying, copying)
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))


def test_names_of_users_are_text(write_run):
    bad = "<script>alert(1)</script>&amp;'\""
    run = write_run("<b>-seed0", [1.0] * 20, 0.5, cell=bad, start={"command": f"brc {bad}"})
    write_run("<i>-seed1", [], seed=1, start={"machine": {"processor": bad}}, folder=run.parent)
    page = read(run.parent)
    assert not {"script", "b", "i"} & set(page.tags)
    assert any(bad in row for row in page.tables[0])
    assert f"brc {bad}" in page.text
    assert "<i>-seed1" in page.text
    setups = page.tables[-1]
    assert ["processor", bad, "a fast one"] in setups


def test_unfinished_runs_are_listed(write_run):
    write_run("GRU-seed0", [1.0] * 20, 0.5)
    write_run("GRU-seed1", [1.0] * 20, seed=1)
    run = write_run("GRU-seed2", [], seed=2)
    (run.parent / "GRU-seed3").mkdir()
    page = read(run.parent)
    assert "Not finished: 3 of 4 runs." in page.text
    rows = {row[0]: row for table in page.tables for row in table}
    assert rows["GRU-seed0"] == [
        "GRU-seed0",
        "finished",
        "0.5 (epoch 2)",
        "1,234",
        "1 min 15 s",
        "2026-01-02 03:04",
        "1",
        "1",
    ]
    assert rows["GRU-seed1"][1:3] == ["unfinished: 2 epochs, 20 iterations", "-"]
    assert rows["GRU-seed2"][1] == "unfinished: has ended no epoch"
    assert rows["GRU-seed3"][1] == "unfinished: has written nothing"
    assert "GRU-seed3 unfinished: has written nothing" in page.text


def test_a_diverged_run_is_told(write_run):
    run = write_run("GRU-seed0", [1.0] * 20, 0.5)
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps({**result, "best_test_loss": None}))
    assert any("diverged" in row for table in read(run.parent).tables for row in table)


def test_a_finished_folder_has_no_notice(both):
    assert "Not finished" not in both.text
    assert "different sets" not in both.text


def test_machines_and_versions_that_differ_are_told(write_run):
    write_run("GRU-seed0", [1.0] * 10, 0.5)
    other = {"machine": {"processor": "a slow one", "cores": 2}}
    run = write_run("GRU-seed1", [1.0] * 10, 0.5, seed=1, start=other)
    page = read(run.parent)
    assert "2 different sets of versions or machines" in page.text
    assert page.tables[-1] == [
        ["setup", "1", "2"],
        ["processor", "a fast one", "a slow one"],
        ["torch", "2.13.0", "2.13.0"],
        ["cores", "-", "2"],
        ["runs", "1", "1"],
    ]
    assert [value for tag, _, value in page.attributes if tag == "tr"] == ["differs", "differs"]


def test_commands_are_given_and_rebuilt_where_they_are_not_known(write_run):
    write_run("GRU-seed0", [], start={"command": "brc copy-first-input --jobs 2"})
    run = write_run("GRU-seed1", [], seed=1)
    page = read(run.parent)
    assert "brc copy-first-input --jobs 2" in page.text
    assert "1 of the runs did not record their command" in page.text
    assert "brc copy-first-input --cells GRU --lengths 30 --layers 1 --seeds 1 " in page.text


def test_all_settings_are_told(both, adding, copying):
    for directory in (adding, copying):
        experiment = read_experiment(directory)
        for name, value in experiment.settings.items():
            shown = f"{value:,}" if isinstance(value, int) else value
            assert name == "task" or f"{name.replace('_', ' ')}{shown}\n" in both.text
        for name in ("cell", *experiment.task.dimensions, "seed"):
            shown = ", ".join(map(str, experiment.values(name)))
            assert f"{name}{shown}\n" in both.text


def test_where_learning_rates_come_from_is_told(write_run):
    run = write_run("GRU-seed0", [1.0] * 20, 0.5, learning_rate=0.01)
    told = "learning rate was chosen from 0.01, 0.001 on validation data"
    assert told not in read(run.parent).text
    path = run.parent / "learning-rates.json"
    path.write_text('{"grid": [0.01, 0.001], "chosen": []}')
    page = read(run.parent)
    assert told in page.text
    assert "learning rate0.01\n" in page.text
    path.write_text('{"grid": ["fast"]}')
    page = read(run.parent)
    assert "learning-rates.json: expected a number for grid[0], got 'fast'" in page.text


def test_results_of_somebody_else_stand_beside_these(adding, tmp_path):
    table = {
        "task": "binary-addition",
        "settings": {"hidden_size": 4},
        "measure": "accuracy",
        "at": 6,
        "rows": [{"layers": 1, "cell": "BRC", "value": "92"}],
    }
    other = {**table, "settings": {"hidden_size": 100}}
    path = tmp_path / "others.json"
    content = {"source": "theirs", "origin": "read off", "tables": [table, other]}
    path.write_text(json.dumps(content))
    others = read_others(path)
    page = read(adding, others=[others])
    comparison, _ = compare(read_experiment(adding), others)
    assert [comparison.table.columns, *comparison.table.rows] in page.tables
    assert "The numbers of theirs are read off." in page.text
    assert "Not compared, because the settings differ: hidden_size is 4 here" in page.text


def test_a_folder_without_any_run_is_told(write_run):
    run = write_run("GRU-seed0", [])
    shutil.rmtree(run)
    assert "0 runs" in read(run.parent).text


def test_a_page_repeats_and_is_moved_into_place(copying, tmp_path):
    for name in ("first.html", "new/second.html"):
        report.write_report([copying], tmp_path / name)
    first = (tmp_path / "first.html").read_bytes()
    assert (tmp_path / "new/second.html").read_bytes() == first
    with pytest.raises(ValueError, match="directory: expected the output folder"):
        report.write_report([copying, tmp_path], tmp_path / "first.html")
    assert (tmp_path / "first.html").read_bytes() == first
    assert {path.name for path in tmp_path.iterdir()} == {"first.html", "new"}


def test_a_folder_as_the_output_is_refused(copying, tmp_path):
    with pytest.raises(ValueError, match="output: expected a file, got the folder"):
        report.write_report([copying], Path(tmp_path))
