"""`fedhw learn`: corrects one character, so that the agent of this device learns from it."""

from pathlib import Path
from typing import Annotated

import typer

from fedhw.errors import InputError
from fedhw.system.console import out
from fedhw_client.commands.agent_options import DeviceOption, HomeOption, PortOption, connected


def learn(
    image: Annotated[Path, typer.Argument(help="Picture of one character.")],
    label: Annotated[str, typer.Argument(help="The character that it is.")],
    device: DeviceOption = False,
    home: HomeOption = None,
    port: PortOption = None,
) -> None:
    """Correct one character: your agent stores it and learns from it."""
    from fedhw.handwriting.pictures import load_picture

    if not device:
        raise InputError("device: is missing; add --device, for only your agent learns")
    glyph = load_picture(image)
    with connected(home, port) as agent:
        name = agent.learn(glyph, label)
    out.print(f"stored as {name}", highlight=False)
