"""`fedhw server ...`: the operator's commands."""

import typer

from fedhw_server.commands.devices import devices, enroll, revoke
from fedhw_server.commands.improvement import improve, improvement, public
from fedhw_server.commands.releases import publish, releases, rollback
from fedhw_server.commands.running import pause, resume, server, status
from fedhw_server.commands.statistics import statistics

app = typer.Typer(invoke_without_command=True, help="Run and operate a coordinator.")
app.callback()(server)
for command in (
    *(enroll, revoke, publish, rollback, pause, resume, status, devices, releases),
    *(public, improve, improvement, statistics),
):
    app.command()(command)
