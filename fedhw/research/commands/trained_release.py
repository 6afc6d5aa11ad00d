"""Releases that commands train: `train-expert`, and those that are given none."""

import hashlib
import json
from pathlib import Path

from fedhw import __version__
from fedhw.data.sources import load_source, source_identity
from fedhw.errors import InputError
from fedhw.release.manifest import MANIFEST, TRAINING, Manifest
from fedhw.research.commands.options import alone, warn
from fedhw.system.console import progress
from fedhw.system.plugins import GENERATORS, installed

ARCHITECTURE = "lenet5"
EPOCHS = 12
"""The recipe of a release that a command trains because it was given none."""


def quick_place(report: Path, data: str, seed: int) -> Path:
    """Return the directory of the release that is trained for a report on this content."""
    content = _identity(data, seed, ARCHITECTURE, EPOCHS, None)
    return report.resolve().with_name(f"{report.resolve().name}-release-{content[:12]}")


def release_or_quick(release: Path | None, data: str, seed: int, quick: Path) -> Path:
    """Return the directory of a release; for None train one on `data` at `quick`.

    Raises InputError for a source that names no writers.
    """
    if data.partition(":")[0] == "emnist":
        raise InputError(f"data: {data} names no writers; give a source that does")
    if release is None:
        tests_others = data not in installed(GENERATORS)
        train_or_reuse(quick, data, ARCHITECTURE, EPOCHS, None, seed, tests_others)
    return release or quick


def train_or_reuse(
    directory: Path,
    data: str,
    architecture: str,
    epochs: int,
    hold_out: int | None,
    seed: int,
    tests_others: bool = False,
) -> float:
    """Train and publish a release, as `make_release` does, and return its generic accuracy.

    One that was made in the same way of the same content is taken as it is, also from another
    process that is making it now. Raises InputError where `directory` is anything else, and where
    it `tests_others` and the data have no writers to hold out for that.
    """
    made_from = _identity(data, seed, architecture, epochs, hold_out)
    with alone(directory):
        reached = _reached(directory, made_from)
        if reached is None:
            # Not before it is needed: torch takes longer to import than all the rest.
            from fedhw.release.release import check_new
            from fedhw.research.orientation import warn_if_inverted
            from fedhw.research.train_release import (
                HELD_OUT_CHARACTERS,
                default_hold_out,
                make_release,
            )
            from fedhw.research.training import Training

            check_new(directory)
            training = Training(epochs=epochs, seed=seed)
            writers = load_source(data, seed)
            if tests_others and default_hold_out(writers) == 0:
                raise InputError(
                    f"data: fewer than two writers have {HELD_OUT_CHARACTERS} characters, so "
                    "none can be kept to be tested; give a release, or more characters"
                )
            warn(warn_if_inverted(writers))
            with progress() as shown:
                bar = shown.add_task("training", total=epochs)

                def after_epoch(epoch: int) -> None:
                    shown.update(bar, completed=epoch)

                reached = make_release(
                    directory, writers, architecture, training, hold_out, after_epoch, made_from
                )
    return reached


def _identity(data: str, seed: int, *recipe: object) -> str:
    made_from = (__version__, source_identity(data, seed), seed, recipe)
    return hashlib.sha256(repr(made_from).encode()).hexdigest()


def _reached(directory: Path, made_from: str) -> float | None:
    """The accuracy of the release in a directory, None where there is none made from this."""
    if not (directory / TRAINING).is_file():
        return None
    try:
        told = json.loads((directory / TRAINING).read_bytes())
        is_same = told["made_from"] == made_from
    except (ValueError, TypeError, KeyError):
        return None
    if not is_same:
        return None
    return Manifest.load(directory / MANIFEST).validation["generic_accuracy"]
