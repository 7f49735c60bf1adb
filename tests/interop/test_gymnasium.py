"""The T-maze: its rules, as the source gives them."""

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given
from hypothesis import strategies as st

from brc_pytorch.interop.gymnasium import TMaze

RIGHT, UP, LEFT, DOWN = range(4)
SEEN = ["cue up", "cue down", "corridor", "junction"]


def seen(observation):
    """What an observation shows; it is one-hot."""
    assert observation.dtype == np.float32
    assert sorted(observation) == [0, 0, 0, 1]
    return SEEN[observation.argmax()]


def start(env, goal):
    """Go back to the cue, with the goal on this side."""
    for seed in range(100):
        if seen(env.reset(seed=seed)[0]) == f"cue {goal}":
            return
    raise AssertionError(goal)


def moves(env, actions):
    """What is seen and given at each step, and whether the episode ends."""
    found = []
    for action in actions:
        observation, reward, terminated, truncated, _ = env.step(action)
        found.append((seen(observation), reward, terminated, truncated))
    return found


def test_gymnasium_takes_it():
    check_env(TMaze(length=5, stochasticity=0.2), skip_render_check=True)


@pytest.mark.parametrize("length", [2, 3, 10, 100])
@pytest.mark.parametrize(
    ("goal", "turn", "reward"),
    [("up", UP, 4.0), ("up", DOWN, -0.1), ("down", DOWN, 4.0), ("down", UP, -0.1)],
)
def test_the_shortest_way(length, goal, turn, reward):
    """The cue is shown at the start alone, and the turn decides."""
    env = TMaze(length)
    start(env, goal)
    corridor = [("corridor", 0.0, False, False)] * (length - 1)
    end = [("junction", 0.0, False, False), ("junction", reward, True, False)]
    assert moves(env, [RIGHT] * length + [turn]) == corridor + end


def test_walls():
    env = TMaze(length=2)
    start(env, "down")
    wall = [("cue down", -0.1, False, False)] * 3
    assert moves(env, [UP, DOWN, LEFT]) == wall
    assert moves(env, [RIGHT]) == [("corridor", 0.0, False, False)]


def test_the_cue_is_seen_again_where_it_is():
    env = TMaze(length=3)
    start(env, "up")
    assert [each[:2] for each in moves(env, [RIGHT, UP, DOWN, LEFT, RIGHT])] == [
        ("corridor", 0.0),
        ("corridor", -0.1),
        ("corridor", -0.1),
        ("cue up", 0.0),
        ("corridor", 0.0),
    ]


def test_the_junction_has_a_wall_behind_it_and_a_way_back():
    env = TMaze(length=2, max_steps=20)
    start(env, "up")
    assert [each[:2] for each in moves(env, [RIGHT, RIGHT, RIGHT, LEFT, RIGHT, UP])] == [
        ("corridor", 0.0),
        ("junction", 0.0),
        ("junction", -0.1),
        ("corridor", 0.0),
        ("junction", 0.0),
        ("junction", 4.0),
    ]


@pytest.mark.parametrize(("options", "steps"), [({"length": 4}, 11), ({"max_steps": 7}, 7)])
def test_an_episode_without_a_turn_is_truncated(options, steps):
    env = TMaze(**options)
    env.reset(seed=0)
    ends = [each[2:] for each in moves(env, [LEFT] * steps)]
    assert ends == [(False, False)] * (steps - 1) + [(False, True)]
    env.reset()
    assert moves(env, [LEFT])[0][3] is False


@given(
    st.integers(2, 12),
    st.lists(st.integers(0, 3), max_size=40),
    st.integers(0, 99),
    st.sampled_from([0.0, 0.3, 1.0]),
)
def test_the_same_seed_gives_the_same_episode(length, actions, seed, stochasticity):
    episodes = []
    for _ in range(2):
        env = TMaze(length, stochasticity)
        first = seen(env.reset(seed=seed)[0])
        episodes.append([first, *moves(env, actions)])
    assert episodes[0] == episodes[1]


def test_both_goals_are_as_likely():
    env = TMaze()
    env.reset(seed=0)
    ups = sum(seen(env.reset()[0]) == "cue up" for _ in range(10_000))
    assert abs(ups - 5_000) < 250  # five standard deviations


def test_moves_before_the_junction_are_random_at_this_rate():
    """A step to the right is then one in four of them."""
    env = TMaze(length=2, stochasticity=0.4)
    env.reset(seed=0)
    arrived = 0
    for _ in range(10_000):
        env.reset()
        (observation, reward, _, _) = moves(env, [RIGHT])[0]
        assert reward == 0
        arrived += observation == "corridor"
    assert abs(arrived - 7_000) < 250  # 1 - 0.4 * 3 / 4, and five standard deviations


def test_the_turn_is_never_random():
    env = TMaze(length=2, stochasticity=1.0, max_steps=10_000)
    start(env, "up")
    while moves(env, [RIGHT])[0][0] != "junction":
        pass
    assert moves(env, [UP]) == [("junction", 4.0, True, False)]


def test_about_half_of_the_exploring_agents_arrive():
    env = TMaze(length=10)
    generator = np.random.default_rng(0)
    arrived = 0
    env.reset(seed=0)
    for _ in range(400):
        env.reset()
        actions = generator.choice(4, env.max_steps, p=env.exploration)
        arrived += any(observation == "junction" for observation, *_ in moves(env, actions))
    assert 0.4 < arrived / 400 < 0.6


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"length": 1}, ValueError, "length: expected at least 2, got 1"),
        ({"length": 2.5}, TypeError, "length: expected an int, got 2.5"),
        ({"max_steps": 0}, ValueError, "max_steps: expected at least 1, got 0"),
        ({"max_steps": "9"}, TypeError, "max_steps: expected an int, got '9'"),
        ({"stochasticity": 1.5}, ValueError, "stochasticity: expected a probability, got 1.5"),
        ({"stochasticity": -1}, ValueError, "stochasticity: expected a probability, got -1"),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=f"^{message}$"):
        TMaze(**options)


@pytest.mark.parametrize("action", [4, -1, 0.5, "up"])
def test_bad_actions(action):
    env = TMaze()
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"^action: expected an integer from 0 to 3, got "):
        env.step(action)
