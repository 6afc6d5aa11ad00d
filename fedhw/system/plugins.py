"""What installed packages add to fedhw, found by the entry points in their `pyproject.toml`."""

from importlib.metadata import entry_points
from typing import Any

from fedhw.errors import InputError


def installed(group: str) -> list[str]:
    """Return the names that installed packages have in a group, sorted; nothing is imported."""
    return sorted(entry_points(group=group).names)


def load(group: str, name: str) -> Any:
    """Return what an installed package has under a name, None where none has.

    Raises InputError where its code cannot be imported.
    """
    for point in entry_points(group=group, name=name):
        try:
            return point.load()
        # Whatever the code of somebody else raises.
        except Exception as error:
            reason = (str(error).splitlines() or [""])[0][:100]
            raise InputError(
                f"{name}: the plug-in {point.value} cannot be imported "
                f"({type(error).__name__}: {reason}); install it again or remove it"
            ) from error
    return None
