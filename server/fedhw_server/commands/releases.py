"""`fedhw server publish`, `rollback` and `releases`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from fedhw.system.console import out, say
from fedhw_server.commands.operator_options import HomeOption, JsonOption, opened
from fedhw_server.commands.times import ago

if TYPE_CHECKING:
    from fedhw.improvement.attempt import Attempt, Decision
    from fedhw.release.manifest import Manifest

SHOWN = 20
"""Most decisions that are listed."""


def publish(
    release: Annotated[Path, typer.Argument(help="Release directory, as train-expert makes it.")],
    home: HomeOption = None,
) -> None:
    """Sign a release and offer it to every device.

    For example: fedhw server publish release
    """
    with opened(home) as (place, _):
        manifest = place.registry.publish(release)
    say(f"published {manifest.name}")


def rollback(
    version: Annotated[int, typer.Argument(help="The version to restore.")],
    home: HomeOption = None,
) -> None:
    """Publish an older release again, as the newest version.

    For example: fedhw server rollback 3
    """
    with opened(home) as (place, _):
        manifest = place.registry.rollback(version)
    say(f"published {manifest.name}, which restores version {version}")


def releases(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List the releases, the attempts to improve them, and the latest decisions with reasons.

    For example: fedhw server releases
    """
    with opened(home) as (place, fleet):
        manifests = place.registry.versions()
        running = [device.running for device in fleet.members.all() if device.state == "enrolled"]
        attempts, decisions = fleet.attempts.all(), fleet.attempts.decisions()
        share = fleet.attempts.roll_out(manifests[-1]).share if manifests else 1.0
        now = fleet.clock.wall()
    if as_json:
        content = {
            "releases": [json.loads(each.to_json()) | {"name": each.name} for each in manifests],
            "share": share,
            "attempts": [_attempt(each) for each in attempts],
            "decisions": [each._asdict() for each in decisions],
        }
        out.print_json(json.dumps(content))
        return
    out.print(_table_of_releases(manifests, running))
    if share < 1:
        out.print(f"{manifests[-1].name} is for {share:.0%} of the devices so far")
    if attempts:
        out.print(_table_of_attempts(attempts))
    if decisions:
        out.print(_table_of_decisions(decisions[-SHOWN:], now))


def _table_of_releases(manifests: "Sequence[Manifest]", running: Sequence[str | None]) -> Table:
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
    return shown


def _table_of_attempts(attempts: "Sequence[Attempt]") -> Table:
    shown = Table("attempt", "improves", "stage", "candidate", "published as")
    for each in attempts:
        version = "" if each.version is None else f"version {each.version}"
        improves = f"version {each.parent}"
        shown.add_row(str(each.number), improves, each.stage, each.candidate or "", version)
    return shown


def _table_of_decisions(decisions: "Sequence[Decision]", now: float) -> Table:
    shown = Table("attempt", "when", "decision", "reason")
    for one in decisions:
        number = "" if one.attempt is None else str(one.attempt)
        shown.add_row(number, ago(one.moment, now), one.decision, Text(one.reason))
    return shown


def _attempt(attempt: "Attempt") -> dict[str, Any]:
    shown = vars(attempt) | {"plan": json.loads(attempt.plan.to_json())}
    return {name: value for name, value in shown.items() if name not in ("rounds", "progress")}
