"""The T-maze, a task that takes memory, as a gymnasium environment.

Needs the extra ``[torchrl]``.
"""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from brc_pytorch.layers.checks import check_size

Observation = NDArray[np.float32]

_GOAL_UP, _GOAL_DOWN, _CORRIDOR, _JUNCTION = range(4)  # observations
_RIGHT, _UP, _LEFT, _DOWN = range(4)  # actions
_REWARD, _PENALTY = 4.0, -0.1
_SHORTEST = 2


class TMaze(gymnasium.Env[Observation, np.int64]):
    r"""A corridor with a cue at its start that says where to turn at its end.

    ::

                                    +----+
                                    | up |
        +-----+---+---+-----+-------+----------+
        | cue | 1 | 2 | ... | L - 1 | junction |
        +-----+---+---+-----+-------+----------+
                                    | down |
                                    +------+

    One of the two turns leads to the goal, each as likely as the other. The agent starts at the
    cue, the only place that shows which one, and has to know it still at the junction, L steps on.

    - observation: where the agent is, one-hot, (4) in float32: the cue for up, the cue for down,
      the corridor, the junction.
    - action: 0 right, 1 up, 2 left, 3 down. A move against a wall leaves the agent where it is.
    - reward: 4 for the turn to the goal, -0.1 for the other turn and for a move against a wall,
      0 otherwise.
    - end: after a turn, or, truncated, after ``max_steps``.

    An agent that remembers gets 4 in L + 1 steps; the best without memory gets 1.95 on average.

    Source: Lambrechts, De Geeter, Vecoven, Ernst and Drion, "Warming up recurrent neural networks
    to maximise reachable multistability greatly improves learning", Neural Networks 2023,
    arXiv 2106.01001; first in Bakker, "Reinforcement Learning with Long Short-Term Memory",
    NeurIPS 2001.

    Args:
        length: L, at least 2. Default: 10.
        stochasticity: probability that, before the junction, the agent moves at random instead of
            as its action says; the reward is that of its action. Default: 0.
        max_steps: after how many steps an episode is truncated. Default: 3 L - 1, as in the source.

    Attributes:
        exploration: the probabilities of the actions of the source's exploring agent, (4), which
            advances by a third of a step on average.

    Raises:
        TypeError: ``length`` or ``max_steps`` is no integer.
        ValueError: ``length`` is below 2, ``max_steps`` below 1, or ``stochasticity`` no
            probability.

    Example:
        >>> from brc_pytorch.interop.gymnasium import TMaze
        >>> env = TMaze(length=3)
        >>> cue, _ = env.reset(seed=0)
        >>> for action in (0, 0, 0, 1 if cue[0] else 3):
        ...     observation, reward, terminated, truncated, _ = env.step(action)
        >>> reward, terminated
        (4.0, True)
    """

    exploration = (1 / 2, 1 / 6, 1 / 6, 1 / 6)

    def __init__(
        self, length: int = 10, stochasticity: float = 0.0, max_steps: int | None = None
    ) -> None:
        self.length = check_size("length", length)
        if length < _SHORTEST:
            raise ValueError(f"length: expected at least {_SHORTEST}, got {length}")
        if not 0 <= stochasticity <= 1:
            raise ValueError(f"stochasticity: expected a probability, got {stochasticity}")
        self.stochasticity = stochasticity
        self.max_steps = check_size("max_steps", 3 * length - 1 if max_steps is None else max_steps)
        self.observation_space = spaces.Box(0, 1, (4,), np.float32)
        self.action_space = spaces.Discrete(4)
        self._goal = _UP
        self._position = self._steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Draw the goal and go back to the cue.

        Args:
            seed: of the environment's random numbers; None goes on with those at hand.
            options: none are known.

        Returns:
            The cue, (4), and an empty dictionary.
        """
        super().reset(seed=seed, options=options)
        self._goal = _UP if self.np_random.random() < 1 / 2 else _DOWN
        self._position = self._steps = 0
        return self._observation(), {}

    def step(self, action: np.int64 | int) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Move.

        Args:
            action: 0 right, 1 up, 2 left, 3 down.

        Returns:
            The observation, (4), the reward, whether the agent has turned, whether the episode is
            truncated, and an empty dictionary.

        Raises:
            ValueError: there is no such action.
        """
        if not self.action_space.contains(action):
            raise ValueError(f"action: expected an integer from 0 to 3, got {action!r}")
        self._steps += 1
        truncated = self._steps >= self.max_steps
        if self._position == self.length and action in (_UP, _DOWN):
            reward = _REWARD if action == self._goal else _PENALTY
            return self._observation(), reward, True, truncated, {}
        walls = {_LEFT} if self._position == 0 else set()
        walls |= {_RIGHT} if self._position == self.length else {_UP, _DOWN}
        reward = _PENALTY if action in walls else 0.0
        if self._position < self.length and self.np_random.random() < self.stochasticity:
            action = self.np_random.integers(4)
        if action == _RIGHT:
            self._position = min(self._position + 1, self.length)
        elif action == _LEFT:
            self._position = max(self._position - 1, 0)
        return self._observation(), reward, False, truncated, {}

    def _observation(self) -> Observation:
        if self._position == 0:
            seen = _GOAL_UP if self._goal == _UP else _GOAL_DOWN
        else:
            seen = _JUNCTION if self._position == self.length else _CORRIDOR
        observation = np.zeros(4, np.float32)
        observation[seen] = 1
        return observation
