"""`fedhw client`: the agent of this device."""

from pathlib import Path
from typing import Annotated

import typer

from fedhw.errors import InputError
from fedhw.system.console import needs, say
from fedhw_client.commands.agent_options import HomeOption, ReleaseOption


def serve(
    home: HomeOption = None,
    release: ReleaseOption = None,
    enroll: Annotated[
        Path | None,
        typer.Option(help="Join a fleet with this invitation from its operator; needed once."),
    ] = None,
    per_day: Annotated[
        float | None,
        typer.Option(
            "--epsilon-per-day", help="Most epsilon that reports may cost a day; 4 by default."
        ),
    ] = None,
    in_all: Annotated[
        float | None,
        typer.Option(
            "--epsilon-in-all", help="Most epsilon that they may cost in all; 40 by default."
        ),
    ] = None,
    least_cohort: Annotated[
        int | None,
        typer.Option(min=2, help="Least devices in sums that this one adds to; 20 by default."),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            help="Listen on loopback TCP instead of the unix socket; 0: a free one.",
        ),
    ] = None,
    pad: Annotated[bool, typer.Option("--pad", help="Serve the pad, a page to write on.")] = False,
    pad_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port of the pad; a free one by default.")
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Serve Prometheus metrics on loopback; 0: a free one."),
    ] = None,
    keep_days: Annotated[
        float | None, typer.Option(help="Forget corrections after so many days.")
    ] = None,
) -> None:
    """Run the agent of this device, which recognises and learns from corrections.

    For example: fedhw client --release release --pad
    """
    if pad_port is not None and not pad:
        raise InputError(f"pad-port: {pad_port} is for the pad; give --pad, too")
    with needs("client"):
        from fedhw_client.agent.agent_process import DEFAULT_COHORT, Settings, run
        from fedhw_client.store.device_home import Home

    run(
        Settings(
            home=Home.default() if home is None else Home(home),
            release=release,
            invitation=enroll,
            epsilon_per_day=per_day,
            epsilon_in_all=in_all,
            least_cohort=least_cohort or DEFAULT_COHORT,
            port=port,
            pad_port=(pad_port or 0) if pad else None,
            metrics_port=metrics_port,
            keep_days=keep_days,
        ),
        say,
    )
