"""`fedhw client ...`: the agent of a device, and its privacy report."""

from pathlib import Path
from typing import Any

import click
import typer
from typer.core import TyperGroup

from fedhw.system.two_programs import TwoPrograms
from fedhw_client.commands.privacy import privacy
from fedhw_client.commands.replay import replay
from fedhw_client.commands.serve import serve

_PROGRAMS = TwoPrograms.of(serve, replay, "replay", "a replay")
_within = typer.Typer()
_within.command()(privacy)


@click.pass_context
def _client(context: click.Context, /, **given: Any) -> Any:
    context.obj = None if given["home"] is None else Path(given["home"])
    if context.invoked_subcommand is None:
        _PROGRAMS.run(context, given)


app = TyperGroup(
    name="client",
    callback=_client,
    params=_PROGRAMS.options,
    commands=list(typer.main.get_group(_within).commands.values()),
    invoke_without_command=True,
    suggest_commands=False,  # click does, too
    help=serve.__doc__,
)
