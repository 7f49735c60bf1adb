"""One self-contained HTML page out of output folders, from their files alone.

The page needs no script and nothing from elsewhere: its style and its plots are inside.
"""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from brc_pytorch.experiments.files import DamagedFileError, write_file
from brc_pytorch.experiments.show import plots
from brc_pytorch.experiments.show.commands import rebuilt_commands, recorded_commands
from brc_pytorch.experiments.show.comparison import Others, compare, read_others
from brc_pytorch.experiments.show.look import drawn_pictures
from brc_pytorch.experiments.show.results import (
    Experiment,
    RunFiles,
    Setup,
    read_experiment,
    setups,
)
from brc_pytorch.experiments.show.seeds import Seeds
from brc_pytorch.experiments.show.statistics import duration, seconds
from brc_pytorch.experiments.show.tables import Table, compare_cells, summarise

_BARE = "unfinished: has written nothing"


def write_report(
    directories: Sequence[Path], output: Path, others_files: Sequence[Path] = ()
) -> list[DamagedFileError]:
    """Write the page of some output folders.

    Args:
        directories: The folders; each becomes a section, in this order.
        output: The file; its folder is made if it is not there.
        others_files: Results of others to put beside these, see `comparison`.

    Returns:
        What is wrong with files that were left out.

    Raises:
        ValueError: If a folder holds no experiment, the other results cannot be read, or the
            output is a folder.
    """
    if output.is_dir():
        raise ValueError(f"output: expected a file, got the folder {output}")
    others = [read_others(file) for file in others_files]
    experiments = [read_experiment(directory) for directory in directories]
    page = render(experiments, others)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_file(output, lambda file: file.write_text(page, encoding="utf-8"))
    return [error for experiment in experiments for error in experiment.damaged]


def render(experiments: Sequence[Experiment], others: Sequence[Others] = ()) -> str:
    """Return the page of some experiments as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    runs = [run for experiment in experiments for run in experiment.runs]
    names = [experiment.task.title for experiment in experiments]
    return environment.get_template("report.html").render(
        title=f"Results: {', '.join(dict.fromkeys(names))}",
        sections=[_section(experiment, others) for experiment in experiments],
        runs=len(runs),
        time=duration(seconds(runs)),
        days=_days(runs),
    )


def _section(experiment: Experiment, others: Sequence[Others]) -> dict[str, Any]:
    """Return what the template tells of an experiment."""
    found = setups(experiment.runs)
    silent = [
        run for run in experiment.runs if not any(start.get("command") for start in run.starts)
    ]
    varied = (
        ["cell", *experiment.task.dimensions, "seed", "learning_rate"] if experiment.runs else []
    )
    shared = [key for key in experiment.settings if key != "task"]
    return {
        "title": experiment.task.title,
        "folder": experiment.directory.resolve().name,
        "runs": len(experiment.runs) + len(experiment.bare),
        "unfinished": {
            **{run.directory.name: run.state for run in experiment.runs if run.result is None},
            **{path.name: _BARE for path in experiment.bare},
        },
        "damaged": [_relative(error, experiment.directory) for error in experiment.damaged],
        "summary": summarise(experiment),
        "grid": ", ".join(map(str, experiment.grid)),
        "tests": compare_cells(experiment),
        "others": [(other, tables) for other in others if (tables := compare(experiment, other))],
        "plots": [_plot(plot, experiment) for plot in plots.plots(experiment)],
        "looks": {
            run.directory.name: [
                {"caption": text, "images": {f"{text} Run: {run.directory.name}": _image(path)}}
                for text, path in drawn_pictures(run.directory).items()
            ]
            for run in experiment.runs
            if drawn_pictures(run.directory)
        },
        "run_table": _run_table(experiment, found),
        "time": duration(seconds(experiment.runs)),
        "settings": {
            **{key: ", ".join(map(_number, experiment.values(key))) for key in varied},
            **{key: _number(experiment.settings[key]) for key in shared},
            "optimizer": "Adam",
        },
        "setups": found,
        "setup_table": _setup_table(found),
        "commands": recorded_commands(experiment),
        "rebuilt": rebuilt_commands(experiment, silent),
        "silent": len(silent),
    }


def _relative(error: DamagedFileError, directory: Path) -> str:
    """Write what is wrong with a file, without the path to the output folder."""
    return str(DamagedFileError(error.path.relative_to(directory), error.expected, error.found))


def _number(value: object) -> str:
    is_count = isinstance(value, int) and not isinstance(value, bool)
    return f"{value:,}" if is_count else str(value)


def _plot(plot: plots.Plot, experiment: Experiment) -> dict[str, Any]:
    """Return a plot's caption and its panels as images, with what a screen reader says of them."""
    cells = ", ".join(experiment.values("cell"))
    about = (
        f"{plot.measure.title}, a row each for {cells}"
        if isinstance(plot, Seeds)
        else f"{plot.y_label.capitalize()} against {plot.x_label}, a line each for {cells}"
    )
    images = {}
    for title, svg in plots.draw_panels(plot, experiment).items():
        encoded = base64.b64encode(svg.encode()).decode()
        images[f"{about}: {title}" if title else about] = f"data:image/svg+xml;base64,{encoded}"
    caption = f"{plots.heading(experiment)}. {plots.caption(plot, experiment)}"
    return {"caption": caption, "images": images}


def _image(path: Path) -> str:
    """Return an SVG file as the source of an image."""
    return f"data:image/svg+xml;base64,{base64.b64encode(path.read_bytes()).decode()}"


def _run_table(experiment: Experiment, found: Sequence[Setup]) -> Table:
    """Make a table with a row for each run, finished or not."""
    held_out = experiment.task.held_out
    columns = ["run", "state", f"best {held_out} loss", "parameters", "time"]
    columns += ["started (UTC)", "starts", "setup"]
    rows = []
    for run in experiment.runs:
        name = run.directory.name
        on = ", ".join(setup.label for setup in found if name in setup.runs)
        first = run.starts[0]["time"][:16].replace("T", " ") if run.starts else "-"
        rows.append([name, run.state, *_outcome(run, held_out), first, str(len(run.starts)), on])
    rows += [[path.name, _BARE, *["-"] * 6] for path in experiment.bare]
    return Table(columns, rows, 2)


def _outcome(run: RunFiles, held_out: str) -> tuple[str, str, str]:
    """Write the best loss, the number of parameters and the time of a run."""
    if run.result is None:
        return "-", "-", "-"
    best = run.result[f"best_{held_out}_loss"]
    return (
        "diverged" if best is None else f"{best:.3g} (epoch {run.result['best_epoch']})",
        f"{run.result['parameters']:,}",
        duration(run.result["seconds"]),
    )


def _setup_table(found: Sequence[Setup]) -> Table:
    """Make a table with a row for each version and thing known of the machine."""
    keys = list(dict.fromkeys(key for setup in found for key in setup.facts))
    rows = [[key, *(setup.facts.get(key, "-") for setup in found)] for key in keys]
    rows.append(["runs", *(str(len(setup.runs)) for setup in found)])
    return Table(["setup", *(setup.label for setup in found)], rows, 1)


def _days(runs: Sequence[RunFiles]) -> str:
    """Write the first and the last day on which runs were started."""
    days = sorted(start["time"][:10] for run in runs for start in run.starts)
    return " to ".join(dict.fromkeys([days[0], days[-1]])) if days else ""
