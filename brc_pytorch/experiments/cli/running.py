"""All runs of a command: trained, then shown."""

from collections.abc import Container, Iterable, Mapping, Sequence
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from brc_pytorch.experiments.cli.board import Board
from brc_pytorch.experiments.cli.output import (
    FAILED,
    INTERRUPTED,
    console,
    errors,
    fail,
    in_a_line,
    planned,
    print_choice,
    print_error,
    print_paths,
    print_plan,
    print_settings,
    print_table,
    read,
)
from brc_pytorch.experiments.cli.reader import ending_with_reader
from brc_pytorch.experiments.files import DamagedFileError

if TYPE_CHECKING:
    from brc_pytorch.experiments.train.run import Run


def train_all(
    experiments: "Mapping[Path, Sequence[Run]]",
    grids: "Mapping[Path, Sequence[float]]",
    *,
    jobs: int | None,
    device: str,
    dask: str | None,
    tensorboard: bool,
) -> None:
    """Train all runs, then show the table and the plots of each experiment.

    Args:
        experiments: The runs of each experiment, by its output folder.
        grids: The learning rates that each cell's is chosen from first, of the experiments that
            have any.
        jobs: As the next ones, an argument of `sweep_all`.
        device: Likewise.
        dask: Likewise.
        tensorboard: Likewise.
    """
    from brc_pytorch.experiments.train.sweep import check_folder, check_plan  # noqa: PLC0415
    from brc_pytorch.experiments.train.tuning import (  # noqa: PLC0415 - all of it takes seconds
        check_grid,
        tuning_runs,
        with_chosen_rates,
    )

    options = {"jobs": jobs, "device": device, "dask": dask, "tensorboard": tensorboard}

    def check() -> int | None:
        for output, rates in grids.items():
            check_grid(experiments[output], rates)
        for output, runs in {**experiments, **tuning_runs(experiments, grids)}.items():
            check_folder(runs, output)
        for runs in experiments.values():
            runs[0].task.prepare()  # the data of one are those of all
        return check_plan(jobs=jobs, device=device, dask=dask, tensorboard=tensorboard)

    at_once = planned(check)
    for output, runs in experiments.items():
        print_settings(runs, output, grids.get(output, ()))
    print_plan(at_once, device, dask)
    if grids:
        _train(tuning_runs(experiments, grids), options)
        experiments = planned(lambda: with_chosen_rates(experiments, grids))
        for output in grids:
            print_choice(experiments[output], output)
    _train(experiments, options, show=True)


def _train(
    experiments: "Mapping[Path, Sequence[Run]]", options: Mapping[str, Any], *, show: bool = False
) -> None:
    """Train runs to their ends, and show them if that is asked for, or else end the command."""
    from brc_pytorch.experiments.train.sweep import sweep_all  # noqa: PLC0415 - takes seconds

    total = sum(map(len, experiments.values()))
    try:
        with ending_with_reader(), Board(total, several=len(experiments) > 1) as board:
            outcomes = planned(
                lambda: sweep_all(
                    experiments,
                    **options,
                    report=board.show,
                    waiting=board.wait,
                    finished=board.end,
                )
            )
    except KeyboardInterrupt:
        errors.print("\nStopped. The same command continues where it was.")
        raise typer.Exit(INTERRUPTED) from None
    except BrokenExecutor as error:
        fail(f"{error}; the same command continues the runs", FAILED)
    failed = [outcome.error for outcome in outcomes if outcome.error is not None]
    named = {error.path for error in failed if isinstance(error, DamagedFileError)}
    problems = show_all(experiments, named) if show else []
    for problem in problems:
        print_error(problem)
    if failed:
        fail(
            f"{len(failed)} of {total} runs failed, see above; the same command continues them",
            FAILED,
        )
    if problems:
        raise typer.Exit(FAILED)


def show_all(folders: Iterable[Path], named: Container[Path]) -> list[str]:
    """Print the tables and draw the plots of some output folders.

    Args:
        folders: The folders.
        named: Damaged files that the user knows of.

    Returns:
        What is wrong with other files.
    """
    from brc_pytorch.experiments.show import plots  # noqa: PLC0415 - takes seconds

    problems = []
    for folder in folders:
        console.print()
        experiment = read(folder)
        print_table(experiment)
        problems += [
            str(error) for error in experiment.damaged if error.path.absolute() not in named
        ]
        try:
            print_paths(plots.plot(experiment))
        except OSError as error:
            problems.append(in_a_line(error))
    return problems
