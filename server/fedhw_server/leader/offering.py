"""The coordinator's loop: offers releases to the devices that are online.

    while the run lasts, unless the operator has paused:
        take an attempt to improve one step forward
        release := the newest one; for devices that its roll-out has not reached, the one before
        asked := the devices that are online and have not settled on the release
        offer each of them the manifest; send the files to those that want them
        note each answer; a device that misses the deadline is asked again next time

The answers to an offer are stored when it ends, so a coordinator that is killed loses only the
offer in flight.
"""

import re
from collections.abc import Callable, Mapping

import structlog
from flwr.serverapp import Grid
from google.protobuf.message import DecodeError

from fedhw.release.registry import Parcel, Registry
from fedhw.system.clock import Clock, SystemClock
from fedhw.v1 import release_pb2 as pb
from fedhw_server.leader.broadcast import Kind, request_all
from fedhw_server.leader.improver import Improver
from fedhw_server.store.fleet import Fleet
from fedhw_server.store.members import Member

OFFER = Kind("query.release", "offer")

OFFER_TIMEOUT_SECONDS = 30.0
"""Seconds that devices have to answer."""

OFFER_INTERVAL_SECONDS = 1.0
"""Seconds between two offers."""

RELEASE = re.compile(r"v[0-9]{1,10}-[0-9a-f]{8}")
"""The names of releases; other names in an answer are not stored."""

log = structlog.get_logger()


def coordinate(
    grid: Grid,
    fleet: Fleet,
    registry: Registry,
    improver: Improver,
    ended: Callable[[], bool] = lambda: False,
    clock: Clock = SystemClock(),
) -> None:
    """Improve and offer releases until `ended` returns True."""
    while not ended():
        if not fleet.settings.is_paused:
            improver.step(online(grid, fleet))
        offer(grid, fleet, registry, clock)
        clock.sleep(OFFER_INTERVAL_SECONDS)


def online(grid: Grid, fleet: Fleet) -> dict[int, Member]:
    """Return the enrolled devices that are connected, by node."""
    nodes = set(grid.get_node_ids())
    return {node: device for node, device in fleet.members.by_node().items() if node in nodes}


def offer(grid: Grid, fleet: Fleet, registry: Registry, clock: Clock = SystemClock()) -> None:
    """Offer each device that is online the release for it, unless it has settled on that."""
    newest, now = registry.latest, clock.wall()
    if newest is None or fleet.settings.is_paused:
        return
    by_version: dict[int, dict[int, Member]] = {}
    roll_out = fleet.attempts.roll_out(newest)
    for node, device in online(grid, fleet).items():
        version = roll_out.version_for(device.name, device.running)
        if device.wants(version, now):
            by_version.setdefault(version, {})[node] = device
    for version, devices in by_version.items():
        _offer(grid, fleet, registry.parcel(version), version, devices, clock)


def _offer(
    grid: Grid,
    fleet: Fleet,
    parcel: Parcel,
    version: int,
    devices: Mapping[int, Member],
    clock: Clock,
) -> None:
    number = fleet.offer_log.begin(version, len(devices))
    began, answered = clock.monotonic(), set()
    asked = pb.Offer(manifest=parcel.manifest, signature=parcel.signature)
    whole = pb.Offer(manifest=parcel.manifest, signature=parcel.signature, files=parcel.files)
    first, second = asked.SerializeToString(), whole.SerializeToString()
    served: set[int] = set()

    def take(node: int, content: bytes) -> bytes | None:
        answer = _answer(content)
        if answer.adoption == pb.ADOPTION_WANTED and node not in served:
            served.add(node)
            return second
        _note(fleet, devices[node], version, answer)
        answered.add(node)
        return None

    request_all(grid, OFFER, dict.fromkeys(devices, first), OFFER_TIMEOUT_SECONDS, take, clock)
    fleet.offer_log.end(number, len(answered), clock.monotonic() - began)
    log.info("offered", version=version, asked=len(devices), answered=len(answered))


def _answer(content: bytes) -> pb.Answer:
    """Parse a device's answer; raises DecodeError if it cannot be used."""
    answer = pb.Answer.FromString(content)
    # Protobuf enums are open: a device may send any number.
    if answer.adoption in pb.Adoption.values() and answer.refusal in pb.Refusal.values():
        return answer
    raise DecodeError("an unknown word")


def _note(fleet: Fleet, device: Member, version: int, answer: pb.Answer) -> None:
    """Store a device's answer as words, which tables and metrics show."""
    refusal = None
    if answer.adoption == pb.ADOPTION_REFUSED:
        refusal = _word(pb.Refusal.Name(answer.refusal), "REFUSAL_")
    adoption = _word(pb.Adoption.Name(answer.adoption), "ADOPTION_")
    running = answer.running if RELEASE.fullmatch(answer.running) else ""
    fleet.members.note_answer(device.name, version, running, adoption, refusal)


def _word(name: str, prefix: str) -> str:
    return name.removeprefix(prefix).lower().replace("_", " ")
