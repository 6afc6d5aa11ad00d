"""`fedhw learn`: gives the agent of this device one correction."""

from pathlib import Path
from typing import Annotated

import typer

from fedhw.errors import InputError
from fedhw.system.console import out
from fedhw_client.commands.agent_options import (
    DeviceOption,
    HomeOption,
    PortOption,
    connected,
    encoded,
)


def learn(
    file: Annotated[
        Path, typer.Argument(help="One observation, such as a picture of a character.")
    ],
    label: Annotated[str, typer.Argument(help="What it is, one of the release's labels.")],
    device: DeviceOption = False,
    home: HomeOption = None,
    port: PortOption = None,
) -> None:
    """Correct one observation: your agent stores it and learns from it."""
    if not device:
        raise InputError("device: is missing; add --device, for only your agent learns")
    with connected(home, port) as agent:
        [observation] = encoded(agent, [file])
        name = agent.learn(observation, label)
    out.print(f"stored as {name}", highlight=False)
