"""What a run leaves is damaged, or cannot be written: nothing is lost."""

import errno
import json
import os
import random
import re
import shutil
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from typer.testing import CliRunner

from brc_pytorch.experiments import cli, files, weights
from brc_pytorch.experiments.cli import app
from brc_pytorch.experiments.files import FileError
from brc_pytorch.experiments.train import fit, recorder
from brc_pytorch.experiments.train.run import Run
from brc_pytorch.experiments.train.sweep import sweep
from brc_pytorch.experiments.train.training import train
from brc_pytorch.experiments.weights import read_weights
from tests.experiments.small import TASK, options

RUNS = [Run(TASK, cell, 0) for cell in ("GRU", "BRC", "nBRC")]
DAMAGED = RUNS[1].name
OTHERS = [RUNS[0].name, RUNS[2].name]

TEXT = {
    "empty": b"",
    "binary": b"\x89PNG\r\n\x1a\n\x00\xff",
    "null": b"null",
    "a list": b"[1, 2]",
    "too deep": b'{"a": ' * 100_000,
    "a bracket too few": b'{"a": 1',
    "without its keys": b"{}",
    "ragged": b"iteration,loss\n1,0.5\n2\n",
    "other columns": b"a,b\n1,2\n",
    "no numbers": b"iteration,epoch,length,loss\n1,x,y,z\n",
}
SHOWN = ["config.json", "result.json", "training.csv", "epochs.csv", "test.csv"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An output folder of three finished runs."""
    directory = tmp_path_factory.mktemp("finished")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert not any(outcome.error for outcome in sweep(RUNS, directory))
    torch.set_num_threads(threads)
    return directory


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The directory of a run that was stopped after its second epoch."""
    directory = tmp_path_factory.mktemp("stopped")

    def stop(progress):
        if progress.iteration == 10:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "_SECONDS_BETWEEN_UPDATES", 0)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        with pytest.raises(KeyboardInterrupt):
            train(RUNS[1], directory / DAMAGED, report=stop)
        torch.set_num_threads(threads)
    return directory / DAMAGED


@pytest.fixture
def brc(monkeypatch):
    """Call the command; give its exit code and its two outputs."""

    def call(*arguments):
        monkeypatch.setattr(cli.console, "_width", 200)
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result.exit_code, result.stdout, result.stderr

    return call


def damage(path, how):
    """Put something else in the place of a file."""
    if how == "a folder":
        path.unlink(missing_ok=True)
        path.mkdir()
    elif how == "gone":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        path.write_bytes(TEXT[how])


def contents(directory):
    return {
        path.relative_to(directory): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and path.name != "lock"
    }


@pytest.mark.parametrize("how", [*TEXT, "truncated", "a folder"])
@pytest.mark.parametrize("name", SHOWN)
def test_the_other_runs_are_shown_and_the_damaged_one_is_named(brc, tmp_path, finished, name, how):
    folder = shutil.copytree(finished, tmp_path / "out")
    damage(folder / DAMAGED / name, how)
    code, said, errors = brc("table", folder)
    assert code == 1
    assert re.search(r"1 +GRU +1 ", said)
    assert re.search(r"1 +nBRC +1 ", said)
    assert not re.search(r"1 +BRC ", said)
    (line,) = errors.splitlines()
    assert line.startswith(f"Error: {folder / DAMAGED / name}: expected ")


@pytest.mark.parametrize("command", ["plot", "report"])
@pytest.mark.parametrize(("name", "how"), [("epochs.csv", "ragged"), ("config.json", "a list")])
def test_plots_and_the_page_do_without_it_too(brc, tmp_path, finished, command, name, how):
    folder = shutil.copytree(finished, tmp_path / "out")
    damage(folder / DAMAGED / name, how)
    output = ["--output", tmp_path / "page.html"] if command == "report" else []
    code, said, errors = brc(command, folder, *output)
    assert code == 1
    assert len(errors.splitlines()) == 1
    assert f"Error: {folder / DAMAGED / name}: expected " in errors
    assert all(Path(path).stat().st_size for path in said.split())
    if command == "report":
        page = (tmp_path / "page.html").read_text(encoding="utf-8")
        assert "Left out because of damaged files" in page
        assert f"<li>{DAMAGED}/{name}: expected " in page
        assert all(f">{other}<" in page for other in OTHERS)
        assert str(tmp_path) not in page


@pytest.mark.parametrize("how", [*TEXT, "truncated", "a folder"])
def test_the_runs_tell_what_a_damaged_experiment_file_should_hold(brc, tmp_path, finished, how):
    folder = shutil.copytree(finished, tmp_path / "out")
    whole = brc("table", finished)[1]
    damage(folder / "experiment.json", how)
    code, said, errors = brc("table", folder)
    assert (code, said) == (1, whole)
    (line,) = errors.splitlines()
    assert line.startswith(f"Error: {folder / 'experiment.json'}: expected ")
    before = contents(folder)
    with pytest.raises(FileError, match=r"experiment\.json: expected "):
        sweep(RUNS, folder)  # which would write to it
    assert contents(folder) == before


def test_a_file_in_the_place_of_a_run_s_folder_is_named(brc, tmp_path, finished):
    folder = shutil.copytree(finished, tmp_path / "out")
    shutil.rmtree(folder / DAMAGED)
    (folder / DAMAGED).write_text("")
    code, _, errors = brc("table", folder)
    assert (code, errors.count("\n")) == (1, 1)
    message = f"{folder / DAMAGED}: expected the folder of a run, got a file"
    assert message in errors
    assert [str(outcome.error) for outcome in sweep(RUNS, folder)] == ["None", message, "None"]


def test_runs_of_another_version_or_experiment_are_named(brc, tmp_path, finished):
    folder = shutil.copytree(finished, tmp_path / "out")
    path = folder / DAMAGED / "config.json"
    config = json.loads(path.read_text())
    for change, message in (
        ({"hidden_size": 5}, "expected hidden_size 4, as the other runs have, got 5"),
        ({"layers": "one"}, "got wrong ones: layers: expected a whole number, got 'one'"),
        ({"max_test_length": 1}, "max_test_length: expected 3 or more, got 1"),
    ):
        changed = {**config, "settings": {**config["settings"], **change}}
        path.write_text(json.dumps(changed))
        code, _, errors = brc("table", folder)
        assert (code, errors.count("\n")) == (1, 1)
        assert message in errors
    del config["settings"]["test_size"]
    path.write_text(json.dumps(config))
    assert "test_size, a setting of binary-addition, got none" in brc("table", folder)[2]
    (outcome,) = [outcome for outcome in sweep(RUNS, folder) if outcome.error]
    assert "test_size is None there, 10 here" in str(outcome.error)


def test_a_run_continued_with_other_versions_says_so(tmp_path, stopped, caplog, finished, outcome):
    directory = shutil.copytree(stopped, tmp_path / "run")
    path = directory / "config.json"
    config = json.loads(path.read_text())
    config["starts"][0]["versions"]["torch"] = "1.0"
    path.write_text(json.dumps(config))
    train(RUNS[1], directory)
    (record,) = caplog.records
    said = record.getMessage()
    assert said.startswith(f"{path}: the run goes on with other versions")
    assert said.endswith(f": torch was 1.0, is {version('torch')}")
    assert outcome(directory) == outcome(finished / DAMAGED)


@pytest.mark.parametrize("how", ["empty", "binary", "truncated", "a folder"])
@pytest.mark.parametrize("name", ["resume.ckpt", "config.json", "lock"])
def test_a_stopped_run_refuses_what_is_damaged_and_changes_nothing(tmp_path, stopped, name, how):
    directory = shutil.copytree(stopped, tmp_path / "run")
    damage(directory / name, how)
    before = contents(directory)
    if name == "lock" and how != "a folder":  # its text means nothing
        train(RUNS[1], directory)
        return
    with pytest.raises(FileError, match=rf"{re.escape(str(directory / name))}: expected "):
        train(RUNS[1], directory)
    assert contents(directory) == before or name == "resume.ckpt"
    kept = {path: text for path, text in before.items() if path.name != "config.json"}
    assert kept.items() <= contents(directory).items()


@pytest.mark.parametrize("how", ["empty", "truncated", "gone"])
@pytest.mark.parametrize("name", ["training.csv", "epochs.csv", "last.pt"])
def test_what_the_checkpoint_holds_is_written_anew(tmp_path, stopped, finished, outcome, name, how):
    directory = shutil.copytree(stopped, tmp_path / "run")
    damage(directory / name, how)
    train(RUNS[1], directory)
    assert outcome(directory) == outcome(finished / DAMAGED)


def test_settings_that_are_gone_are_not_made_up(tmp_path, stopped):
    directory = shutil.copytree(stopped, tmp_path / "run")
    (directory / "config.json").unlink()
    with pytest.raises(FileError, match=r"config\.json: expected the settings of resume\.ckpt"):
        train(RUNS[1], directory)


@pytest.mark.parametrize("name", ["best.pt", "last.pt", "result.json", "config.json"])
@pytest.mark.parametrize("how", ["empty", "truncated", "a folder"])
def test_a_finished_run_with_a_damaged_file_fails_alone(brc, tmp_path, finished, name, how):
    folder = shutil.copytree(finished, tmp_path / "out")
    damage(folder / DAMAGED / name, how)
    before = contents(folder)
    outcomes = sweep(RUNS, folder)
    assert [outcome.error is None for outcome in outcomes] == [True, False, True]
    assert str(outcomes[1].error).startswith(f"{folder / DAMAGED / name}: expected ")
    assert contents(folder) == before
    code, said, errors = brc(
        "binary-addition", "--cells=GRU,BRC", *options(TASK), "--output", folder
    )
    assert code == 1
    assert "was finished before" in said
    first, last = errors.splitlines()
    assert first.startswith(f"Error: {DAMAGED} failed: {folder / DAMAGED / name}: expected ")
    assert last.startswith("Error: 1 of 2 runs failed")


@pytest.mark.parametrize("name", ["best.pt", "last.pt", "resume.ckpt", *SHOWN])
def test_flipped_bits_are_refused_or_harmless(tmp_path, finished, stopped, brc, name):
    """A text with a flipped bit may be another text; of tensors every bit counts."""
    draw = random.Random(name)  # noqa: S311 - no secret
    source = stopped if name == "resume.ckpt" else finished / DAMAGED
    whole = (source / name).read_bytes()
    if name in SHOWN:
        folder = shutil.copytree(finished, tmp_path / "out")
        path = folder / DAMAGED / name
    else:
        path = tmp_path / name
    found = 0
    for _ in range(40):
        flipped = bytearray(whole)
        flipped[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        path.write_bytes(flipped)
        if name in SHOWN:
            code, _, errors = brc("table", folder)
            assert (code, errors.count("\n")) in {(0, 0), (1, 1)}
            found += code
            continue
        try:
            content = read_weights(path)
        except FileError as error:
            assert str(error).startswith(f"{path}: expected ")  # noqa: PT017 - harmless ones raise none
            found += 1
        else:  # between the tensors
            original = read_weights(source / name)
            assert str(content) == str(original)
    assert found > 10


class Harmful:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("name", ["resume.ckpt", "best.pt", "last.pt"])
def test_nothing_in_a_file_is_executed(tmp_path, stopped, finished, name):
    source = stopped if name == "resume.ckpt" else finished / DAMAGED
    directory = shutil.copytree(source, tmp_path / "run")
    content = torch.load(directory / name, weights_only=True)
    torch.save({**content, "more": Harmful(tmp_path / "harmed")}, directory / name)
    with pytest.raises(FileError, match=f"{name}: expected .* no plain data, which are not loaded"):
        train(RUNS[1], directory)
    assert not (tmp_path / "harmed").exists()


def test_names_are_escaped_in_the_page(brc, tmp_path, finished):
    folder = shutil.copytree(finished, tmp_path / "out")
    path = folder / DAMAGED / "config.json"
    config = json.loads(path.read_text())
    config["settings"]["cell"] = "<script>alert(1)</script>:A"
    config["starts"][0]["machine"]["processor"] = '"><img src=x>'
    path.write_text(json.dumps(config))
    (folder / "<b>-seed1").mkdir()
    (folder / "<i>-seed2").write_text("")
    code, _, errors = brc("report", folder, "--output", tmp_path / "page.html")
    assert (code, errors.count("\n")) == (1, 1)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    for text in ("<script>alert", "<img src=x>", "<b>-seed1", "<i>-seed2"):
        assert text not in page
    for text in ("&lt;script&gt;alert", "&lt;b&gt;-seed1", "&lt;i&gt;-seed2"):
        assert text in page


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_file_that_cannot_be_written_is_named_and_the_run_goes_on_later(
    tmp_path, monkeypatch, finished, outcome, number
):
    """At every file that a run writes, in turn, the disk is full, or may not be written."""
    original = files.write_file
    failed = 0
    while True:
        directory = tmp_path / f"failed{failed}"
        writes = iter(range(1000))

        def write_until_full(path, write, writes=writes, last=failed):
            def fail(file):
                file.write_text("half a fi")
                raise OSError(number, os.strerror(number))

            original(path, fail if next(writes) == last else write)

        with monkeypatch.context() as patch:
            for module in (files, recorder, weights):
                patch.setattr(module, "write_file", write_until_full)
            try:
                train(RUNS[1], directory)
                break
            except OSError as error:
                assert error.errno == number  # noqa: PT017 - the loop ends where there is none
                assert str(directory) in error.filename  # noqa: PT017 - likewise
        assert not list(directory.glob("*.tmp"))
        if failed % 5 == 0:
            train(RUNS[1], directory)
            assert outcome(directory) == outcome(finished / DAMAGED)
        failed += 1
    assert failed > 10


def test_a_lock_that_cannot_be_made_is_named(tmp_path, monkeypatch, brc):
    def refuse(self, **_):
        raise PermissionError(errno.EACCES, "Permission denied", self.lock_file)

    monkeypatch.setattr(FileLock, "acquire", refuse)
    code, _, errors = brc("binary-addition", *options(TASK), "--output", tmp_path / "out")
    assert code == 2
    assert errors.splitlines() == [f"Error: {tmp_path / 'out' / 'lock'}: Permission denied"]
