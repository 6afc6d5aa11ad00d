"""Requests to many devices at once, over Flower; late answers are ignored.

send each node its request
until all have answered, or the time is up:
    take each new answer; if that returns another request, send it to the same node
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
"""Seconds between two polls for answers."""

log = structlog.get_logger()


class Kind(NamedTuple):
    """A message type of the devices' ClientApp, and the entry that has the request.

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
    """Send requests to nodes and pass their answers to `take`, for at most so many seconds.

    What `take` returns is the node's next request. It may raise DecodeError for an answer that
    cannot be parsed. Such answers, errors, and answers of another node than was asked are ignored.
    """
    end = clock.monotonic() + seconds
    in_flight = _send(grid, kind, requests, seconds)
    while in_flight and clock.monotonic() < end:
        more = {}
        for message in _pull(grid, in_flight):
            # A message's metadata comes from its sender and may be wrong.
            node = in_flight.pop(message.metadata.reply_to_message_id, None)
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
            in_flight |= _send(grid, kind, more, end - clock.monotonic())
        clock.sleep(POLL_SECONDS)


def _send(grid: Grid, kind: Kind, requests: Mapping[int, bytes], seconds: float) -> dict[str, int]:
    """Send requests that expire after so many seconds; returns the nodes by message."""
    # Flower stores a content once that is the same object in many messages.
    contents = {
        request: RecordDict({"fedhw": ConfigRecord({kind.entry: request})})
        for request in set(requests.values())
    }
    # They expire before the deadline, since Flower keeps an expired message until it is polled.
    ttl = max(seconds - EXPIRY_MARGIN_SECONDS, 0.1)
    messages = [
        Message(contents[request], node, kind.type, ttl=ttl) for node, request in requests.items()
    ]
    sent = zip(grid.push_messages(messages), requests, strict=False)
    return {message: node for message, node in sent if message}


def _pull(grid: Grid, in_flight: Iterable[str]) -> list[Message]:
    """Return new replies; those that Flower fails to parse are polled again."""
    try:
        return [message for message in grid.pull_messages(list(in_flight)) if _is_message(message)]
    except httpx.HTTPError:
        raise  # the SuperLink is gone, and the run with it
    except Exception as error:
        log.warning("no answer that can be read", error=type(error).__name__)
        return []


def _is_message(message: object) -> bool:
    # A device may send an object of any type that Flower can inflate.
    return isinstance(message, Message)


def _content(message: Message) -> bytes:
    """Return the bytes of an answer; raises DecodeError where there are none."""
    if message.has_error():
        raise DecodeError(f"error {message.error.code}")
    try:
        content = message.content["fedhw"]["answer"]
    except (KeyError, TypeError):
        content = None
    if not isinstance(content, bytes):
        raise DecodeError("no bytes")
    return content
