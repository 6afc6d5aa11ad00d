"""How commands come by a release and by writers whom it has never seen."""

import re
from pathlib import Path

from fedhw.data.sources import load_source
from fedhw.data.writers import WriterSet
from fedhw.errors import InputError
from fedhw.release.release import Release
from fedhw.research.simulation.population import (
    Population,
    RecordedPopulation,
    Shots,
    SyntheticPopulation,
    draw_writers,
)
from fedhw.research.train_release import make_release
from fedhw.research.training import Training
from fedhw.system.console import progress

QUICK = 12
"""Epochs of a release that is trained in passing."""


def quick_place(report: Path, data: str, seed: int) -> Path:
    """Return where the release lies that is trained in passing for a report.

    >>> quick_place(Path("/out/report"), "femnist:some/folder", 3)
    PosixPath('/out/report-release-femnist-some-folder-3')
    """
    origin = "-".join(re.findall(r"[A-Za-z0-9]+", data))
    return report.resolve().with_name(f"{report.resolve().name}-release-{origin}-{seed}")


def release_or_quick(release: Path | None, data: str, seed: int, quick: Path) -> Release:
    """Return a release; without one a quick one is trained on `data` at `quick`, if need be.

    Raises InputError for a release that cannot be used and a source that names no writers.
    """
    if data.partition(":")[0] == "emnist":
        raise InputError(f"data: {data} names no writers; give a source that does")
    if release is None:
        release = quick
        if not release.exists():
            training = Training(epochs=QUICK, seed=seed)
            make_shown_release(release, load_source(data, seed), "lenet5", training, None)
    return Release.load(release)


def release_and_writers(
    release: Path | None, data: str, seed: int, writers: int, quick: Path
) -> tuple[Release, WriterSet]:
    """Return a release and a source's writers; the synthetic ones are so many that it never saw."""
    known = release_or_quick(release, data, seed, quick)
    if data == "synthetic":
        population = SyntheticPopulation.for_shots(writers, "half", seed)
        return known, population.write(range(writers))
    return known, load_source(data, seed)


def population_of(
    data: str, release: Release, writers: int | None, shots: Shots, seed: int
) -> Population:
    """Return writers of a source whom the release never saw; 60 unless it is said how many.

    Raises InputError where there are not so many of so many characters.
    """
    if data == "synthetic":
        population = SyntheticPopulation.for_shots(writers or 60, shots, seed)
        release.check_fits(population.write([0]))
        return population
    source = load_source(data, seed)
    return RecordedPopulation.of(source, draw_writers(release, source, writers, shots, seed))


def make_shown_release(
    directory: Path, writers: WriterSet, architecture: str, training: Training, hold_out: int | None
) -> float:
    """Do what `make_release` does, with a bar that shows how far it is."""
    with progress() as shown:
        bar = shown.add_task("training", total=training.epochs)

        def after_epoch(epoch: int) -> None:
            shown.update(bar, completed=epoch)

        return make_release(directory, writers, architecture, training, hold_out, after_epoch)
