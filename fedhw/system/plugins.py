"""What installed packages add to fedhw, found by the entry points in their `pyproject.toml`."""

from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import Any

from fedhw.errors import InputError

ARCHITECTURES = "fedhw.architectures"
"""The group of networks; each is an `Architecture` (`fedhw.experts.architecture`)."""

SOURCES = "fedhw.sources"
"""The group of loaders; each is a `Source` (`fedhw.data.sources`)."""

GENERATORS = "fedhw.generators"
"""The group of sources without end; each is a `Generator` (`fedhw.data.sources`)."""

ENCODERS = "fedhw.encoders"
"""The group of encoders, named `file` or `strokes`: each an `Encoder` (`fedhw.data.encoders`)."""

COMMANDS = "fedhw.commands"
"""The group of commands; each is a Typer app, a click command or a function (`fedhw.cli`)."""


def installed(group: str) -> list[str]:
    """Return the names that installed packages have in a group, sorted; nothing is imported."""
    return sorted(entry_points(group=group).names)


def load(group: str, name: str) -> Any:
    """Return what an installed package has under a name, None where none has.

    Raises InputError where two packages have one, and where its code cannot be imported.
    """
    points = tuple(entry_points(group=group, name=name))
    if len(points) > 1:
        both = " and ".join(sorted(point.value for point in points))
        raise InputError(f"{name}: {both} have the same name; remove one of their packages")
    return next(load_all(group, name), None)


def load_all(group: str, name: str) -> Iterator[Any]:
    """Yield what each installed package has under a name.

    Raises InputError where the code of one cannot be imported.
    """
    for point in entry_points(group=group, name=name):
        try:
            yield point.load()
        # Whatever the code of somebody else raises.
        except Exception as error:
            reason = (str(error).splitlines() or [""])[0][:100]
            raise InputError(
                f"{name}: the plug-in {point.value} cannot be imported "
                f"({type(error).__name__}: {reason}); install it again or remove it"
            ) from error
