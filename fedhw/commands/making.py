"""How commands come by a release and by writers whom it has never seen."""

from pathlib import Path

from fedhw.commands.console import progress
from fedhw.data.sources import load_source
from fedhw.data.writers import WriterSet
from fedhw.errors import InputError
from fedhw.experts.training import Training
from fedhw.release.making import make_release
from fedhw.release.release import Release

UNSEEN = 1_000_000
"""Synthetic writers meet a release from this number on: none of them is ever trained on."""

QUICK = 12
"""Epochs of a release that is trained in passing."""


def release_and_writers(
    release: Path | None, data: str, seed: int, writers: int, quick: Path
) -> tuple[Release, WriterSet]:
    """Return a release and a source's writers; the synthetic ones are so many that it never saw.

    Without a `release` a quick one is trained on the same source at `quick`, if it is not there
    yet. Raises InputError for a release or a source that cannot be used.
    """
    if data.partition(":")[0] == "emnist":
        raise InputError(f"data: {data} names no writers; give a source that does")
    if release is None:
        release = quick
        if not release.exists():
            training = Training(epochs=QUICK, seed=seed)
            make_shown_release(release, load_source(data, seed), "lenet5", training, None)
    return Release.load(release), load_source(data, seed, range(UNSEEN, UNSEEN + writers))


def make_shown_release(
    directory: Path, writers: WriterSet, architecture: str, training: Training, hold_out: int | None
) -> float:
    """Do what `make_release` does, with a bar that shows how far it is."""
    with progress() as shown:
        bar = shown.add_task("training", total=training.epochs)

        def after_epoch(epoch: int) -> None:
            shown.update(bar, completed=epoch)

        return make_release(directory, writers, architecture, training, hold_out, after_epoch)
