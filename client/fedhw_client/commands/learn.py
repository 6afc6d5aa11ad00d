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
    label: Annotated[str, typer.Argument(help="The true label, one of the release's.")],
    device: DeviceOption = False,
    home: HomeOption = None,
    port: PortOption = None,
) -> None:
    """Give your agent the true label of an observation, to learn from.

    For example: fedhw learn --device letter.png 7
    """
    if not device:
        raise InputError("device: is missing; add --device, since only your agent learns")
    with connected(home, port) as agent:
        [observation] = encoded(agent, [file])
        name = agent.learn(observation, label)
    out.print(f"stored as {name}", highlight=False)
