"""`fedhw server enroll`, `revoke` and `devices`."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from fedhw.system.console import out, say
from fedhw_server.commands.operator_options import HomeOption, JsonOption, opened
from fedhw_server.commands.times import ago

if TYPE_CHECKING:
    from fedhw_server.store.members import Member


SHOWN = (
    *("running", "offered", "adoption", "refusal"),
    *("invited_at", "enrolled_at", "revoked_at", "seen_at"),
)
"""Fields of a device that are printed as JSON, besides name, state and whether it is online."""


def enroll(
    name: Annotated[str, typer.Argument(help="The name of the device.")],
    home: HomeOption = None,
) -> None:
    """Print an invitation for one device.

    For example: fedhw server enroll anna > anna.enroll
    """
    with opened(home) as (place, fleet):
        from fedhw_server.store.invitations import invite

        invitation = invite(place, fleet, name)
    print(invitation.to_json(), end="")


def revoke(
    name: Annotated[str, typer.Argument(help="The device to revoke.")],
    home: HomeOption = None,
) -> None:
    """Revoke a device for good: it gets no releases, and its reports are refused.

    For example: fedhw server revoke anna
    """
    with opened(home) as (_, fleet):
        fleet.members.revoke(name)
    say(f"{name} is revoked")


def devices(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List the devices with the releases they run and when they were last seen.

    For example: fedhw server devices
    """
    with opened(home) as (_, fleet):
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
            ago(device.seen_at, now),
        )
    out.print(shown)


def _device(device: "Member", now: float) -> dict[str, Any]:
    return {
        "name": device.name,
        "state": device.state,
        "online": device.is_online(now),
        **{name: getattr(device, name) for name in SHOWN},
    }
