"""The coordinator's loop: whoever is online and does not run the newest release is offered it.

    while the run lasts:
        release := the newest that was published, unless the operator has paused
        asked := the devices that are online and have not settled about it
        offer each of them the manifest; send the files to those that want them
        note what each has answered; who has not by the deadline is asked again in the next round

Whatever a round learns is in the fleet's database when it ends, so a coordinator that is killed
loses no more than the round in flight.
"""

import re
import time
from collections.abc import Iterable

import httpx
import structlog
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from google.protobuf.message import DecodeError

from fedhw.release.registry import Registry
from fedhw.v1 import release_pb2 as pb
from fedhw_server.fleet import Device, Fleet

ASK = "query.release"
"""The type of the messages, as the devices' ClientApp knows it."""

DEADLINE = 30.0
"""Seconds that devices have to answer in a round."""

BETWEEN = 1.0
"""Seconds between two rounds."""

MARGIN = 2.0
"""Seconds before the deadline at which messages expire."""

POLL = 0.1
"""Seconds between two looks for answers."""

RELEASE = re.compile(r"v[0-9]{1,10}-[0-9a-f]{8}")
"""What releases are called: nothing else that a device says is kept."""

log = structlog.get_logger()


def coordinate(grid: Grid, fleet: Fleet, registry: Registry) -> None:
    """Offer releases for as long as the process lives."""
    while True:
        offer(grid, fleet, registry)
        time.sleep(BETWEEN)


def offer(grid: Grid, fleet: Fleet, registry: Registry) -> None:
    """Ask everybody who has not settled about the newest release, in one round."""
    newest = registry.latest
    if newest is None or fleet.is_paused:
        return
    version, online, now = newest.version, set(grid.get_node_ids()), time.time()
    devices = {
        node: device
        for node, device in fleet.by_node().items()
        if node in online and device.wants(version, now)
    }
    if not devices:
        return
    number = fleet.begin_round(version, len(devices))
    began, answered = time.monotonic(), 0
    parcel = registry.parcel(version)
    asked = pb.Offer(manifest=parcel.manifest, signature=parcel.signature)
    whole = pb.Offer(manifest=parcel.manifest, signature=parcel.signature, files=parcel.files)
    served: set[int] = set()
    flying = _send(grid, devices, asked, DEADLINE)
    while flying and time.monotonic() - began < DEADLINE:
        wanting = []
        for message in _pull(grid, flying):
            # What a message says of itself, its sender has written.
            node = flying.pop(message.metadata.reply_to_message_id, None)
            answer = _answer(message)
            if answer is None or node is None or node != message.metadata.src_node_id:
                continue
            if answer.adoption == pb.ADOPTION_WANTED and node not in served:
                wanting.append(node)
            else:
                _note(fleet, devices[node], version, answer)
                answered += 1
        if wanting:
            served.update(wanting)
            left = DEADLINE - (time.monotonic() - began)
            flying |= _send(grid, wanting, whole, left)
        time.sleep(POLL)
    fleet.end_round(number, answered, time.monotonic() - began)
    log.info("offered", version=version, asked=len(devices), answered=answered)


def _send(grid: Grid, nodes: Iterable[int], offer: pb.Offer, seconds: float) -> dict[str, int]:
    """Send an offer that holds for so long; returns the nodes by the messages to them."""
    nodes = list(nodes)
    content = RecordDict({"fedhw": ConfigRecord({"offer": offer.SerializeToString()})})
    # Over before the round is, since Flower keeps what expires until it is asked for.
    ttl = max(seconds - MARGIN, 0.1)
    messages = [Message(content, node, ASK, ttl=ttl) for node in nodes]
    sent = zip(grid.push_messages(messages), nodes, strict=False)
    return {message: node for message, node in sent if message}


def _pull(grid: Grid, flying: Iterable[str]) -> list[Message]:
    """The replies that have come; one that Flower cannot read is lost, and asked for again."""
    try:
        return [message for message in grid.pull_messages(list(flying)) if _is_message(message)]
    except httpx.HTTPError:
        raise  # the SuperLink is gone, and with it the run
    except Exception as error:
        log.warning("no answer that can be read", error=type(error).__name__)
        return []


def _is_message(message: object) -> bool:
    # Whatever a device sends is made into an object of the kind that it names.
    return isinstance(message, Message)


def _answer(message: Message) -> pb.Answer | None:
    """What a device said, None if it could not say anything that can be used."""
    if message.has_error():
        log.warning("no answer", code=message.error.code)
        return None
    try:
        content = message.content["fedhw"]["answer"]
        if isinstance(content, bytes):
            answer = pb.Answer.FromString(content)
            # Enums are open: a device may send any number.
            if answer.adoption in pb.Adoption.values() and answer.refusal in pb.Refusal.values():
                return answer
    except (KeyError, TypeError, DecodeError):
        pass
    log.warning("no answer that can be read")
    return None


def _note(fleet: Fleet, device: Device, version: int, answer: pb.Answer) -> None:
    """Keep what a device says; words, since people read them in tables and metrics."""
    refusal = None
    if answer.adoption == pb.ADOPTION_REFUSED:
        refusal = _word(pb.Refusal.Name(answer.refusal), "REFUSAL_")
    adoption = _word(pb.Adoption.Name(answer.adoption), "ADOPTION_")
    running = answer.running if RELEASE.fullmatch(answer.running) else ""
    fleet.note_answer(device.name, version, running, adoption, refusal)


def _word(name: str, prefix: str) -> str:
    return name.removeprefix(prefix).lower().replace("_", " ")
