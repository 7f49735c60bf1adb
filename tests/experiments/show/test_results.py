import pytest

from brc_pytorch.experiments.show.results import read_experiment, setups


def test_a_folder_without_an_experiment_is_refused(tmp_path):
    with pytest.raises(ValueError, match="directory: expected the output folder"):
        read_experiment(tmp_path)


def test_a_damaged_file_is_named(write_run):
    run = write_run("GRU-seed0", [1.0] * 10, 0.5)
    (run / "result.json").write_text('{"settings": ')
    other = write_run("BRC-seed0", [1.0] * 10, 0.5, cell="BRC")
    experiment = read_experiment(run.parent)
    assert [shown.directory for shown in experiment.runs] == [other]
    (error,) = experiment.damaged
    assert str(error).startswith(f"{run / 'result.json'}: expected a JSON object, got no JSON: ")


def test_a_task_that_is_not_known_is_named(write_run):
    run = write_run("GRU-seed0", [])
    (run.parent / "experiment.json").write_text('{"task": "copy-first-inputs"}')
    experiment = read_experiment(run.parent)
    assert [shown.directory for shown in experiment.runs] == [run]  # which tells the task
    (error,) = experiment.damaged
    assert str(error).endswith("got 'copy-first-inputs'; did you mean copy-first-input?")
    (run / "config.json").unlink()
    with pytest.raises(ValueError, match="got 'copy-first-inputs'; did you mean copy-first-input"):
        read_experiment(run.parent)


def test_runs_are_sorted_by_cell_setting_and_seed_and_tell_their_state(write_run):
    write_run("a", [], cell="mine:Cell")
    write_run("b", [1.0] * 10, cell="nBRC", length=100)
    write_run("c", [1.0] * 20, cell="nBRC", length=20, seed=10)
    write_run("d", [1.0] * 20, 0.5, cell="nBRC", length=20, seed=9)
    run = write_run("e", [1.0] * 2000, cell="LSTM")
    (run.parent / "GRU-length5-seed3").mkdir()
    experiment = read_experiment(run.parent)
    assert {run.directory.name: run.state for run in experiment.runs} == {
        "e": "unfinished: 200 epochs, 2,000 iterations",
        "d": "finished",
        "c": "unfinished: 2 epochs, 20 iterations",
        "b": "unfinished: 1 epoch, 10 iterations",
        "a": "unfinished: has ended no epoch",
    }
    assert [run.directory.name for run in experiment.runs] == ["e", "d", "c", "b", "a"]
    assert [path.name for path in experiment.bare] == ["GRU-length5-seed3"]
    assert experiment.values("length") == [20, 30, 100]
    assert list(experiment.groups(["length", "cell"])) == [
        (20, "nBRC"),
        (30, "LSTM"),
        (30, "mine:Cell"),
        (100, "nBRC"),
    ]


def test_setups_are_told_apart_by_anything_that_differs(write_run):
    other = {"machine": {"processor": "a slow one"}}
    write_run("a", [])
    write_run("b", [], seed=1, start=other)
    run = write_run("c", [], seed=2)
    first, second = setups(read_experiment(run.parent).runs)
    assert (first.label, first.runs) == ("1", ["a", "c"])
    assert (second.label, second.runs) == ("2", ["b"])
    assert second.facts == {"processor": "a slow one", "torch": "2.13.0"}
