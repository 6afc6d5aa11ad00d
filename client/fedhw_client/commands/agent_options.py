"""Options and connections of commands that ask the agent of this device."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedhw.data.encoders import find_encoder
from fedhw.observation import Observations
from fedhw.system.console import needs

if TYPE_CHECKING:
    from fedhw_client.connection import Device

HomeOption = Annotated[
    Path | None,
    typer.Option(help="The agent's home; $FEDHW_HOME or this user's own by default."),
]
ReleaseOption = Annotated[
    Path | None,
    typer.Option(help="Release directory to install in the home; needed the first time."),
]
DeviceOption = Annotated[bool, typer.Option("--device", help="Ask the agent of this device.")]
PortOption = Annotated[
    int | None,
    typer.Option(help="The loopback port of the agent, if it listens on one.", min=1, max=65535),
]


def connected(home: Path | None, port: int | None) -> "Device":
    """Return a client of the agent; raises InputError where the extra is not installed."""
    with needs("client"):
        from fedhw_client.connection import connect

    return connect(home, port)


def encoded(agent: "Device", files: Iterable[Path]) -> list[Observations]:
    """Return the observations in files; raises InputError for a file that cannot be used."""
    from fedhw_client.connection import observation_type

    encoder = find_encoder("file", observation_type(agent.describe()))
    return [encoder.encode(file) for file in files]
