import dataclasses
import json
from importlib.metadata import version

import pandas as pd
import pytest
import torch

from brc_pytorch import ops
from brc_pytorch.experiments import files, weights
from brc_pytorch.experiments.tasks import (
    BinaryAdditionTask,
    CopyFirstInputTask,
    StateTrackingTask,
    random_stream,
)
from brc_pytorch.experiments.train import fit, machine, recorder
from brc_pytorch.experiments.train.run import Run
from brc_pytorch.experiments.train.training import train

COPY = CopyFirstInputTask(
    length=4, layers=1, hidden_size=4, train_size=35, test_size=25, batch_size=10, epochs=3
)
ADD = BinaryAdditionTask(
    hidden_size=4,
    min_length=3,
    max_length=4,
    epochs_per_length=2,
    train_size=25,
    validation_size=15,
    batch_size=10,
    test_size=10,
    max_test_length=6,
)


class Killed(BaseException):
    """Ends the program where it is, as a signal would."""


def names(directory):
    return {path.name for path in directory.iterdir()}


def test_a_run_leaves_its_tables_models_and_result(tmp_path):
    result = train(Run(COPY, "GRU", 3), tmp_path / "run")
    assert names(tmp_path / "run") == {
        "config.json",
        "training.csv",
        "epochs.csv",
        "best.pt",
        "last.pt",
        "result.json",
    }

    losses = pd.read_csv(tmp_path / "run/training.csv")
    assert list(losses) == ["iteration", "epoch", "length", "loss"]
    assert losses["iteration"].tolist() == list(range(1, 13))
    assert losses["epoch"].tolist() == [1] * 4 + [2] * 4 + [3] * 4

    epochs = pd.read_csv(tmp_path / "run/epochs.csv")
    assert list(epochs) == ["epoch", "iteration", "length", "train_loss", "test_loss"]
    assert epochs["iteration"].tolist() == [4, 8, 12]
    means = losses.groupby("epoch")["loss"].mean()
    assert epochs["train_loss"].tolist() == pytest.approx(means.tolist())

    config = json.loads((tmp_path / "run/config.json").read_text())
    assert config["settings"] == {
        "task": "copy-first-input",
        "cell": "GRU",
        "seed": 3,
        **dataclasses.asdict(COPY),
    }
    (start,) = config["starts"]
    assert start["versions"]["torch"] == version("torch")
    assert start["machine"]["device"] == "cpu"
    assert start["machine"]["threads"] == 1
    assert start["machine"]["backend"] == ops.backend_for(torch.device("cpu"))

    assert json.loads((tmp_path / "run/result.json").read_text()) == result
    assert result["settings"] == config["settings"]
    assert result["best_test_loss"] == epochs["test_loss"].min()
    assert result["last_test_loss"] == epochs["test_loss"].iloc[-1]
    assert (result["iterations"], result["epochs"]) == (12, 3)
    assert result["parameters"] == sum(p.numel() for p in COPY.network("GRU").parameters())


def test_the_saved_models_have_the_losses_of_the_tables(tmp_path):
    # A learning rate at which the test loss goes up again: the best model is not the last.
    task = dataclasses.replace(COPY, learning_rate=2, epochs=6)
    result = train(Run(task, "RNN", 0), tmp_path)
    assert result["best_epoch"] < 6
    inputs, targets = task.data(0, task.length)[1][:]
    network = task.network("RNN")
    for name in ("best", "last"):
        network.load_state_dict(torch.load(tmp_path / f"{name}.pt", weights_only=True))
        loss = task.loss(network(inputs), targets).item()
        assert loss == pytest.approx(result[f"{name}_test_loss"], rel=1e-5)


def test_the_best_model_is_one_of_the_longest_sequences(tmp_path):
    # Two steps are easy to tell, however little is learned of eight.
    task = StateTrackingTask(
        problem="Z2",
        hidden_size=16,
        length=8,
        epochs=4,
        train_size=1600,
        validation_size=100,
        batch_size=32,
        learning_rate=0.01,
        test_size=2,
        max_test_length=8,
    )
    result = train(Run(task, "BRC", 0), tmp_path)
    epochs = pd.read_csv(tmp_path / "epochs.csv")
    assert epochs["length"].tolist() == [2, 4, 8, 8]
    assert epochs["validation_loss"].idxmin() == 0
    assert result["best_epoch"] == epochs["validation_loss"][2:].idxmin() + 1
    elements, states = task.data(0, 8)[1][:]
    network = task.network("BRC")
    network.load_state_dict(torch.load(tmp_path / "best.pt", weights_only=True))
    loss = task.loss(network(elements), states).item()
    assert loss == pytest.approx(result["best_validation_loss"], rel=1e-5)


def test_binary_addition_trains_each_length_and_tests_the_last_model(tmp_path):
    result = train(Run(ADD, "LSTM", 0), tmp_path)
    assert names(tmp_path) == {
        "test.csv",
        "config.json",
        "training.csv",
        "epochs.csv",
        "best.pt",
        "last.pt",
        "result.json",
    }
    epochs = pd.read_csv(tmp_path / "epochs.csv")
    assert epochs["length"].tolist() == [3, 3, 4, 4]
    assert list(epochs)[-2:] == ["validation_loss", "validation_accuracy"]
    last = epochs[epochs["length"] == 4]
    assert result["best_validation_loss"] == last["validation_loss"].min()
    tests = pd.read_csv(tmp_path / "test.csv")
    assert tests["length"].tolist() == [3, 4, 5, 6]
    network = ADD.network("LSTM")
    network.load_state_dict(torch.load(tmp_path / "last.pt", weights_only=True))

    def evaluate(data):
        inputs, targets = data[:]
        with torch.no_grad():
            metrics = ADD.metrics(network(inputs), targets)
        return {name: float(value) for name, value in metrics.items()}

    for expected, row in zip(
        ADD.final_tests(network, 0, evaluate), tests.itertuples(), strict=True
    ):
        assert row.loss == pytest.approx(expected["loss"], rel=1e-5)
        assert row.accuracy == pytest.approx(expected["accuracy"])


def test_the_losses_are_those_of_a_plain_loop(tmp_path):
    train(Run(COPY, "BRC", 1), tmp_path)
    with torch.random.fork_rng():
        torch.manual_seed(random_stream(1, "weights").initial_seed())
        network = COPY.network("BRC")
    optimizer = torch.optim.Adam(network.parameters())
    inputs, targets = COPY.data(1, COPY.length)[0][:]
    losses = []
    for epoch in range(COPY.epochs):
        order = torch.randperm(35, generator=random_stream(1, "order", epoch))
        for batch in order.split(10):
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(network(inputs[batch]), targets[batch])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    table = pd.read_csv(tmp_path / "training.csv", dtype=str)  # pandas 2 reads numbers to an ulp
    assert [float(loss) for loss in table["loss"]] == losses


def test_runs_repeat_and_the_seed_decides(tmp_path, outcome):
    state = torch.get_rng_state()
    train(Run(COPY, "BRC", 1), tmp_path / "one")
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    train(Run(COPY, "BRC", 1), tmp_path / "two")
    assert outcome(tmp_path / "one") == outcome(tmp_path / "two")
    train(Run(COPY, "BRC", 2), tmp_path / "three")
    assert outcome(tmp_path / "one")["last.pt"] != outcome(tmp_path / "three")["last.pt"]


def test_training_ends_after_the_first_epoch_below_the_limit(tmp_path):
    result = train(Run(dataclasses.replace(COPY, stop_below=10), "GRU", 0), tmp_path)
    assert (result["epochs"], result["solved"]) == (1, True)


def test_a_run_that_diverges_from_the_start_has_a_best_model(tmp_path):
    task = dataclasses.replace(COPY, learning_rate=1e30)
    result = train(Run(task, "RNN", 0), tmp_path)
    assert result["solved"] is False
    assert result["last_test_loss"] is None
    assert (tmp_path / "best.pt").exists()
    # JSON knows no NaN and no infinity; the file must stay readable by any program.
    text = (tmp_path / "result.json").read_text()
    assert json.loads(text, parse_constant=lambda name: pytest.fail(f"not JSON: {name}")) == result


def test_a_finished_run_is_not_repeated(tmp_path, monkeypatch):
    first = train(Run(COPY, "GRU", 0), tmp_path)
    monkeypatch.setattr(CopyFirstInputTask, "network", None)
    assert train(Run(COPY, "GRU", 0), tmp_path) == first


@pytest.mark.parametrize("task", [COPY, ADD], ids=["copy", "add"])
@pytest.mark.parametrize("moment", ["before", "within", "after"])
@pytest.mark.usefixtures("own_cells")
def test_a_run_killed_at_any_write_goes_on_as_if_it_were_not(
    tmp_path, monkeypatch, outcome, moment, task
):
    """At every file that a run writes, in turn, it is killed; then it is called again."""
    run = Run(task, "own_cells:Plain", 0)  # it draws random numbers, which must repeat, too
    train(run, tmp_path / "whole")
    original = files.write_file
    killed = 0
    while True:
        directory = tmp_path / f"killed{killed}"
        writes = iter(range(1000))

        def write_until_killed(path, write, writes=writes, last=killed):
            if next(writes) != last:
                original(path, write)
                return
            if moment == "within":
                path.with_name(f"{path.name}.tmp").write_text("half a fi")
            if moment == "after":
                original(path, write)
            raise Killed

        for module in (files, recorder, weights):
            monkeypatch.setattr(module, "write_file", write_until_killed)
        try:
            train(run, directory)
        except Killed:
            killed += 1
            for module in (files, recorder, weights):
                monkeypatch.setattr(module, "write_file", original)
            train(run, directory)
            assert outcome(directory) == outcome(tmp_path / "whole")
            assert names(directory) == names(tmp_path / "whole")
        else:
            break
    assert killed > 10


def test_a_run_stopped_within_an_epoch_repeats_that_epoch(tmp_path, monkeypatch, outcome):
    monkeypatch.setattr(fit, "_SECONDS_BETWEEN_UPDATES", 0)

    def stop_at(iteration):
        def report(progress):
            if progress.iteration == iteration:
                raise KeyboardInterrupt

        return report

    run = Run(COPY, "nBRC", 0)
    train(run, tmp_path / "whole")
    for iteration in (1, 6, 11):
        with pytest.raises(KeyboardInterrupt):
            train(run, tmp_path / "stopped", report=stop_at(iteration))
    train(run, tmp_path / "stopped")
    assert outcome(tmp_path / "stopped") == outcome(tmp_path / "whole")
    starts = json.loads((tmp_path / "stopped/config.json").read_text())["starts"]
    assert len(starts) == 4


def test_progress_counts_to_the_whole_run(tmp_path, monkeypatch):
    monkeypatch.setattr(fit, "_SECONDS_BETWEEN_UPDATES", 0)
    seen = []
    train(Run(ADD, "GRU", 0), tmp_path, report=seen.append)
    trained = [progress for progress in seen if progress.doing.startswith("length")]
    assert [progress.iteration for progress in trained] == list(range(1, 13))
    assert {progress.iterations for progress in trained} == {12}
    assert trained[0].held_out is None
    losses = pd.read_csv(tmp_path / "training.csv")["loss"].tolist()
    assert [progress.loss for progress in trained] == losses
    held_out = pd.read_csv(tmp_path / "epochs.csv")["validation_loss"]
    assert trained[-1].held_out == held_out.iloc[-2]
    assert {progress.doing for progress in seen} >= {
        "length 3",
        "validation",
        "tested up to length 6",
    }


def test_a_directory_of_other_settings_is_refused(tmp_path):
    train(Run(COPY, "GRU", 0), tmp_path)
    other = dataclasses.replace(COPY, hidden_size=5, epochs=9)
    with pytest.raises(ValueError, match="hidden_size is 4 there, 5 here; epochs is 3 there, 9"):
        train(Run(other, "GRU", 0), tmp_path)


def test_devices_are_checked(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert machine.choose_device("auto").type == "cpu"
    with pytest.raises(ValueError, match="device: expected auto, cpu, cuda or cuda:N, got 'tpu'"):
        train(Run(COPY, "GRU", 0), tmp_path, device="tpu")
    with pytest.raises(ValueError, match="device: expected a CUDA device"):
        train(Run(COPY, "GRU", 0), tmp_path, device="cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert machine.choose_device("auto").type == "cuda"
    assert machine.choose_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(ValueError, match="expected a CUDA device for 'cuda:2', found 2"):
        train(Run(COPY, "GRU", 0), tmp_path, device="cuda:2")


def test_nothing_is_printed(tmp_path, capfd):
    train(Run(ADD, "GRU", 0), tmp_path)
    assert capfd.readouterr() == ("", "")
