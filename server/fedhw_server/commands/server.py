"""`fedhw server ...`: the operator's commands."""

import typer

from fedhw_server.commands.devices import devices, enroll, revoke
from fedhw_server.commands.improvement import improve, improvement, public
from fedhw_server.commands.releases import publish, releases, rollback
from fedhw_server.commands.running import pause, resume, server, status
from fedhw_server.commands.statistics import statistics

app = typer.Typer(invoke_without_command=True, help=server.__doc__)
app.callback()(server)
for panel, commands in (
    ("The coordinator", (status, pause, resume)),
    ("Devices", (enroll, revoke, devices, statistics)),
    ("Releases", (publish, rollback, releases)),
    ("Improvements", (public, improve, improvement)),
):
    for command in commands:
        app.command(rich_help_panel=panel)(command)
