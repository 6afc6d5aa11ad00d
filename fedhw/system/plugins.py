"""Plug-ins: what installed packages add to fedhw by the entry points in their `pyproject.toml`."""

from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import Any

from fedhw.errors import InputError

ARCHITECTURES = "fedhw.architectures"
"""The group of networks; each is an `Architecture` (`fedhw.experts.architecture`)."""

SOURCES = "fedhw.sources"
"""The group of loaders; each is a `Source` (`fedhw.data.sources`)."""

GENERATORS = "fedhw.generators"
"""The group of generators of writers; each is a `Generator` (`fedhw.data.sources`)."""

ENCODERS = "fedhw.encoders"
"""The group of encoders, named `file` or `strokes`: each an `Encoder` (`fedhw.data.encoders`)."""

COMMANDS = "fedhw.commands"
"""The group of commands; each is a Typer app, a click command or a function (`fedhw.cli`)."""


def installed(group: str) -> list[str]:
    """Return the sorted names in a group, without importing anything."""
    return sorted(entry_points(group=group).names)


def load(group: str, name: str) -> Any:
    """Return the plug-in of this name, None where there is none.

    Raises InputError where two packages have one of this name, and where it cannot be imported.
    """
    points = tuple(entry_points(group=group, name=name))
    if len(points) > 1:
        both = " and ".join(sorted(point.value for point in points))
        raise InputError(f"{name}: {both} have the same name; remove one of their packages")
    return next(load_all(group, name), None)


def load_all(group: str, name: str) -> Iterator[Any]:
    """Yield the plug-ins of this name.

    Raises InputError after the last one where one cannot be imported.
    """
    broken: InputError | None = None
    for point in entry_points(group=group, name=name):
        try:
            plugin = point.load()
        # The code of a plug-in may raise anything.
        except Exception as error:
            broken = InputError(
                f"{name}: the plug-in {point.value} cannot be imported ({first_line(error)}); "
                "install it again or remove it"
            )
            broken.__cause__ = error
        else:
            yield plugin
    if broken is not None:
        raise broken


def package_of(group: str, name: str) -> str | None:
    """Return name and version of the package that has a plug-in, None where there is none."""
    for point in entry_points(group=group, name=name):
        if point.dist is not None:
            return f"{point.dist.name} {point.dist.version}"
    return None


def module_of(group: str, name: str) -> str:
    """Return the module of an installed plug-in."""
    return min(point.module for point in entry_points(group=group, name=name))


def first_line(error: Exception) -> str:
    r"""Return the type and the first line of an error that a plug-in has raised.

    >>> first_line(OSError("no such disk\nor another"))
    'OSError: no such disk'
    """
    reason = (str(error).splitlines() or [""])[0][:100]
    return f"{type(error).__name__}: {reason}"
