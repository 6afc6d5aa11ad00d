"""Options of the operator's commands, and how they open a coordinator's home."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
import typer

from fedhw.errors import InputError
from fedhw.system.console import needs

if TYPE_CHECKING:
    from fedhw.release.manifest import Manifest
    from fedhw_server.store.coordinator_home import Home
    from fedhw_server.store.fleet import Fleet

HomeOption = Annotated[
    Path | None,
    typer.Option(help="The coordinator's home; $FEDHW_SERVER_HOME or this user's own by default."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def home_of(given: Path | None) -> "Home":
    """Return the chosen home; the option may come before the command, too."""
    with needs("server"):
        from fedhw_server.store.coordinator_home import Home
    chosen = given or click.get_current_context().obj
    return Home.default() if chosen is None else Home(chosen)


@contextmanager
def opened(home: Path | None) -> "Iterator[tuple[Home, Fleet]]":
    """Open a coordinator's home and database; raises InputError where none was ever started."""
    place = home_of(home)
    with needs("server"):
        from fedhw_server.store.fleet import Fleet
    if not place.exists():
        raise InputError(
            f"home: no coordinator was ever started in {place.directory}; run `fedhw server` "
            "first, or give its --home"
        )
    fleet = Fleet(place.database)
    try:
        yield place, fleet
    finally:
        fleet.close()


def newest_release(home: "Home") -> "Manifest":
    """Return the newest release; raises InputError where none was published."""
    newest = home.registry.latest
    if newest is None:
        raise InputError("release: none was published yet; run `fedhw server publish` first")
    return newest
