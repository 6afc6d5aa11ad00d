"""A Flower SuperNode inside the agent; all use of Flower's internals in the agent is here.

Flower's own `flower-supernode` is a second process of 130 MB, hands messages to a third one over a
local port that any user of the machine can reach, polls every three seconds, and imports the code
that the server ships (Flower 1.41). This one speaks the same Fleet API over TLS, authenticates with
the same kind of key, and calls the installed ClientApp: it fetches no code. It refuses a run of any
app but that of the invitation, and of an error it sends only the type.

`tests/client/fleet/test_supernode.py` fails when Flower changes these interfaces.
"""

import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import httpx
import structlog
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Context, Message, RecordDict
from flwr.app.error import Error
from flwr.app.message import remove_content_from_message
from flwr.clientapp import ClientApp
from flwr.common.constant import TIMESTAMP_HEADER, ErrorCode
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_confirm_message_received_fn_protobuf,
    make_pull_object_fn_protobuf,
    make_push_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import (
    pull_and_inflate_object_from_tree,
    push_objects,
)
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.interceptors.http.utils import add_headers
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.supernode.fleet_http_client import FleetHttpClient

from fedhw.release import offer
from fedhw.system.clock import Clock, SystemClock
from fedhw_client.fleet.backoff import Backoff
from fedhw_client.fleet.enrolment import Enrolment

HEARTBEAT_SECONDS = 15.0
"""Heartbeat interval that the SuperLink is told; after twice that a node counts as offline."""

SHORTEST_POLL_SECONDS, LONGEST_POLL_SECONDS = 0.2, 10.0
"""Seconds between two polls: the first after a message, then doubled up to the second."""

MAX_MESSAGE_BYTES = offer.MAX_RELEASE_BYTES + 2**20
"""Most bytes of a message."""

LONGEST_PAUSE_SECONDS = 20.0
"""Most seconds between two tries to connect."""

STOP_GRACE_SECONDS = 3.0
"""Seconds that signing off from the coordinator may take."""

log = structlog.get_logger()


class SuperNode:
    """Hands the coordinator's messages to a ClientApp, one at a time, in a thread of its own.

    It reconnects with growing pauses until it is closed.
    """

    def __init__(self, enrolment: Enrolment, app: ClientApp, clock: Clock = SystemClock()) -> None:
        self.is_online = False
        self.enrolment = enrolment
        self._app = app
        self._clock = clock
        self._coordinator_time = _CoordinatorTime(clock)
        self._node: Node | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="supernode", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the thread still runs."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Sign off from the coordinator, which takes at most `STOP_GRACE_SECONDS`."""
        self._stopping.set()
        self._thread.join(STOP_GRACE_SECONDS)

    def _run(self) -> None:
        backoff = Backoff(LONGEST_PAUSE_SECONDS)
        while not self._stopping.is_set():
            try:
                with _connected(self.enrolment, self._coordinator_time, self._node) as link:
                    self._node = link.node
                    self.is_online = True
                    log.info("connected to the coordinator")
                    self._serve(link, backoff)
            except httpx.HTTPStatusError as error:
                self._coordinator_time.set_by(error.response)
                log.warning("not let in", status=error.response.status_code)
            except Exception as error:  # Flower documents no errors; the device goes on
                log.warning("no coordinator", error=type(error).__name__)
            self.is_online = False
            self._clock.wait(self._stopping, backoff.next())

    def _serve(self, link: "_Link", backoff: Backoff) -> None:
        beaten, pause = self._clock.monotonic(), SHORTEST_POLL_SECONDS
        while not self._stopping.is_set():
            now = self._clock.monotonic()
            if now - beaten > HEARTBEAT_SECONDS / 2:
                link.beat()
                beaten = now
            pause = (
                SHORTEST_POLL_SECONDS
                if self._answer_one(link)
                else min(2 * pause, LONGEST_POLL_SECONDS)
            )
            backoff.reset()  # only after a request has worked
            self._clock.wait(self._stopping, pause)

    def _answer_one(self, link: "_Link") -> bool:
        received = link.receive()
        if received is None:
            return False
        message, tree = received
        if link.app_of(message.metadata.run_id) != self.enrolment.invitation.app:
            reply = Message(Error(ErrorCode.INVALID_FAB, "another app"), reply_to=message)
        else:
            reply = self._reply(link.content(message, tree), link.node.node_id)
        link.send(reply)
        return True

    def _reply(self, message: Message, node: int) -> Message:
        run = message.metadata.run_id
        context = Context(run, node, node_config={}, state=RecordDict(), run_config={})
        try:
            return self._app(message, context)
        except Exception as error:
            log.warning("message failed", error=type(error).__name__)
            reason = type(error).__name__
            return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)


class _CoordinatorTime:
    """The coordinator's time, taken from its answers when it refuses a signature.

    Flower refuses signatures that are dated more than five seconds ahead of its clock, and a
    device's clock may be wrong.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ahead = timedelta()

    def now(self) -> datetime:
        """The time to sign."""
        return datetime.fromtimestamp(self._clock.wall(), UTC) + self._ahead

    def set_by(self, response: httpx.Response) -> None:
        """Take the time from an answer's Date header, in seconds (RFC 9110, 6.6.1)."""
        with suppress(KeyError, TypeError, ValueError):
            told = parsedate_to_datetime(response.headers["date"])
            self._ahead = told - datetime.fromtimestamp(self._clock.wall(), UTC)


class _Proof:
    """Sends the node's key and the time signed with it, as `NodeAuthHttpInterceptor` does."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, time: _CoordinatorTime) -> None:
        self._key = key
        self._time = time

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        time = self._time.now().isoformat()
        signature = sign_message(self._key, time.encode("ascii"))
        headers = {
            FLEET_HTTP_PUBLIC_KEY_HEADER: b64encode(public_key_to_bytes(self._key.public_key())),
            FLEET_HTTP_SIGNATURE_HEADER: b64encode(signature),
        }
        shown = {name: value.decode("ascii") for name, value in headers.items()}
        add_headers(context.request, {**shown, TIMESTAMP_HEADER: time})
        return call_next(context)


class _Link:
    """The Fleet API as an activated node uses it."""

    def __init__(self, client: FleetHttpClient, node: Node) -> None:
        self.node = node
        self._client = client
        self._apps: dict[int, str] = {}

    def beat(self) -> None:
        response = self._client.SendNodeHeartbeat(
            SendNodeHeartbeatRequest(node=self.node, heartbeat_interval=HEARTBEAT_SECONDS)
        )
        if not response.success:
            raise ConnectionError("the SuperLink does not know this node")

    def receive(self) -> tuple[Message, ObjectTree] | None:
        response = self._client.PullMessages(PullMessagesRequest(node=self.node))
        if not response.messages_list:
            return None
        return message_from_proto(response.messages_list[0]), response.message_object_trees[0]

    def app_of(self, run: int) -> str:
        """The digest of a run's app."""
        if run not in self._apps:
            response = self._client.GetRun(GetRunRequest(node=self.node, run_id=run))
            self._apps = {run: response.run.fab_hash}
        return self._apps[run]

    def content(self, message: Message, tree: ObjectTree) -> Message:
        run = message.metadata.run_id
        pull = make_pull_object_fn_protobuf(self._client.PullObject, self.node, run)
        taken = 0

        def pull_bounded(object_id: str) -> bytes:
            nonlocal taken
            part = pull(object_id)
            taken += len(part)
            if taken > MAX_MESSAGE_BYTES:
                raise ValueError("the message is too large")
            return part

        whole = pull_and_inflate_object_from_tree(
            tree,
            pull_bounded,
            make_confirm_message_received_fn_protobuf(
                self._client.ConfirmMessageReceived, self.node, run
            ),
            return_type=Message,
        )
        whole.metadata.__dict__["_message_id"] = tree.object_id
        return whole

    def send(self, reply: Message) -> None:
        reply.metadata.__dict__["_message_id"] = reply.object_id
        with no_object_id_recompute():
            response = self._client.PushMessages(
                PushMessagesRequest(
                    node=self.node,
                    messages_list=[message_to_proto(remove_content_from_message(reply))],
                    message_object_trees=[get_object_tree(reply)],
                    clientapp_runtime_list=[0.0],
                )
            )
            push_objects(
                get_all_nested_objects(reply),
                make_push_object_fn_protobuf(
                    self._client.PushObject,
                    self.node,
                    reply.metadata.run_id,
                    response.session_id,
                ),
                object_ids_to_push=set(response.objects_to_push),
            )


@contextmanager
def _connected(
    enrolment: Enrolment, time: _CoordinatorTime, before: Node | None
) -> Iterator[_Link]:
    key = enrolment.node_key
    with FleetHttpClient.from_server_address(
        enrolment.invitation.flower,
        False,
        enrolment.invitation.certificate_authority.encode(),
        interceptors=[
            RuntimeVersionHttpInterceptor("SuperNode"),
            _Proof(key, time),
        ],
    ) as client:
        link = _rejoined(client, before) or _joined(client, enrolment)
        try:
            yield link
        finally:
            with suppress(httpx.HTTPError):
                client.DeactivateNode(DeactivateNodeRequest(node_id=link.node.node_id))


def _joined(client: FleetHttpClient, enrolment: Enrolment) -> _Link:
    activated = client.ActivateNode(
        ActivateNodeRequest(
            public_key=public_key_to_bytes(enrolment.node_key.public_key()),
            heartbeat_interval=HEARTBEAT_SECONDS,
        )
    )
    return _Link(client, Node(node_id=activated.node_id))


def _rejoined(client: FleetHttpClient, before: Node | None) -> _Link | None:
    """Resume the link of a node that lost its connection; returns None where it must join anew.

    A restarted SuperLink takes its nodes to be online, and does not let a node join again before it
    has missed two heartbeats.
    """
    if before is not None:
        link = _Link(client, before)
        with suppress(httpx.HTTPStatusError, ConnectionError):
            link.beat()
            return link
    return None
