import shlex

import pytest
import typer
from typer.testing import CliRunner

from brc_pytorch.experiments.cli import app
from brc_pytorch.experiments.show.commands import rebuilt_commands, recorded_commands
from brc_pytorch.experiments.show.results import Experiment, RunFiles, read_experiment
from brc_pytorch.experiments.tasks import TASKS, own_settings
from brc_pytorch.experiments.train.run import Run


def settings(experiment):
    return {run.directory.name: run.settings for run in experiment.runs}


def test_a_rebuilt_command_trains_the_same_runs(copying, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    experiment = read_experiment(copying)
    (command,) = rebuilt_commands(experiment, experiment.runs)
    program, *arguments = shlex.split(command)
    assert program == "brc"
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert settings(read_experiment(tmp_path / copying.name)) == settings(experiment)


@pytest.mark.parametrize("name", TASKS)
def test_every_task_has_the_options_of_its_rebuilt_command(name, tmp_path):
    run = Run(TASKS[name](), "GRU", 0)
    own = own_settings(type(run.task))
    shared = {key: value for key, value in run.settings.items() if key not in own}
    files = RunFiles(tmp_path / "run", run.settings, [], None, {})
    experiment = Experiment(tmp_path, shared, [files], [], [])
    (line,) = rebuilt_commands(experiment, experiment.runs)
    _, command, *arguments = shlex.split(line)
    # It raises for options that it does not know.
    typer.main.get_command(app).commands[command].make_context(command, arguments)


def test_each_rebuilt_command_is_a_product_and_no_run_is_added(write_run):
    wanted = {
        ("GRU", 5, 0),
        ("BRC", 5, 0),
        ("BRC", 5, 1),
        ("BRC", 100, 0),
        ("BRC", 100, 1),
        ("nBRC", 5, 0),
        ("nBRC", 5, 1),
        ("nBRC", 100, 0),
        ("nBRC", 100, 1),
    }
    for cell, length, seed in wanted:
        run = write_run(f"{cell}-{length}-{seed}", [], cell=cell, length=length, seed=seed)
    experiment = read_experiment(run.parent)
    commands = rebuilt_commands(experiment, experiment.runs)
    assert [command.partition(" --hidden-size")[0] for command in commands] == [
        "brc copy-first-input --cells GRU --lengths 5 --layers 1 --seeds 0",
        "brc copy-first-input --cells BRC,nBRC --lengths 5,100 --layers 1 --seeds 0,1",
    ]
    assert all(command.endswith("--output copy-first-input") for command in commands)


def test_runs_with_other_learning_rates_are_other_commands(write_run):
    for cell, rate in (("GRU", 0.01), ("BRC", 0.001), ("nBRC", 0.01)):
        run = write_run(cell, [], cell=cell, learning_rate=rate)
    experiment = read_experiment(run.parent)
    low, high = rebuilt_commands(experiment, experiment.runs)
    assert "--cells BRC " in low
    assert "--learning-rate 0.001 " in low
    assert "--cells GRU,nBRC " in high
    assert "--learning-rate 0.01 " in high


def test_words_of_a_command_are_quoted(write_run):
    run = write_run("GRU-seed0", [], folder="my results", cell="mine:A;B")
    experiment = read_experiment(run.parent)
    (command,) = rebuilt_commands(experiment, experiment.runs)
    assert "--cells 'mine:A;B' " in command
    assert command.endswith("--output 'my results'")


def test_recorded_commands_are_told_once_each(write_run):
    write_run("a", [], start={"command": "brc first"})
    write_run("b", [], seed=1, start={"command": "brc second"})
    write_run("c", [], seed=2, start={"command": "brc first"})
    run = write_run("d", [], seed=3)
    assert recorded_commands(read_experiment(run.parent)) == ["brc first", "brc second"]
