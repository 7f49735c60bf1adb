import dataclasses

import pandas as pd
import pytest
import torch
from torch import nn

from brc_pytorch.datasets import STATE_PROBLEMS, multiplication_table, running_product
from brc_pytorch.experiments.files import TEST
from brc_pytorch.experiments.tasks import StateTrackingTask, state_tracking
from brc_pytorch.experiments.tasks.state_tracking import StateTracker, lengths_tested

TASK = StateTrackingTask(
    problem="S3", hidden_size=8, length=8, epochs_per_length=1, epochs=4, max_test_length=512
)


class Oracle(nn.Module):
    """Knows the state, in the place of recurrent layers, until it has gone a number of steps."""

    def __init__(self, problem, steps):
        super().__init__()
        self.table, self.steps, self.longest = multiplication_table(problem), steps, 0

    def forward(self, inputs, state):
        start, gone = state or (torch.zeros(len(inputs), dtype=torch.int64), 0)
        self.longest = max(self.longest, inputs.shape[1])
        states = running_product(inputs.argmax(-1), self.table, start)
        known = gone + torch.arange(inputs.shape[1]) < self.steps
        told = torch.where(known, states, (states + 1) % len(self.table))
        one_hot = nn.functional.one_hot(told, len(self.table)).float()
        return one_hot, (states[:, -1], gone + inputs.shape[1])


def oracle(problem, steps):
    size = len(multiplication_table(problem))
    network = StateTracker(Oracle(problem, steps), size, size)
    network.linear.weight.data = torch.eye(size)
    network.linear.bias.data.zero_()
    return network


def rows(task, network):
    return list(task.final_tests(network, 0, evaluate=None))


def test_lengths_double_in_training_until_the_last_one():
    task = dataclasses.replace(TASK, length=20, epochs_per_length=2, epochs=10)
    assert [task.length_at(epoch) for epoch in range(10)] == [2, 2, 4, 4, 8, 8, 16, 16, 20, 20]
    assert task.length_at(10_000) == 20


def test_lengths_tested_double_with_others_between():
    assert lengths_tested(64, 128) == [64, 72, 80, 88, 96, 104, 112, 120, 128]
    assert lengths_tested(64, 2**20)[-9::8] == [2**19, 2**20]
    assert lengths_tested(2, 5) == [2, 3, 4, 5]
    assert lengths_tested(7, 7) == [7]


@pytest.mark.parametrize("problem", STATE_PROBLEMS)
def test_who_tracks_the_state_passes_all_lengths(problem):
    task = dataclasses.replace(TASK, problem=problem, test_size=3)
    found = rows(task, oracle(problem, 10**9))
    assert [row["length"] for row in found] == lengths_tested(8, 512)
    assert all(row["accuracy"] == 1 for row in found)


def test_who_fails_is_tested_up_to_twice_that_length():
    found = rows(TASK, oracle("S3", 101))
    accuracies = {row["length"]: row["accuracy"] for row in found}
    assert accuracies[96] == 1  # of steps 89 to 96
    assert accuracies[104] == pytest.approx(5 / 8)  # of steps 97 to 104
    assert accuracies[112] == 0
    assert max(accuracies) == 208


def test_a_long_sequence_goes_through_in_pieces(monkeypatch):
    monkeypatch.setattr(state_tracking, "_CHUNK", 3)
    known = oracle("S3", 10**9)
    assert all(row["accuracy"] == 1 for row in rows(TASK, known))
    assert known.layers.longest == 3


@pytest.mark.parametrize("cell", ["LSTM", "nBRC"])
def test_a_network_goes_on_where_it_was(cell):
    torch.manual_seed(0)
    network = TASK.network(cell)
    elements = torch.randint(6, (4, 11))
    expected = network(elements)
    assert expected.shape == (4, 11, 6)
    first, state = network.go_on(elements[:, :5], None)
    second, _ = network.go_on(elements[:, 5:], state)
    torch.testing.assert_close(torch.cat((first, second), 1), expected)


@dataclasses.dataclass
class Record:
    accuracies: list[float]

    @property
    def tables(self):
        lengths = [64, 72, 80, 88][: len(self.accuracies)]
        return {TEST: pd.DataFrame({"length": lengths, "accuracy": self.accuracies})}


@pytest.mark.parametrize(
    ("accuracies", "value", "text"),
    [
        ([0.5, 0.5], 64, "not learned"),
        ([1.0, 0.9, 0.89, 0.95], 80, "80"),
        ([1.0, 1.0, 1.0, 1.0], 176, "> 88"),
    ],
)
def test_the_failing_length_is_the_first_one_below_90_percent(accuracies, value, text):
    measure, *_ = StateTrackingTask.measures({"length": 64, "max_test_length": 88})
    assert measure.value(Record(accuracies)) == value
    assert measure.show(value) == text


def test_data_differ_by_use_problem_and_seed():
    train, validation = TASK.data(0, 8)
    assert len(train) == 12_800
    assert len(validation) == 1_000
    elements, states = train[:]
    assert elements.shape == states.shape == (12_800, 8)
    assert torch.equal(states, running_product(elements, multiplication_table("S3")))
    again, _ = TASK.data(0, 8)
    other, _ = TASK.data(1, 8)
    assert torch.equal(elements, again[:][0])
    assert not torch.equal(elements, other[:][0])
    assert not torch.equal(elements[:1_000], validation[:][0])


def test_steps_count_when_the_largest_output_is_the_state():
    prediction = torch.tensor([[[2.0, 1], [0, 1]], [[1, 0], [0, 3]]])
    metrics = TASK.metrics(prediction, torch.tensor([[0, 1], [1, 1]]))
    assert float(metrics["accuracy"]) == 0.75
    log = prediction.log_softmax(-1)
    expected = -(log[0, 0, 0] + log[0, 1, 1] + log[1, 0, 1] + log[1, 1, 1]) / 4
    torch.testing.assert_close(metrics["loss"], expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"problem": "S5"}, "problem: expected Z2 or .* or flip-flop, got 'S5'"),
        ({"keep": 1.5}, "keep: expected a share, from 0 to 1, got 1.5"),
        ({"epochs": 2}, "epochs: expected enough to reach length 8 .* got 2"),
        ({"max_test_length": 7}, "max_test_length: expected 8 or more, got 7"),
    ],
)
def test_settings_that_no_run_could_have_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TASK, **changes)
