"""The example that trains agents on the T-maze, and what it published."""

import json
import sys
from pathlib import Path

import pytest
import torch
from tensordict import TensorDict

from tests.scripts import load_script

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def example():
    """The example as a module."""
    return load_script("examples/t_maze.py")


@pytest.fixture
def _threads():
    """A run computes with one thread: give the others back."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("cell", ["GRU", "BRC", "nBRC"])
def test_an_agent_is_trained(example, monkeypatch, cell):
    monkeypatch.setitem(example.SETTINGS, "mazes", 8)
    monkeypatch.setitem(example.SETTINGS, "solved", 1.0)  # no share is above it
    run = example.train(cell, length=2, seed=0, batches=3)
    assert (run["cell"], run["length"], run["seed"]) == (cell, 2, 0)
    assert run["frames"] == 3 * 8 * 5
    assert len(run["successes"]) == 3
    assert all(0 <= success <= 1 for success in run["successes"])
    assert example.success(run) == pytest.approx(sum(run["successes"]) / 3)


@pytest.mark.usefixtures("_threads")
def test_a_run_ends_when_the_maze_is_solved(example, monkeypatch):
    monkeypatch.setitem(example.SETTINGS, "mazes", 8)
    monkeypatch.setitem(example.SETTINGS, "solved", -1.0)  # any share is above it
    assert len(example.train("BRC", length=2, seed=0, batches=10)["successes"]) == 3


def test_the_policy_starts_as_the_exploring_agent(example):
    agent = example.make_agent("nBRC")
    policy = agent.get_policy_operator()
    step = {"observation": torch.eye(4), "is_init": torch.ones(4, 1, dtype=torch.bool)}
    found = policy(TensorDict(step, [4]))["logits"].softmax(-1)
    torch.testing.assert_close(found, torch.tensor([example.TMaze.exploration] * 4))


def some_runs(example):
    """The file of an experiment with one run of each cell."""
    run = {"length": 5, "seed": 0, "seconds": 20.0, "frames": 896, "successes": [0.5, 0.75]}
    return {"settings": example.SETTINGS, "runs": [{"cell": cell, **run} for cell in example.CELLS]}


def test_runs_that_are_there_are_not_repeated(example, monkeypatch, tmp_path):
    """And the plot is made of them."""
    text = json.dumps(some_runs(example))
    (tmp_path / "t-maze.json").write_text(text)
    arguments = ["--output", str(tmp_path), "--lengths", "5", "--seeds", "0"]
    monkeypatch.setattr(sys, "argv", ["t_maze.py", *arguments])
    example.main()
    assert (tmp_path / "t-maze.json").read_text() == text
    assert (tmp_path / "t-maze.png").stat().st_size > 10_000


def test_a_page_gets_the_table_between_its_marks(example, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n{}\nold\n{}\nafter\n".format(*example.MARKS))
    for _ in range(2):
        example.publish(some_runs(example), page)
        assert page.read_text().splitlines() == [
            "before",
            example.MARKS[0],
            "",
            "| L | cell | episodes at the goal, seed by seed | batches |",
            "|---:|---|---|---|",
            "| 5 | GRU | 62% | 2 |",
            "| 5 | BRC | 62% | 2 |",
            "| 5 | nBRC | 62% | 2 |",
            "",
            "3 runs, 1 minutes of a processor's core in all.",
            "",
            example.MARKS[1],
            "after",
        ]


def test_runs_of_other_settings_are_kept_apart(example, monkeypatch, tmp_path, capsys):
    (tmp_path / "t-maze.json").write_text(json.dumps({"settings": {}, "runs": []}))
    monkeypatch.setattr(sys, "argv", ["t_maze.py", "--output", str(tmp_path)])
    with pytest.raises(SystemExit):
        example.main()
    assert "has runs of other settings; name another --output" in capsys.readouterr().err


def published():
    return json.loads((ROOT / "docs" / "t-maze.json").read_text(encoding="utf-8"))


def test_the_page_shows_what_was_measured(example, tmp_path):
    results = published()
    assert results["settings"] == example.SETTINGS
    assert len(example.table(results)) > 2
    text = (ROOT / "docs" / "agents-and-streams.md").read_text(encoding="utf-8")
    page = tmp_path / "page.md"
    page.write_text(text)
    example.publish(results, page)
    assert page.read_text() == text
    example.publish({**results, "runs": results["runs"][:1]}, page)
    assert page.read_text() != text
