"""`fedhw server`, `pause`, `resume` and `status`."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from fedhw.system.console import needs, out, say
from fedhw_server.commands.operator_options import HomeOption, JsonOption, home_of, opened
from fedhw_server.commands.times import ago, window_span

if TYPE_CHECKING:
    from fedhw_server.store.coordinator_home import Home
    from fedhw_server.store.fleet import Fleet


def server(
    context: typer.Context,
    home: HomeOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on for devices.")] = "127.0.0.1",
    advertise: Annotated[
        str | None, typer.Option(help="Name or address by which devices reach this coordinator.")
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of statistics and enrolment; 0: a free one.")
    ] = 9470,
    flower_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of Flower; 0: a free one.")
    ] = 9471,
    metrics_host: Annotated[
        str, typer.Option(help="Address to listen on for Prometheus.")
    ] = "127.0.0.1",
    metrics_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port for Prometheus; 0: a free one.")
    ] = 9472,
    window: Annotated[
        int | None, typer.Option(min=1, help="Seconds that a report covers; a day by default.")
    ] = None,
    epsilon: Annotated[
        float | None, typer.Option(help="Epsilon that a report costs a device; 2 by default.")
    ] = None,
    delta: Annotated[float | None, typer.Option(help="Its delta; 1e-6 by default.")] = None,
    minimum_cohort: Annotated[
        int | None, typer.Option(min=2, help="Devices that statistics need; 10 by default.")
    ] = None,
) -> None:
    """Start a coordinator, or operate it with one of the commands below.

    What reports cover and cost is fixed once the first device was invited.

    For example: fedhw server --home fleet --host 0.0.0.0 --advertise fleet.example.org
    """
    context.obj = home
    if context.invoked_subcommand is not None:
        return
    with needs("server"):
        from fedhw_server.leader.coordinator_process import Settings, run

    run(
        Settings(
            home_of(home),
            host,
            advertise,
            port,
            flower_port,
            metrics_host,
            metrics_port,
            window,
            epsilon,
            delta,
            minimum_cohort,
        ),
        say,
    )


def pause(home: HomeOption = None) -> None:
    """Offer no release until `resume`; reports are still taken.

    For example: fedhw server pause
    """
    with opened(home) as (_, fleet):
        fleet.settings.pause(True)
    say("no release is offered from now on")


def resume(home: HomeOption = None) -> None:
    """Offer releases again.

    For example: fedhw server resume
    """
    with opened(home) as (_, fleet):
        fleet.settings.pause(False)
    say("releases are offered again")


def status(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show the state of the coordinator and its fleet.

    For example: fedhw server status
    """
    with opened(home) as (place, fleet):
        known, now = _status(place, fleet), fleet.clock.wall()
    if as_json:
        out.print_json(json.dumps(known))
        return
    policy, last, newest = known["policy"], known["last_round"], known["newest_window"]
    shown = Table("coordinator", escape(place.directory.name))
    shown.add_row("runs", "yes" if known["running"] else "no")
    shown.add_row("offers releases", "no, paused" if known["paused"] else "yes")
    shown.add_row("newest release", known["release"] or "none published yet")
    for name, value in known["devices"].items():
        shown.add_row(f"devices {name.replace('_', ' ')}", str(value))
    if last:
        shown.add_row(
            "last offer", f"{last['answered']} of {last['asked']}, {ago(last['began'], now)}"
        )
    if newest:
        span = window_span(newest["window"], policy["window"])
        shown.add_row("newest window", f"{span}: {newest['reports']} reports")
    shown.add_row(
        "a report",
        f"covers {policy['window']} s, costs ({policy['epsilon']:g}, {policy['delta']:g})",
    )
    out.print(shown)


def _status(home: "Home", fleet: "Fleet") -> dict[str, Any]:
    from fedhw_server.store.members import MemberCounts

    latest = home.registry.latest
    rounds = [each for each in fleet.offer_log.all() if each.seconds is not None]
    newest = next(iter(fleet.reports.windows()), None)
    counts = MemberCounts.of(fleet.members.all(), latest, fleet.clock.wall())
    return {
        "running": home.is_occupied(),
        "paused": fleet.settings.is_paused,
        "statistics": fleet.settings.get("statistics"),
        "flower": fleet.settings.get("flower"),
        "release": latest.name if latest else None,
        "devices": counts._asdict(),
        "last_round": rounds[-1]._asdict() if rounds else None,
        "newest_window": newest and {"window": newest[0], "reports": newest[1]},
        "policy": vars(fleet.policy),
    }
