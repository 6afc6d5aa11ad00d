"""What a device has said, taken from the bytes that it sent: every one of them is accounted for."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import h11
import hpack
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.proto import fleet_pb2, heartbeat_pb2, message_pb2, run_pb2
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from google.protobuf.message import Message as Protobuf

from fedhw.v1 import enrolment_pb2, release_pb2, statistics_pb2

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, CREDIT = 0, 1, 3, 4, 6, 7, 8
END_HEADERS, PADDED = 0x4, 0x8
LENGTHS = {RESET: {4}, PING: {8}, GOAWAY: {8}, CREDIT: {4}, SETTINGS: set(range(0, 60, 6))}
"""Of frames that carry numbers only (RFC 9113, section 6)."""

GRPC: dict[str, type[Protobuf]] = {
    "/fedhw.v1.Enrolment/Enrol": enrolment_pb2.EnrolRequest,
    "/fedhw.v1.Statistics/SendReport": statistics_pb2.SendReportRequest,
}

FLEET: dict[str, type[Protobuf]] = {
    "/v1/fleet/activate-node": fleet_pb2.ActivateNodeRequest,
    "/v1/fleet/deactivate-node": fleet_pb2.DeactivateNodeRequest,
    "/v1/fleet/send-node-heartbeat": heartbeat_pb2.SendNodeHeartbeatRequest,
    "/v1/fleet/pull-messages": fleet_pb2.PullMessagesRequest,
    "/v1/fleet/push-messages": fleet_pb2.PushMessagesRequest,
    "/v1/fleet/get-run": run_pb2.GetRunRequest,
    "/v1/fleet/pull-object": message_pb2.PullObjectRequest,
    "/v1/fleet/push-object": message_pb2.PushObjectRequest,
    "/v1/fleet/confirm-message-received": message_pb2.ConfirmMessageReceivedRequest,
}


class Request(NamedTuple):
    """One call of a device."""

    path: str
    headers: dict[str, str]
    message: Protobuf


def exactly(kind: type[Protobuf], content: bytes) -> Protobuf:
    """The message that these bytes are, with nothing in them that is not declared."""
    message = kind.FromString(content)
    message.DiscardUnknownFields()
    assert message.SerializeToString(deterministic=True) == content
    return message


def grpc_requests(sent: bytes) -> list[Request]:
    """The calls of one HTTP/2 connection."""
    assert sent.startswith(PREFACE)
    headers: dict[int, dict[str, str]] = {}
    bodies: dict[int, bytes] = {}
    decoder = hpack.Decoder()
    for kind, flags, stream, payload in _frames(sent[len(PREFACE) :]):
        assert not flags & PADDED
        if kind == HEADERS:
            assert flags & END_HEADERS
            headers[stream] = dict(decoder.decode(payload))
        elif kind == DATA:
            bodies[stream] = bodies.get(stream, b"") + payload
        else:
            assert len(payload) in LENGTHS[kind]
    assert bodies.keys() <= headers.keys()
    requests = []
    for stream, body in bodies.items():
        path = headers[stream][":path"]
        assert body[0] == 0  # not compressed
        assert int.from_bytes(body[1:5]) == len(body) - 5
        requests.append(Request(path, headers[stream], exactly(GRPC[path], body[5:])))
    return requests


def _frames(content: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    while content:
        length, kind, flags = int.from_bytes(content[:3]), content[3], content[4]
        stream, end = int.from_bytes(content[5:9]), 9 + length
        assert end <= len(content)
        yield kind, flags, stream, content[9:end]
        content = content[end:]


def fleet_requests(sent: bytes) -> list[Request]:
    """The calls of one HTTP/1.1 connection."""
    connection, requests = h11.Connection(h11.SERVER), []
    connection.receive_data(sent)
    while (head := connection.next_event()) is not h11.NEED_DATA:
        assert isinstance(head, h11.Request)
        assert head.method == b"POST"
        body = b""
        while isinstance(part := connection.next_event(), h11.Data):
            body += part.data
        assert isinstance(part, h11.EndOfMessage)
        assert not part.headers
        headers = {name.decode(): value.decode() for name, value in head.headers}
        path = head.target.decode()
        requests.append(Request(path, headers, exactly(FLEET[path], body)))
        connection.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
        connection.send(h11.EndOfMessage())
        connection.start_next_cycle()
    assert connection.trailing_data == (b"", False)
    return requests


def answers(requests: Iterable[Request]) -> Iterator[release_pb2.Answer | Message]:
    """The content of every message that a device has sent over Flower, or the message of an error.

    Of the objects that it has sent nothing may be left.
    """
    known = list(requests)
    objects: dict[str, bytes] = {}
    for one in known:
        if isinstance(one.message, message_pb2.PushObjectRequest):
            objects[one.message.object_id] = one.message.object_content
    for one in known:
        if isinstance(one.message, fleet_pb2.PushMessagesRequest):
            (tree,) = one.message.message_object_trees
            contents = {object_id: objects.pop(object_id) for object_id in _ids(tree)}
            message = inflate_object_from_contents(tree.object_id, contents.copy())
            assert isinstance(message, Message)
            again = get_all_nested_objects(message)
            assert {name: each.deflate() for name, each in again.items()} == contents
            yield message if message.has_error() else _answer(message.content)
    assert not objects


def _ids(tree: message_pb2.ObjectTree) -> Iterator[str]:
    yield tree.object_id
    for child in tree.children:
        yield from _ids(child)


def _answer(content: RecordDict) -> release_pb2.Answer:
    assert list(content) == ["fedhw"]
    record = content["fedhw"]
    assert isinstance(record, ConfigRecord)
    assert list(record) == ["answer"]
    answer = exactly(release_pb2.Answer, record["answer"])
    assert isinstance(answer, release_pb2.Answer)
    return answer
