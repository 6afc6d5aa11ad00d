"""Options and output that the commands of research share."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from fedhw.errors import InputError
from fedhw.system.atomic import replacing
from fedhw.system.console import DATA_HELP, MAX_SEED, err, out
from fedhw.system.process_lock import in_turn
from fedhw.system.signals import interrupted_by_sigterm

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
SeedOption = Annotated[
    int, typer.Option(min=0, max=MAX_SEED, help="Decides everything that is random.")
]
JsonOption = Annotated[
    Path | None, typer.Option("--json", help="Also write the figures to this file.")
]


def warn(sentence: str | None) -> None:
    """Print a warning, if there is one."""
    if sentence is not None:
        err.print(f"fedhw: {sentence}", markup=False, highlight=False, soft_wrap=True)


@contextmanager
def alone(output: Path, goes_on: bool = True) -> Iterator[None]:
    """Let other commands that write the same output wait until the block ends.

    Ctrl+C and SIGTERM end it in good order, and say whether the same command `goes_on` from there.
    """
    said = f"another command is writing {output}; this one waits for it"
    try:
        with interrupted_by_sigterm(), in_turn(output, lambda: warn(said)):
            yield
    except KeyboardInterrupt:
        then = "continue" if goes_on else "begin anew, since nothing is kept"
        warn(f"cut off; give the same command again to {then}")
        raise typer.Exit(130) from None


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


def report_identity(release: Path | None, data: str, seed: int, *options: object) -> str:
    """Return a digest of all that decides a report; None is a release trained on the data.

    Raises InputError where there is no such release.
    """
    from fedhw import __version__
    from fedhw.data.sources import source_identity
    from fedhw.release.manifest import MANIFEST, Manifest

    known = None if release is None else Manifest.load(release / MANIFEST).digest
    made_from = (__version__, known, source_identity(data, seed), seed, options)
    return hashlib.sha256(repr(made_from).encode()).hexdigest()


def is_finished(report: Path, made_from: str) -> bool:
    """Whether the report that is made from this is there already; if so, say it."""
    from fedhw.research.reports.report_page import is_report_from

    if not is_report_from(report, made_from):
        return False
    said = f"{report} has the report of this command already; remove it to make it again"
    out.print(said, markup=False, highlight=False, soft_wrap=True)
    return True


def finish(report: Path, figures: Path | None) -> None:
    """Copy the figures if a file is given, and print the path of the report."""
    from fedhw.research.reports.report_page import PAGE, SUMMARY

    if figures is not None:
        with replacing(figures) as unfinished:
            unfinished.write_bytes((report / SUMMARY).read_bytes())
    out.print(f"Report: {report / PAGE}", markup=False, highlight=False, soft_wrap=True)
