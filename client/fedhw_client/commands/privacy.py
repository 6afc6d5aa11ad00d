"""`fedhw client privacy`: the reports that a device made, in plain words and byte for byte."""

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from fedhw.errors import InputError
from fedhw.system.clock import SystemClock
from fedhw.system.console import needs, out, say

if TYPE_CHECKING:
    from fedhw.privacy.budget import Spent
    from fedhw.privacy.ledger import Charge, Ledger, PaidRound
    from fedhw_client.fleet.enrolment import Enrolment


def privacy(
    context: typer.Context,
    home: Annotated[Path | None, typer.Option(help="The agent's home.")] = None,
    report: Annotated[
        str | None, typer.Option(help="Print the report of this window or candidate in full.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what this device has reported, when, and how much of its privacy budget is left.

    For example: fedhw client privacy --report 20612
    """
    with needs("client"):
        from fedhw.privacy.ledger import Ledger
        from fedhw_client.fleet.enrolment import Enrolment
        from fedhw_client.store.device_home import Home

    chosen = home or context.obj  # it may stand before the command, too
    place = Home.default() if chosen is None else Home(chosen)
    if not place.enrolment.is_dir():
        say("This device belongs to no fleet. Nothing leaves it.")
        return
    enrolment, ledger = Enrolment.load(place.enrolment), Ledger.open(place.ledger)
    spent = ledger.spent(SystemClock().wall())
    if report is not None:
        _print_report(ledger, report)
    elif as_json:
        out.print_json(json.dumps(_as_json(enrolment, ledger, spent)))
    else:
        _show(enrolment, ledger, spent)


def _show(enrolment: "Enrolment", ledger: "Ledger", spent: "Spent") -> None:
    from fedhw.privacy.budget import ROUNDS_A_DAY

    invitation, limits = enrolment.invitation, ledger.limits
    history = ledger.history()
    say(f"This device is {invitation.device} of the fleet at {invitation.statistics}.")
    say(
        f"Every {_span(invitation.window)} it sends one report: how many corrections were "
        "made, how often each expert was right, at which labels errors were made, how "
        "long recognising took. All of it is clipped and covered with random noise first, so that "
        "any one report says little about you. Now and then it is asked to try a candidate for the "
        "next release, and reports in the same way how that compares; or to take part in a round "
        "that improves the release, and adds what it has learned, clipped and covered with noise, "
        "to a sum that nobody sees the parts of. What you write or say, your corrections, your "
        "local expert and gate are never sent. The fleet's operator also learns which release this "
        "device runs, and when it is online."
    )
    say("")
    shown = Table("privacy budget", "spent", "limit")
    shown.add_row("epsilon in the last 24 hours", f"{spent.day:.2f}", f"{limits.per_day:g}")
    shown.add_row("epsilon in all", f"{spent.in_all:.2f}", f"{limits.in_all:g}")
    shown.add_row("rounds in the last 24 hours", str(spent.rounds), str(ROUNDS_A_DAY))
    shown.caption = f"at delta {limits.delta:g}; when it is spent, nothing more is sent"
    out.print(shown)
    shown = Table("about", "from", "to", "epsilon", "bytes", "what became of it")
    for charge in history[-20:]:
        shown.add_row(
            str(charge.about),
            *_period(charge, invitation.window),
            f"{charge.epsilon:g}",
            str(len(charge.message)),
            _outcome(charge),
        )
    shown.caption = (
        f"{len(history)} reports in all, of windows by number and of candidates by name; "
        "--report prints one byte for byte"
    )
    out.print(shown)
    if rounds := ledger.rounds():
        out.print(_table_of_rounds(rounds))


def _table_of_rounds(rounds: "list[PaidRound]") -> Table:
    shown = Table("round", "paid for at", "rho")
    for paid in rounds[-20:]:
        shown.add_row(paid.name, _moment(paid.at), f"{paid.rho:.3g}")
    shown.caption = f"{len(rounds)} rounds in all"
    return shown


def _period(charge: "Charge", window: int) -> tuple[str, str]:
    """Return when a report's window began and ended, two empty texts for a candidate."""
    if isinstance(charge.about, str):
        return "", ""
    return _moment(charge.about * window), _moment((charge.about + 1) * window)


def _moment(at: float) -> str:
    return f"{datetime.fromtimestamp(at):%Y-%m-%d %H:%M:%S}"


def _span(seconds: int) -> str:
    """Return a duration as it reads after 'every'.

    >>> [_span(seconds) for seconds in (1, 20, 60, 100, 5400, 3600, 86_400)]
    ['second', '20 seconds', 'minute', '100 seconds', '90 minutes', 'hour', '24 hours']
    """
    units = (("hour", 3600), ("minute", 60), ("second", 1))
    unit, length = next((unit, length) for unit, length in units if seconds % length == 0)
    count = seconds // length
    return unit if count == 1 else f"{count} {unit}s"


def _outcome(charge: "Charge") -> str:
    if charge.refused is not None:
        return f"refused: {charge.refused}"
    if charge.sent_at is None:
        return "not sent yet"
    return f"sent {_moment(charge.sent_at)}"


def _as_json(enrolment: "Enrolment", ledger: "Ledger", spent: "Spent") -> dict[str, Any]:
    return {
        "device": enrolment.invitation.device,
        "coordinator": enrolment.invitation.statistics,
        "spent": spent._asdict(),
        "limits": vars(ledger.limits),
        "reports": [
            {
                **{name: getattr(charge, name) for name in ("about", "at", "epsilon", "delta")},
                "bytes": charge.message.hex(),
                "sent_at": charge.sent_at,
                "refused": charge.refused,
            }
            for charge in ledger.history()
        ],
        "rounds": [paid._asdict() for paid in ledger.rounds()],
    }


def _print_report(ledger: "Ledger", about: str) -> None:
    """Print the bytes as they were sent, and their meaning."""
    from fedhw.privacy.mechanism import GRID
    from fedhw.privacy.statistics import TABLES, layout, length
    from fedhw.v1 import statistics_pb2 as pb

    found = [charge for charge in ledger.history() if str(charge.about) == about]
    if not found:
        raise InputError(f"report: none was made of {about}; `fedhw client privacy` lists them all")
    [charge] = found
    request = pb.SendReportRequest.FromString(charge.message)
    content = pb.Report.FromString(request.report)
    for start in range(0, len(charge.message), 16):
        part = charge.message[start : start + 16]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        say(f"{start:06x}  {part.hex(' '):<47}  {text}")
    say("")
    for name in ("device", "schema", "window", "release", "epsilon", "delta"):
        say(f"{name}: {getattr(content, name)}")
    table = TABLES[content.schema]
    classes = len(content.steps) - length(0, table)
    for name, place in layout(classes, table).items():
        entries = " ".join(f"{step * GRID:.3f}" for step in content.steps[place])
        say(f"{name}, with noise of {charge.sigma:.2f}: {entries}")
    say(f"signature: {request.signature.hex()}")
