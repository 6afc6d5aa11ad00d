"""Where observations come from, as a user names it on the command line."""

from collections.abc import Callable
from pathlib import Path

from fedhw.data.npz import load_npz
from fedhw.data.writers import WriterSet
from fedhw.errors import InputError
from fedhw.system.plugins import SOURCES, installed, load

Source = Callable[[str, int], WriterSet]
"""Takes what a user wrote behind the name and a colon, "" for nothing, and a seed."""


def load_source(source: str, seed: int = 0) -> WriterSet:
    """Load the observations that `source` names.

    It is `FILE.npz`, or `NAME` or `NAME:WHERE` of a plug-in. Raises InputError when there is no
    such source or it cannot be used.

    >>> load_source("paper.pdf")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    fedhw.errors.InputError: data: 'paper.pdf' is no source; give one of FILE.npz, ...
    """
    name, _, where = source.partition(":")
    plugin: Source | None = load(SOURCES, name)
    if plugin is not None:
        return plugin(where, seed)
    if not source.endswith(".npz"):
        known = ", ".join(["FILE.npz", *installed(SOURCES)])
        raise InputError(f"data: {source!r} is no source; give one of {known}")
    return load_npz(Path(source))
