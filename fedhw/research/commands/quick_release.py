"""Train a release with a progress bar, also for commands that are given none."""

import re
from pathlib import Path

from fedhw.data.sources import load_source
from fedhw.data.writers import WriterSet
from fedhw.errors import InputError
from fedhw.release.release import Release
from fedhw.research.train_release import make_release
from fedhw.research.training import Training
from fedhw.system.console import progress

EPOCHS = 12
"""Epochs of a release that a command trains because it was given none."""


def quick_place(report: Path, data: str, seed: int) -> Path:
    """Return the directory of the release that is trained for a report.

    >>> quick_place(Path("/out/report"), "femnist:some/folder", 3)
    PosixPath('/out/report-release-femnist-some-folder-3')
    """
    origin = "-".join(re.findall(r"[A-Za-z0-9]+", data))
    return report.resolve().with_name(f"{report.resolve().name}-release-{origin}-{seed}")


def release_or_quick(release: Path | None, data: str, seed: int, quick: Path) -> Release:
    """Load a release; for None train one on `data` at `quick`, unless it is there already.

    Raises InputError for a release that cannot be used and a source that names no writers.
    """
    if data.partition(":")[0] == "emnist":
        raise InputError(f"data: {data} names no writers; give a source that does")
    if release is None:
        release = quick
        if not release.exists():
            training = Training(epochs=EPOCHS, seed=seed)
            make_shown_release(release, load_source(data, seed), "lenet5", training, None)
    return Release.load(release)


def make_shown_release(
    directory: Path, writers: WriterSet, architecture: str, training: Training, hold_out: int | None
) -> float:
    """Do what `make_release` does, with a progress bar."""
    with progress() as shown:
        bar = shown.add_task("training", total=training.epochs)

        def after_epoch(epoch: int) -> None:
            shown.update(bar, completed=epoch)

        return make_release(directory, writers, architecture, training, hold_out, after_epoch)
