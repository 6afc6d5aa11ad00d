"""Options and output that the commands of research share."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fedhw.errors import InputError
from fedhw.system.console import DATA_HELP, MAX_SEED, out, write_json

OutOption = Annotated[Path, typer.Option("--out", help="Directory of the report.")]
ReleaseOption = Annotated[
    Path | None,
    typer.Option(help="Release directory; by default one is trained on the same source."),
]
DataOption = Annotated[str, typer.Option(help=DATA_HELP)]
WritersOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=100_000,
        help="Writers to personalise for; by default 60 at most, in a fleet 300 synthetic ones or "
        "all.",
    ),
]
SeedOption = Annotated[int, typer.Option(min=0, max=MAX_SEED)]
JsonOption = Annotated[
    Path | None, typer.Option("--json", help="Also write the figures to this file.")
]


def check_places(report: Path, figures: Path | None) -> None:
    """Raise InputError where a report or its figures cannot be written."""
    from fedhw.research.reports.report_page import check_place

    check_place(report)
    if figures is not None:
        check_figures(figures)
        if figures.resolve().parent == report.resolve():
            raise InputError(
                f"json: {figures} is in the report, which has summary.json; give another place"
            )


def check_figures(file: Path) -> None:
    """Raise InputError where figures cannot be written."""
    if file.is_dir():
        raise InputError(f"json: {file} is a directory; give a file")


def finish(report: Path, figures: Path | None, content: dict[str, Any]) -> None:
    """Write the figures if a file is given, and print the path of the report."""
    if figures is not None:
        write_json(figures, content)
    out.print(f"Report: {report / 'index.html'}", markup=False, highlight=False, soft_wrap=True)
