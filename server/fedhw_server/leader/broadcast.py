"""One question to many devices at once, over Flower; who has not answered in time is left out.

send each node its request
until all have answered, or the time is up:
    take each answer that has come; where that makes another request, send it
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import httpx
import structlog
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from google.protobuf.message import DecodeError

from fedhw.system.clock import Clock

EXPIRY_MARGIN_SECONDS = 2.0
"""Seconds before the deadline at which messages expire."""

POLL_SECONDS = 0.1
"""Seconds between two looks for answers."""

log = structlog.get_logger()


class Kind(NamedTuple):
    """The type of messages, as the devices' ClientApp knows it, and the entry that has the request.

    The answer's entry is always `answer`.
    """

    type: str
    entry: str


def request_all(
    grid: Grid,
    kind: Kind,
    requests: Mapping[int, bytes],
    seconds: float,
    take: Callable[[int, bytes], bytes | None],
    clock: Clock,
) -> None:
    """Ask nodes for at most so many seconds, handing each one's answers to `take`.

    What `take` returns is asked of that node next. It may raise DecodeError for an answer that
    cannot be read, which counts as none, as an error does and what is another node's to say.
    """
    end = clock.monotonic() + seconds
    flying = _send(grid, kind, requests, seconds)
    while flying and clock.monotonic() < end:
        more = {}
        for message in _pull(grid, flying):
            # What a message says of itself, its sender has written.
            node = flying.pop(message.metadata.reply_to_message_id, None)
            if node is None or node != message.metadata.src_node_id:
                log.warning("no answer that can be read", reason="not by who was asked")
                continue
            try:
                another = take(node, _content(message))
            except DecodeError as error:
                log.warning("no answer that can be read", reason=str(error))
                continue
            if another is not None:
                more[node] = another
        if more:
            flying |= _send(grid, kind, more, end - clock.monotonic())
        clock.sleep(POLL_SECONDS)


def _send(grid: Grid, kind: Kind, requests: Mapping[int, bytes], seconds: float) -> dict[str, int]:
    """Send requests that hold for so long; returns the nodes by the messages to them."""
    # Flower takes one content that is sent to many but once.
    contents = {
        request: RecordDict({"fedhw": ConfigRecord({kind.entry: request})})
        for request in set(requests.values())
    }
    # Over before the asking is, since Flower keeps what expires until it is asked for.
    ttl = max(seconds - EXPIRY_MARGIN_SECONDS, 0.1)
    messages = [
        Message(contents[request], node, kind.type, ttl=ttl) for node, request in requests.items()
    ]
    sent = zip(grid.push_messages(messages), requests, strict=False)
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


def _content(message: Message) -> bytes:
    """What a device answered; raises DecodeError if that is nothing that can be used."""
    if message.has_error():
        raise DecodeError(f"error {message.error.code}")
    try:
        content = message.content["fedhw"]["answer"]
    except (KeyError, TypeError):
        content = None
    if not isinstance(content, bytes):
        raise DecodeError("no bytes")
    return content
