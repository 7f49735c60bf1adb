"""Trains recurrent agents on the T-maze with TorchRL: ``python examples/t_maze.py``.

The cue at the start of a corridor of length L says where to turn at its end. One agent for each
cell, length and seed learns by PPO until it reaches the goal in nearly all of its episodes, or its
batches are used up. What is measured goes to ``docs/t-maze.json``, run by run, and a run that is
there is not repeated; ``docs/t-maze.png`` and a table in ``docs/agents-and-streams.md`` show it.
Needs ``pip install "brc_pytorch[torchrl]"``
and Matplotlib.
"""

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.collectors import Collector
from torchrl.envs import GymWrapper, TransformedEnv
from torchrl.modules import (
    ActorValueOperator,
    GRUModule,
    ProbabilisticActor,
    ValueOperator,
    set_recurrent_mode,
)
from torchrl.modules.utils import get_env_transforms_from_module
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

from brc_pytorch.interop.gymnasium import TMaze
from brc_pytorch.interop.torchrl import BRCModule, NBRCModule

DOCS = Path(__file__).parents[1] / "docs"
CELLS = {"GRU": GRUModule, "BRC": BRCModule, "nBRC": NBRCModule}
COLOURS = {"GRU": "#7f7f7f", "BRC": "#0072b2", "nBRC": "#d55e00"}
SETTINGS = {
    "hidden_size": 32,
    "mazes": 64,  # at once; a batch is as many steps of each as an episode can have
    "batches": 60,
    "epochs": 8,
    "learning_rate": 3e-3,
    "gamma": 0.98,  # as in the source of the T-maze
    "lambda": 0.95,
    "entropy": 0.01,
    "gradient_norm": 0.5,
    "solved": 0.95,  # the share of episodes at the goal, in three batches one after the other
}
SOLVED_BATCHES = 3
MARKS = "<!-- measured on the T-maze -->", "<!-- end -->"


def make_agent(cell: str) -> ActorValueOperator:
    """Make a policy and a value that share one recurrent layer.

    The policy starts as the exploring agent of the T-maze's source, whatever it has seen.
    """
    hidden = SETTINGS["hidden_size"]
    memory = CELLS[cell](4, hidden, in_key="observation", out_key="memory")
    logits = nn.Linear(hidden, 4)
    with torch.no_grad():
        logits.weight.zero_()
        logits.bias.copy_(torch.tensor(TMaze.exploration).log())
    actor = ProbabilisticActor(
        TensorDictModule(logits, ["memory"], ["logits"]),
        in_keys=["logits"],
        distribution_class=torch.distributions.OneHotCategorical,
        return_log_prob=True,
    )
    return ActorValueOperator(memory, actor, ValueOperator(nn.Linear(hidden, 1), ["memory"]))


def train(cell: str, length: int, seed: int, batches: int) -> dict[str, Any]:
    """Train one agent; return what it did, batch by batch."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    agent = make_agent(cell)
    policy, value = agent.get_policy_operator(), agent.get_value_operator()
    mazes = SyncVectorEnv(
        [functools.partial(TMaze, length)] * SETTINGS["mazes"],
        autoreset_mode=AutoresetMode.DISABLED,
    )
    env = TransformedEnv(GymWrapper(mazes), get_env_transforms_from_module(policy))
    env.set_seed(seed)
    frames = SETTINGS["mazes"] * (3 * length - 1)
    collector = Collector(
        env,
        policy,
        frames_per_batch=frames,
        total_frames=batches * frames,
        auto_register_policy_transforms=False,  # they are there
    )
    estimate = GAE(
        gamma=SETTINGS["gamma"],
        lmbda=SETTINGS["lambda"],
        value_network=value,
        average_gae=True,
        deactivate_vmap=True,  # recurrent networks run without it
    )
    loss = ClipPPOLoss(policy, value, entropy_coeff=SETTINGS["entropy"])
    optimizer = torch.optim.Adam(loss.parameters(), SETTINGS["learning_rate"])
    start, successes = time.process_time(), []  # whatever else this machine does
    for data in collector:
        rewards, ends = data["next", "reward"], data["next", "done"]
        successes.append((rewards[ends] > 1).double().mean().item())
        last = successes[-SOLVED_BATCHES:]
        if len(last) == SOLVED_BATCHES and min(last) > SETTINGS["solved"]:
            break
        with torch.no_grad(), set_recurrent_mode(True):
            estimate(data)
        for _ in range(SETTINGS["epochs"]):
            losses = loss(data)
            optimizer.zero_grad()
            sum(losses[f"loss_{part}"] for part in ("objective", "critic", "entropy")).backward()
            nn.utils.clip_grad_norm_(loss.parameters(), SETTINGS["gradient_norm"])
            optimizer.step()
    collector.shutdown()
    return {
        "cell": cell,
        "length": length,
        "seed": seed,
        "seconds": round(time.process_time() - start, 1),
        "frames": len(successes) * frames,
        "successes": [round(success, 4) for success in successes],
    }


def success(run: dict[str, Any]) -> float:
    """The share of episodes that ended at the goal, over the last batches of a run."""
    last = run["successes"][-SOLVED_BATCHES:]
    return sum(last) / len(last)


def table(results: dict[str, Any]) -> list[str]:
    """For every length and cell the successes and batches of each seed, as a Markdown table.

    Below it stands how long all of this took.
    """
    lines = ["| L | cell | episodes at the goal, seed by seed | batches |", "|---:|---|---|---|"]
    runs = results["runs"]
    for length in sorted({run["length"] for run in runs}):
        for cell in CELLS:
            found = [run for run in runs if (run["cell"], run["length"]) == (cell, length)]
            shares = ", ".join(f"{success(run):.0%}" for run in found)
            batches = ", ".join(str(len(run["successes"])) for run in found)
            if found:
                lines.append(f"| {length} | {cell} | {shares} | {batches} |")
    minutes = sum(run["seconds"] for run in runs) / 60
    return [*lines, "", f"{len(runs)} runs, {minutes:.0f} minutes of a processor's core in all."]


def publish(results: dict[str, Any], page: Path) -> None:
    """Put the table where the marks of a page say."""
    before, _, rest = page.read_text(encoding="utf-8").partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    parts = [before, MARKS[0], "\n\n", "\n".join(table(results)), "\n\n", MARKS[1], after]
    page.write_text("".join(parts), encoding="utf-8")


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw every run as a point, and the median over seeds as a line, against the length."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    left.axhline(0.5, color="black", linestyle=":", linewidth=1)
    across = left.get_yaxis_transform()  # x in parts of the axes
    left.text(1, 0.49, "turning without memory", ha="right", va="top", transform=across)
    left.set(ylim=(-0.03, 1.03), ylabel="episodes that end at the goal")
    left.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    draw_runs(left, results["runs"], success)
    draw_runs(right, results["runs"], lambda run: len(run["successes"]))
    right.set(ylim=(0, 1.05 * results["settings"]["batches"]), ylabel="batches until then")
    left.legend(loc="lower left", title="one point a seed", frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def draw_runs(
    axes: plt.Axes, runs: list[dict[str, Any]], measure: Callable[[dict[str, Any]], float]
) -> None:
    """Draw a number of every run against the length, the cells side by side."""
    lengths = sorted({run["length"] for run in runs})
    for number, (cell, colour) in enumerate(COLOURS.items()):
        shift = 0.12 * (number - 1)
        medians = []
        for place, length in enumerate(lengths):
            found = [measure(run) for run in runs if (run["cell"], run["length"]) == (cell, length)]
            axes.scatter([place + shift] * len(found), found, color=colour, alpha=0.6, zorder=3)
            medians.append(statistics.median(found) if found else float("nan"))
        places = [place + shift for place in range(len(lengths))]
        axes.plot(places, medians, color=colour, label=cell)
    axes.set_xticks(range(len(lengths)), map(str, lengths))
    axes.set(xlabel="length L of the corridor", xlim=(-0.5, len(lengths) - 0.5))
    axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    """Read the command line, train what has not been trained, and draw."""

    def listed(kind: type) -> Any:  # noqa: ANN401 - what argparse calls
        return lambda text: [kind(each) for each in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=listed(str), default=[*CELLS], help="default: all")
    parser.add_argument("--lengths", type=listed(int), default=[5, 10, 20, 40])
    parser.add_argument("--seeds", type=listed(int), default=[0, 1, 2])
    parser.add_argument("--batches", type=int, default=SETTINGS["batches"])
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time; default: 2")
    parser.add_argument("--output", type=Path, default=DOCS, help="folder; default: docs")
    arguments = parser.parse_args()
    path = arguments.output / "t-maze.json"
    settings = SETTINGS | {"batches": arguments.batches}
    results: dict[str, Any] = {"settings": settings, "runs": []}
    if path.exists():
        results = json.loads(path.read_text(encoding="utf-8"))
        if results["settings"] != settings:
            parser.error(f"{path} has runs of other settings; name another --output")
    done = {(run["cell"], run["length"], run["seed"]) for run in results["runs"]}
    planned = product(arguments.lengths, arguments.seeds, arguments.cells)
    with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
        waiting = [
            pool.submit(train, cell, length, seed, arguments.batches)
            for length, seed, cell in planned
            if (cell, length, seed) not in done
        ]
        for future in as_completed(waiting):
            run = future.result()
            print(*(run[key] for key in ("cell", "length", "seed", "seconds")), success(run))
            results["runs"].append(run)
            results["runs"].sort(key=lambda run: (run["length"], run["cell"], run["seed"]))
            path.write_text(json.dumps(results) + "\n", encoding="utf-8")
    draw(results, arguments.output / "t-maze.png")
    if arguments.output == DOCS:
        publish(results, DOCS / "agents-and-streams.md")


if __name__ == "__main__":
    main()
