"""`fedhw server ...`: what an operator does."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
import typer
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from fedhw.errors import InputError
from fedhw.system.console import DATA_HELP, MAX_SEED, needs, out, say

if TYPE_CHECKING:
    from fedhw.invitation import Invitation
    from fedhw.privacy.estimate import Estimate
    from fedhw.release.manifest import Manifest
    from fedhw.release.registry import Registry
    from fedhw_server.store.coordinator_home import Home
    from fedhw_server.store.fleet import Fleet
    from fedhw_server.store.members import Member

app = typer.Typer(invoke_without_command=True, help="Run and steer a coordinator.")

HomeOption = Annotated[
    Path | None,
    typer.Option(help="The coordinator's home; $FEDHW_SERVER_HOME or this user's own by default."),
]
SHOWN = 20
"""Decisions that are listed, the newest."""

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback()
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
        float | None, typer.Option(help="What a report costs a device; 2 by default.")
    ] = None,
    delta: Annotated[float | None, typer.Option(help="The same; 1e-6 by default.")] = None,
    minimum_cohort: Annotated[
        int | None, typer.Option(min=2, help="Nothing is shown of fewer devices; 10 by default.")
    ] = None,
) -> None:
    """Start a coordinator, or steer it with one of the commands below.

    What reports cover and cost is agreed at the first start and stays.
    """
    context.obj = home
    if context.invoked_subcommand is not None:
        return
    with needs("server"):
        from fedhw_server.leader.coordinator_process import Settings, run

    run(
        Settings(
            _home(home),
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


@app.command()
def enroll(
    name: Annotated[str, typer.Argument(help="What the device shall be called.")],
    home: HomeOption = None,
) -> None:
    """Print an invitation for one device: fedhw server enroll NAME > NAME.enroll."""
    with _fleet(home) as (place, fleet):
        invitation = invite(place, fleet, name)
    print(invitation.to_json(), end="")


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="The device to send away for good.")],
    home: HomeOption = None,
) -> None:
    """End a device's part at once: no release, no report."""
    with _fleet(home) as (_, fleet):
        fleet.members.revoke(name)
    say(f"{name} is revoked")


@app.command()
def publish(
    release: Annotated[Path, typer.Argument(help="Release directory, as train-expert makes it.")],
    home: HomeOption = None,
) -> None:
    """Sign a release and offer it to every device."""
    with _fleet(home) as (place, _):
        manifest = registry(place).publish(release)
    say(f"published {manifest.name}")


@app.command()
def rollback(
    version: Annotated[int, typer.Argument(help="The version to go back to.")],
    home: HomeOption = None,
) -> None:
    """Publish an older release again, as the newest version."""
    with _fleet(home) as (place, _):
        manifest = registry(place).rollback(version)
    say(f"published {manifest.name}, which restores version {version}")


@app.command()
def pause(home: HomeOption = None) -> None:
    """Offer no release until `resume`; reports are still taken."""
    with _fleet(home) as (_, fleet):
        fleet.settings.pause(True)
    say("no release is offered from now on")


@app.command()
def resume(home: HomeOption = None) -> None:
    """Offer releases again."""
    with _fleet(home) as (_, fleet):
        fleet.settings.pause(False)
    say("releases are offered again")


@app.command()
def status(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show how the fleet is."""
    with _fleet(home) as (place, fleet):
        devices, policy, now = fleet.members.all(), fleet.policy, fleet.clock.wall()
        latest = registry(place).latest
        enrolled = [device for device in devices if device.state == "enrolled"]
        rounds = [each for each in fleet.offer_log.all() if each.seconds is not None]
        newest = next(iter(fleet.reports.windows()), None)
        known: dict[str, Any] = {
            "running": place.is_occupied(),
            "paused": fleet.settings.is_paused,
            "statistics": fleet.settings.get("statistics"),
            "flower": fleet.settings.get("flower"),
            "release": latest.name if latest else None,
            "devices": {
                "invited": sum(device.state == "invited" for device in devices),
                "enrolled": len(enrolled),
                "online": sum(device.is_online(now) for device in enrolled),
                "on_release": sum(
                    latest is not None and d.running == latest.name for d in enrolled
                ),
                "held_back": sum(device.adoption == "held back" for device in enrolled),
                "refused": sum(device.adoption == "refused" for device in enrolled),
                "revoked": sum(device.state == "revoked" for device in devices),
            },
            "last_round": rounds[-1]._asdict() if rounds else None,
            "newest_window": newest and {"window": newest[0], "reports": newest[1]},
            "policy": vars(policy),
        }
    if as_json:
        out.print_json(json.dumps(known))
        return
    shown = Table("coordinator", escape(place.directory.name))
    shown.add_row("runs", "yes" if known["running"] else "no")
    shown.add_row("offers releases", "no, paused" if known["paused"] else "yes")
    shown.add_row("newest release", known["release"] or "none published yet")
    for name, value in known["devices"].items():
        shown.add_row(f"devices {name.replace('_', ' ')}", str(value))
    if known["last_round"]:
        last = known["last_round"]
        shown.add_row("last round", f"{last['answered']} of {last['asked']}, {_ago(last['began'])}")
    if newest:
        shown.add_row("newest window", f"{_window(newest[0], policy.window)}: {newest[1]} reports")
    shown.add_row(
        "a report", f"covers {policy.window} s, costs ({policy.epsilon:g}, {policy.delta:g})"
    )
    out.print(shown)


@app.command()
def devices(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List the devices: who they are, what they run, when they were seen."""
    with _fleet(home) as (_, fleet):
        known, now = fleet.members.all(), fleet.clock.wall()
    if as_json:
        out.print_json(json.dumps([_device(device, now) for device in known]))
        return
    shown = Table("device", "state", "online", "runs", "newest offer", "seen")
    for device in known:
        offer = device.adoption or ""
        shown.add_row(
            device.name,
            device.state,
            "yes" if device.is_online(now) else "no",
            device.running or "",
            f"{offer}: {device.refusal}" if device.refusal else offer,
            _ago(device.seen_at),
        )
    out.print(shown)


@app.command()
def releases(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List what was published, what was tried to improve it, and every decision with its reason."""
    with _fleet(home) as (place, fleet):
        manifests = registry(place).versions()
        running = [device.running for device in fleet.members.all() if device.state == "enrolled"]
        known = fleet.attempts
        attempts, decisions = known.all(), known.decisions()
        share = known.roll_out(manifests[-1]).share if manifests else 1.0
    if as_json:
        content = {
            "releases": [json.loads(each.to_json()) | {"name": each.name} for each in manifests],
            "share": share,
            "attempts": [
                each._asdict()
                | {
                    "plan": json.loads(each.plan),
                    "baseline": json.loads(each.baseline),
                    "stopping": bool(each.stopping),
                }
                for each in attempts
            ],
            "decisions": [each._asdict() for each in decisions],
        }
        out.print_json(json.dumps(content))
        return
    shown = Table("release", "architecture", "generic accuracy", "restores", "made", "devices")
    for manifest in manifests:
        reached = manifest.validation.get("generic_accuracy")
        shown.add_row(
            manifest.name,
            Text(manifest.architecture),
            "" if reached is None else f"{reached:.1%}",
            "" if manifest.restores is None else f"version {manifest.restores}",
            Text(manifest.created),
            str(running.count(manifest.name)),
        )
    out.print(shown)
    if share < 1:
        out.print(f"{manifests[-1].name} is for {share:.0%} of the devices so far")
    if attempts:
        shown = Table("attempt", "improves", "stage", "candidate", "published as")
        for each in attempts:
            version = "" if each.version is None else f"version {each.version}"
            shown.add_row(
                str(each.number),
                f"version {each.parent}",
                each.stage,
                each.candidate or "",
                version,
            )
        out.print(shown)
    if decisions:
        shown = Table("attempt", "when", "decision", "reason")
        for one in decisions[-SHOWN:]:
            number = "" if one.attempt is None else str(one.attempt)
            shown.add_row(number, _ago(one.moment), one.decision, Text(one.reason))
        out.print(shown)


@app.command()
def public(
    data: Annotated[str, typer.Argument(help=DATA_HELP)],
    release: Annotated[Path, typer.Argument(help="The release that was made of it.")],
    seed: Annotated[
        int, typer.Option(min=0, max=MAX_SEED, help="That of train-expert, for synthetic data.")
    ] = 0,
    home: HomeOption = None,
) -> None:
    """Give the public characters that improvements rehearse and candidates are judged by."""
    with _fleet(home) as (place, _):
        from fedhw.data.sources import load_source
        from fedhw.improvement.public import Public
        from fedhw.release.release import Release

        newest = registry(place).release(_newest(place).version)
        given = Public.of(load_source(data, seed), Release.load(release))
        newest.check_fits(given.rehearsal)
        given.save(place.public)
    say(f"{len(given.rehearsal)} characters to rehearse, {len(given.validation)} to judge by")


@app.command()
def improve(
    home: HomeOption = None,
    stop: Annotated[bool, typer.Option("--stop", help="End the attempt in flight.")] = False,
) -> None:
    """Begin an attempt to improve the newest release, by the plan."""
    with _fleet(home) as (place, fleet):
        from fedhw.improvement.public import Public

        attempts = fleet.attempts
        if stop:
            attempts.stop()
            say("the attempt ends after what it does now; a release that is rolled out goes back")
            return
        newest = _newest(place)
        Public.load(place.public)
        attempts.plan.check_fleet(fleet.members.enrolled)
        attempts.begin(newest.version, "asked for by hand")
    say(f"{newest.name} is to be improved; fedhw server releases says how far it is")


@app.command()
def improvement(
    home: HomeOption = None,
    automatic: Annotated[
        bool | None,
        typer.Option(
            "--automatic/--by-hand", help="Begin when the statistics tell for it, or not."
        ),
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds of an attempt.")] = None,
    noise: Annotated[
        float | None, typer.Option(help="Noise of a round's sum, in lengths of an update.")
    ] = None,
    cohort: Annotated[int | None, typer.Option(help="Devices asked in a round, at most.")] = None,
    survivors: Annotated[
        int | None, typer.Option(help="Devices in a round's sum, at least.")
    ] = None,
    participations: Annotated[
        int | None, typer.Option(help="Rounds of an attempt that a device is asked for, at most.")
    ] = None,
    canary: Annotated[
        float | None, typer.Option(help="Share of the devices online that try a candidate.")
    ] = None,
    error: Annotated[
        float | None, typer.Option(help="Begin where the global expert is wrong on a larger share.")
    ] = None,
    rise: Annotated[
        float | None, typer.Option(help="Or where gates open on so much more since the last one.")
    ] = None,
    online: Annotated[int | None, typer.Option(help="Only with so many devices online.")] = None,
    pause_days: Annotated[
        float | None, typer.Option(help="Only so long after the last one.")
    ] = None,
    epsilon_in_all: Annotated[
        float | None, typer.Option(help="Only while all of them cost no device more.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the plan for attempts to improve, changed to what is given."""
    with _fleet(home) as (place, fleet):
        from fedhw.privacy.discrete_gaussian import epsilon_of
        from fedhw.system.clock import DAY_SECONDS

        newest, attempts, delta = _newest(place), fleet.attempts, fleet.policy.delta
        pause = None if pause_days is None else pause_days * DAY_SECONDS
        when = _given(error=error, rise=rise, cohort=online, pause=pause, epsilon=epsilon_in_all)
        given = _given(
            automatic=automatic,
            rounds=rounds,
            noise=noise,
            cohort=cohort,
            survivors=survivors,
            participations=participations,
            canary=canary,
        )
        plan = attempts.plan
        if given or when:
            plan = replace(plan, **given, trigger=replace(plan.trigger, **when))
            attempts.agree(plan)
        parameters = registry(place).release(newest.version).expert.parameters()
        rho = plan.rho(sum(each.numel() for each in parameters))
        costs = {"attempt": epsilon_of(rho, delta), "spent": epsilon_of(attempts.rho, delta)}
    if as_json:
        out.print_json(json.dumps(json.loads(plan.to_json()) | {"epsilon": costs, "delta": delta}))
        return
    shown = Table("attempts to improve", "")
    trigger = plan.trigger
    for name, value in {
        "begin": "when the statistics tell for it" if plan.automatic else "by hand",
        "rounds": f"{plan.rounds}, noise {plan.noise:g}",
        "a round": f"asks {plan.cohort} devices and needs {plan.survivors}",
        "a device": f"is asked for {plan.participations} rounds at most",
        "a candidate": f"is tried by {plan.canary:.0%} of the devices online",
        "epsilon of one": f"{costs['attempt']:.2f} at delta {delta:g}",
        "epsilon spent": f"{costs['spent']:.2f} by the device that was in most",
        "begins where": f"the global expert is wrong on {trigger.error:.0%}, or gates open on "
        f"{trigger.rise:.0%} more",
        "and": f"{trigger.cohort} devices are online, {trigger.pause / DAY_SECONDS:g} days after "
        f"the last, below epsilon {trigger.epsilon:g} in all",
    }.items():
        shown.add_row(name, value)
    out.print(shown)


@app.command()
def statistics(
    home: HomeOption = None,
    window: Annotated[
        int | None, typer.Option(help="The window to show; the newest that may be shown.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what the devices' reports say: means, standard errors, cohort sizes."""
    with _fleet(home) as (place, fleet):
        from fedhw_server.store.window_estimates import window_estimates

        latest, policy = registry(place).latest, fleet.policy
        found = window_estimates(fleet, len(latest.alphabet), window) if latest else None
    if latest is None or found is None:
        raise InputError(
            f"statistics: no window has reports of {policy.minimum_cohort} devices, and nothing is "
            "shown of fewer; wait for more"
        )
    if as_json:
        content = {
            "window": found.window,
            "ended": found.ended,
            "cohort": found.cohort,
            "estimates": [_estimate(each) for each in found.estimates],
            "by_release": {
                release: [_estimate(each) for each in estimates]
                for release, estimates in found.by_release.items()
            },
        }
        out.print_json(json.dumps(content))
        return
    out.print(f"window {_window(found.window, policy.window)}, {found.cohort} devices")
    shown = Table("statistic", "mean", "standard error", "99 % interval", "unit")
    for each in found.estimates:
        if each.entry is None:
            low, high = each.interval()
            shown.add_row(
                each.name,
                f"{each.mean:.3f}",
                f"{each.standard_error:.3f}",
                f"{low:.3f} to {high:.3f}",
                each.unit,
            )
    out.print(shown)
    errors = [each for each in found.estimates if each.name == "error_share"]
    worst = sorted(errors, key=lambda each: each.mean, reverse=True)[:10]
    shown = Table("most errors at", "share of corrections", "standard error")
    for each in worst:
        character = latest.alphabet[each.entry or 0]
        shown.add_row(Text(character), f"{each.mean:.3f}", f"{each.standard_error:.3f}")
    out.print(shown)


def _newest(home: "Home") -> "Manifest":
    newest = registry(home).latest
    if newest is None:
        raise InputError("release: none was published yet; run `fedhw server publish` first")
    return newest


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def invite(home: "Home", fleet: "Fleet", name: str) -> "Invitation":
    """Make room for a device and return its invitation; raises InputError for a name in use."""
    from fedhw.invitation import Invitation
    from fedhw.release.signing import ReleaseKey

    policy = fleet.policy
    return Invitation(
        device=name,
        certificate_authority=(home.certificates / "ca.crt").read_text(encoding="ascii"),
        statistics=fleet.settings.get("statistics"),
        flower=fleet.settings.get("flower"),
        release_key=ReleaseKey.load(home.release_key).public,
        app=fleet.settings.get("app"),
        window=policy.window,
        epsilon=policy.epsilon,
        delta=policy.delta,
        token=fleet.members.invite(name),  # last: no room is made where the rest is not known yet
    )


def registry(home: "Home") -> "Registry":
    """Return what was published, signed with the coordinator's key."""
    from fedhw.release.registry import Registry
    from fedhw.release.signing import ReleaseKey

    return Registry(home.releases, ReleaseKey.load(home.release_key))


@contextmanager
def _fleet(home: Path | None) -> "Iterator[tuple[Home, Fleet]]":
    """The coordinator's home and database, whether it runs or not."""
    place = _home(home)
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


def _home(given: Path | None) -> "Home":
    with needs("server"):
        from fedhw_server.store.coordinator_home import Home
    # It may stand before the command, too.
    chosen = given or click.get_current_context().obj
    return Home.default() if chosen is None else Home(chosen)


def _device(device: "Member", now: float) -> dict[str, Any]:
    return {
        "name": device.name,
        "state": device.state,
        "online": device.is_online(now),
        "running": device.running,
        "offered": device.offered,
        "adoption": device.adoption,
        "refusal": device.refusal,
        "invited_at": device.invited_at,
        "enrolled_at": device.enrolled_at,
        "revoked_at": device.revoked_at,
        "seen_at": device.seen_at,
    }


def _estimate(estimate: "Estimate") -> dict[str, Any]:
    low, high = estimate.interval()
    return estimate._asdict() | {"low": low, "high": high}


def _window(number: int, length: int) -> str:
    """A window as people read it."""
    start, end = (datetime.fromtimestamp(n * length, UTC) for n in (number, number + 1))
    return f"{start:%Y-%m-%d %H:%M:%S} to {end:%Y-%m-%d %H:%M:%S} UTC"


def _ago(moment: float | None) -> str:
    """How long ago that was, as people say it."""
    if moment is None:
        return "never"
    seconds = time.time() - moment
    for unit, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{max(seconds, 0):.0f} seconds ago"
