"""The command `brc`: train and compare cells on the benchmarks, and show the results."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from brc_pytorch.experiments.cli.options import (
    RUNNING,
    Dask,
    Device,
    Jobs,
    TensorBoard,
    list_of,
    task_command,
)
from brc_pytorch.experiments.cli.output import (
    end_with,
    fail,
    planned,
    print_paths,
    print_table,
    read,
)
from brc_pytorch.experiments.cli.running import train_all
from brc_pytorch.experiments.tasks import TASKS

app = typer.Typer(
    name="brc",
    help="Train and compare recurrent cells on tasks that need long memory.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Directory = Annotated[Path, typer.Argument(help="Output folder of an experiment.")]

for _task in TASKS.values():
    app.command(_task.name)(task_command(_task))


@app.command("sweep")
def sweep_command(
    file: Annotated[Path, typer.Argument(help="A TOML or YAML file of experiments.")],
    output: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the experiments' output folders. Runs in them that were stopped are "
            "continued, finished ones are kept.",
            show_default="results/ and the file's name",
            rich_help_panel=RUNNING,
        ),
    ] = None,
    jobs: Jobs = None,
    device: Device = "auto",
    dask: Dask = None,
    tensorboard: TensorBoard = False,
) -> None:
    """Train all the runs that a file describes, with a folder for each experiment.

    To continue runs that were stopped, repeat the command.
    """
    from brc_pytorch.experiments.train.sweep_file import read_grids, read_sweep  # noqa: PLC0415 - takes seconds

    folder = Path("results", file.stem) if output is None else output
    experiments = {folder / name: runs for name, runs in planned(lambda: read_sweep(file)).items()}
    grids = {folder / name: rates for name, rates in planned(lambda: read_grids(file)).items()}
    train_all(experiments, grids, jobs=jobs, device=device, dask=dask, tensorboard=tensorboard)


@app.command()
def plot(directory: Directory) -> None:
    """Plot the results in an output folder."""
    from brc_pytorch.experiments.show import plots  # noqa: PLC0415 - takes seconds

    experiment = read(directory)
    paths = plots.plot(experiment)
    print_paths(paths)
    end_with(experiment.damaged)
    if not paths:
        fail(f"{directory} has no run yet that has ended its first epoch; there is nothing to plot")


@app.command()
def table(directory: Directory) -> None:
    """Print the results in an output folder as a table."""
    experiment = read(directory)
    print_table(experiment)
    end_with(experiment.damaged)


@app.command()
def report(
    directories: Annotated[
        list[Path], typer.Argument(metavar="DIRECTORY...", help="Output folders of experiments.")
    ],
    output: Annotated[Path, typer.Option(help="The HTML file.")] = Path("report.html"),
    compare: Annotated[
        list[Path] | None,
        typer.Option(
            help="JSON file with somebody else's results, for comparison; may be given repeatedly."
        ),
    ] = None,
) -> None:
    """Write a self-contained HTML page about one or more output folders.

    It has all tables and plots, with the settings, versions, machines and commands behind them.
    """
    from brc_pytorch.experiments.show.report import write_report  # noqa: PLC0415 - takes seconds

    damaged = planned(lambda: write_report(directories, output, compare or ()))
    print_paths([output])
    end_with(damaged)


@app.command()
def look(
    run: Annotated[Path, typer.Argument(help="The folder of a run, inside an output folder.")],
    sequence: Annotated[
        int, typer.Option(help="Number of the held-out sequence that is shown over time.", min=0)
    ] = 0,
    units: Annotated[
        str | None,
        typer.Option(
            metavar="INT,...",
            help="Units whose hysteresis is drawn, in every layer.",
            show_default="those whose last states differ most",
        ),
    ] = None,
) -> None:
    """Draw what goes on in the network of a run, before and after its training.

    States and gates over time, the share of bistable units, and the hysteresis of some units. A
    later brc report on the output folder includes the pictures.
    """
    from brc_pytorch.experiments.show.look import write_look  # noqa: PLC0415 - takes seconds
    from brc_pytorch.experiments.show.networks import look_into  # noqa: PLC0415 - the same

    chosen = planned(lambda: None if units is None else list_of("units", units, int))
    print_paths(write_look(planned(lambda: look_into(run, sequence, chosen))))


def main() -> None:
    """Run the command `brc`."""
    # A cell of one's own is looked up where the command is called, as `python -m` does.
    sys.path.insert(0, str(Path.cwd()))
    app()
