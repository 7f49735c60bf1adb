import pandas as pd
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from brc_pytorch.experiments.tasks import BinaryAdditionTask, CopyFirstInputTask
from brc_pytorch.experiments.train import fit, recorder
from brc_pytorch.experiments.train.run import Run
from brc_pytorch.experiments.train.training import train

COPY = CopyFirstInputTask(
    length=4, layers=1, hidden_size=4, train_size=35, test_size=25, batch_size=10, epochs=3
)
ADD = BinaryAdditionTask(
    hidden_size=4,
    max_length=4,
    epochs_per_length=1,
    train_size=25,
    validation_size=15,
    batch_size=10,
    test_size=10,
    max_test_length=6,
)


def points(directory):
    """All points of all event files, in the order of the files and of writing, by tag."""
    found = {}
    for path in sorted((directory / "tensorboard").glob("*tfevents*")):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                (number,) = value.tensor.float_val
                found.setdefault(value.tag, []).append((event.step, pytest.approx(number)))
    return found


def tables(directory, held_out):
    """The same points, from the run's tables."""
    losses = pd.read_csv(directory / "training.csv")
    epochs = pd.read_csv(directory / "epochs.csv")
    expected = {"train/loss": list(zip(losses["iteration"], losses["loss"], strict=True))}
    for name in epochs:
        if name.startswith(f"{held_out}_"):
            tag = name.replace("_", "/")
            expected[tag] = list(zip(epochs["iteration"], epochs[name], strict=True))
    if (directory / "test.csv").exists():
        tests = pd.read_csv(directory / "test.csv")
        for name in ("loss", "accuracy"):
            expected[f"final_test/{name}"] = list(zip(tests["length"], tests[name], strict=True))
    return expected


@pytest.mark.parametrize(("task", "held_out"), [(COPY, "test"), (ADD, "validation")])
def test_the_log_holds_what_the_tables_hold(tmp_path, task, held_out):
    train(Run(task, "GRU", 0), tmp_path, tensorboard=True)
    assert points(tmp_path) == tables(tmp_path, held_out)


def test_the_log_changes_nothing_else(tmp_path, outcome):
    train(Run(COPY, "nBRC", 0), tmp_path / "without")
    train(Run(COPY, "nBRC", 0), tmp_path / "with", tensorboard=True)
    assert outcome(tmp_path / "without") == outcome(tmp_path / "with")
    files = {path.name for path in (tmp_path / "without").iterdir()}
    assert {path.name for path in (tmp_path / "with").iterdir()} == {*files, "tensorboard"}


@pytest.mark.parametrize("first", [True, False])
def test_a_run_that_goes_on_repeats_no_point_and_lacks_none(tmp_path, monkeypatch, first):
    """Stopped within an epoch, and between the points of an epoch and its checkpoint."""
    monkeypatch.setattr(fit, "_SECONDS_BETWEEN_UPDATES", 0)
    run = Run(COPY, "GRU", 0)

    def stop(progress):
        if progress.iteration == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(run, tmp_path, report=stop, tensorboard=first)
    assert (tmp_path / "tensorboard").exists() == first

    checkpoint, written = tmp_path / "resume.ckpt", []
    original = recorder.write_file

    def write_all_but_the_second_checkpoint(path, write):
        written.append(path)
        if path == checkpoint and written.count(path) == 2:
            raise KeyboardInterrupt
        original(path, write)

    monkeypatch.setattr(recorder, "write_file", write_all_but_the_second_checkpoint)
    with pytest.raises(KeyboardInterrupt):
        train(run, tmp_path, tensorboard=True)
    monkeypatch.setattr(recorder, "write_file", original)
    train(run, tmp_path, tensorboard=True)
    assert points(tmp_path) == tables(tmp_path, "test")
    assert len(points(tmp_path)["train/loss"]) == 12


def test_tensorboard_s_own_reader_shows_each_point_once(tmp_path):
    train(Run(COPY, "GRU", 0), tmp_path, tensorboard=True)
    reader = EventAccumulator(str(tmp_path / "tensorboard"))
    reader.Reload()
    assert sorted(reader.Tags()["scalars"]) == ["test/loss", "train/loss"]
    assert [event.step for event in reader.Scalars("train/loss")] == list(range(1, 13))
