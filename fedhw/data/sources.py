"""Sources of observations, as a user names them on the command line."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from fedhw import __version__
from fedhw.data.npz import load_npz
from fedhw.data.writers import WriterSet
from fedhw.errors import InputError
from fedhw.system.plugins import GENERATORS, SOURCES, installed, load, package_of

Source = Callable[[str, int], WriterSet]
"""Takes the text after the name and a colon, "" by default, and a seed."""


class Generator(Protocol):
    """Generates any number of writers, the same ones for the same numbers and seed."""

    def __call__(
        self, writers: Sequence[int], characters: int, seed: int, *, text: bool
    ) -> WriterSet:
        """Return these writers with this many observations each; `text` makes some classes rare."""


def find_generator(name: str) -> Generator:
    """Return the generator of an installed package; raises InputError where there is none."""
    generator: Generator | None = load(GENERATORS, name)
    if generator is None:
        known = ", ".join(installed(GENERATORS))
        raise InputError(f"data: nothing generates {name!r}; give one of {known}")
    return generator


def load_source(source: str, seed: int = 0) -> WriterSet:
    """Load the observations that `source` names.

    It is `FILE.npz`, or `NAME` or `NAME:WHERE` of a plug-in. Raises InputError when there is no
    such source or it cannot be used.

    >>> load_source("paper.pdf")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    fedhw.errors.InputError: data: 'paper.pdf' is not a source; give one of FILE.npz, ...
    """
    name, _, where = source.partition(":")
    plugin: Source | None = load(SOURCES, name)
    if plugin is not None:
        return plugin(where, seed)
    if not source.endswith(".npz"):
        known = ", ".join(["FILE.npz", *installed(SOURCES)])
        raise InputError(f"data: {source!r} is not a source; give one of {known}")
    return load_npz(Path(source))


def source_identity(source: str, seed: int) -> str:
    """Return a digest of all that decides what `load_source` returns, without loading it.

    That is the content of the file or folder, whatever its name, the name and the version of what
    reads it, and the seed.
    """
    name, _, where = source.partition(":")
    reader = package_of(SOURCES, name)
    if reader is None:
        reader, name, where = f"fedhw {__version__}", "npz", source
    place = Path(where)
    content = _digest(place) if where and place.exists() else where
    made_from = (reader, name, content, seed)
    return hashlib.sha256(repr(made_from).encode()).hexdigest()


def _digest(place: Path) -> str:
    """SHA-256 of a file, or of the paths and contents of all files in a folder."""
    if place.is_dir():
        files = sorted(file for file in place.rglob("*") if file.is_file())
        parts = [(str(file.relative_to(place)), _digest(file)) for file in files]
        return hashlib.sha256(repr(parts).encode()).hexdigest()
    with place.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
