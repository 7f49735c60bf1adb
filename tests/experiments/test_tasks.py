import dataclasses

import pytest
import torch
from torch import nn

from brc_pytorch.experiments import tasks
from brc_pytorch.experiments.tasks import (
    CELLS,
    BinaryAdditionTask,
    CopyFirstInputTask,
    cell_type,
    random_stream,
    recurrent_network,
)

TASKS = [CopyFirstInputTask(length=4, hidden_size=3), BinaryAdditionTask(hidden_size=3)]


def test_defaults_are_the_predecessor_s():
    assert dataclasses.asdict(CopyFirstInputTask()) == {
        "length": 300,
        "layers": 2,
        "hidden_size": 100,
        "train_size": 45_000,
        "test_size": 5_000,
        "batch_size": 100,
        "epochs": 60,
        "learning_rate": 0.001,
        "stop_below": 0.1,
    }
    assert dataclasses.asdict(BinaryAdditionTask()) == {
        "layers": 1,
        "hidden_size": 100,
        "min_length": 3,
        "max_length": 20,
        "epochs_per_length": 15,
        "train_size": 10_000,
        "validation_size": 1_000,
        "batch_size": 200,
        "learning_rate": 0.001,
        "test_size": 1_000,
        "max_test_length": 60,
    }


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("layers", [1, 2])
def test_every_cell_fits_every_task(name, layers):
    copying, adding = (dataclasses.replace(task, layers=layers) for task in TASKS)
    assert copying.network(name)(torch.zeros(5, 4, 1)).shape == (5, 1)
    added = adding.network(name)(torch.zeros(5, 7, 2))
    assert added.shape == (5, 7, 1)
    assert bool(((added > 0) & (added < 1)).all())


@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_copying_reads_the_last_layer_s_last_hidden_state(name):
    network = TASKS[0].network(name)
    torch_s = {"LSTM": nn.LSTM, "GRU": nn.GRU}[name](1, 3, num_layers=2, batch_first=True)
    cells = [module for module in network.modules() if isinstance(module, cell_type(name))]
    for layer, cell in enumerate(cells):
        for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(torch_s, f"{kind}_l{layer}").data = getattr(cell, kind).data
    inputs = torch.randn(5, 4, 1)
    torch.testing.assert_close(network(inputs), network[-1](torch_s(inputs)[0][:, -1]))


def test_copy_first_input_data_are_those_of_the_settings():
    task = CopyFirstInputTask(length=6, train_size=7, test_size=3)
    train, test = task.data(seed=0, length=6)
    assert (len(train), len(test)) == (7, 3)
    inputs, targets = train[:]
    assert inputs.shape == (7, 6, 1)
    assert torch.equal(targets, inputs[:, 0])
    assert not torch.isin(test[:][1], targets).any()


def test_binary_addition_goes_through_the_lengths_and_is_tested_beyond():
    task = BinaryAdditionTask(
        min_length=3, max_length=5, epochs_per_length=2, max_test_length=7, test_size=4
    )
    assert task.total_epochs == 6
    assert [task.length_at(epoch) for epoch in range(6)] == [3, 3, 4, 4, 5, 5]
    tests = list(task.final_tests(seed=0))
    assert [length for length, _ in tests] == [3, 4, 5, 6, 7]
    assert [tuple(data.x.shape) for _, data in tests] == [(4, n + 1, 2) for n in range(3, 8)]
    train, validation = task.data(seed=0, length=4)
    assert (len(train), len(validation)) == (10_000, 1_000)
    assert train.x.shape[1:] == validation.x.shape[1:] == (5, 2)


def test_a_sum_counts_only_when_all_of_its_bits_are_right():
    target = torch.tensor([[1.0, 0, 1], [0, 1, 1], [1, 1, 0], [0, 0, 0]])[..., None]
    prediction = torch.where(target > 0, 0.6, 0.4)
    prediction[1, 2] = 0.3
    metrics = BinaryAdditionTask().metrics(prediction, target)
    assert float(metrics["accuracy"]) == 0.75
    expected = (11 * -torch.tensor(0.6).log() - torch.tensor(0.3).log()) / 12
    torch.testing.assert_close(metrics["loss"], expected)


def test_copying_is_solved_below_the_limit():
    task = CopyFirstInputTask(stop_below=0.1)
    assert task.is_solved(0.0999)
    assert not task.is_solved(0.1)


def test_streams_differ_by_seed_and_purpose_and_repeat():
    def draw(*names):
        return tuple(torch.randn(3, generator=random_stream(*names)).tolist())

    assert draw(0, "train", 5) == draw(0, "train", 5)
    streams = {draw(0, "train", 5), draw(1, "train", 5), draw(0, "test", 5), draw(0, "train", 6)}
    assert len(streams) == 4


@pytest.mark.parametrize(("name", "mode"), [("Plain", "RNN"), ("Pair", "LSTM")])
def test_a_cell_of_one_s_own_shows_its_state_by_a_step(own_cells, name, mode):
    network = recurrent_network(f"{own_cells}:{name}", 2, 3, 2, return_sequences=False)
    last = network(torch.zeros(5, 4, 2))
    assert isinstance(last, tuple) == (mode == "LSTM")
    assert (last[0] if mode == "LSTM" else last).shape == (1, 5, 3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nbcr", "cell: expected a known name .* 'nbcr'; did you mean nBRC"),
        ("zzz", "known are LSTM, GRU, RNN, BRC, nBRC, PeepholeLSTM"),
        ("no_such_module:Cell", "no module named 'no_such_module'"),
        ("torch.nn.no_such:Cell", "no module named 'torch.nn.no_such'"),
        ("torch.nn:GRUCel", "expected a class of torch.nn .* did you mean GRUCell"),
        ("own_cells:not_a_class", "expected a class of own_cells"),
    ],
)
@pytest.mark.usefixtures("own_cells")
def test_an_unknown_cell_gets_the_nearest_name(name, message):
    with pytest.raises(ValueError, match=message):
        cell_type(name)


def test_an_import_error_inside_the_user_s_module_is_theirs_to_see(tmp_path, monkeypatch):
    (tmp_path / "needs_more.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there"):
        cell_type("needs_more:Cell")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CopyFirstInputTask(length=0), "length: expected 1 or more, got 0"),
        (lambda: CopyFirstInputTask(learning_rate=-1), "learning_rate: expected 0 or more"),
        (lambda: BinaryAdditionTask(min_length=1), "min_length: expected 2 or more, got 1"),
        (lambda: BinaryAdditionTask(max_length=2), "max_length: expected 3 or more, got 2"),
        (lambda: BinaryAdditionTask(max_test_length=2), "max_test_length: expected 3 or more"),
        (lambda: BinaryAdditionTask(test_size=0), "test_size: expected 1 or more, got 0"),
    ],
)
def test_settings_that_no_run_could_have_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_every_task_is_found_by_its_name_and_made_from_its_settings():
    for task in TASKS:
        settings = dataclasses.asdict(task)
        assert tasks.TASKS[task.name](**settings) == task
