"""Flower's SuperLink, and everything of Flower that the coordinator touches beyond its public API.

Flower serves the devices' Fleet API, the operator's Control API and the ServerApp's Runtime API on
one port, and asks nobody who calls the latter two (Flower 1.41, `flwr.superlink.main`). The guard
in front of them does: whoever does not know this start's secret reaches the Fleet API alone. A
loopback address is no proof, since behind a reverse proxy every caller has one.

`tests/server/leader/test_superlink.py` is the contract that fails when Flower changes.
"""

import functools
import hashlib
import io
import os
import secrets
import sys
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
from flwr.app import Context, RecordDict
from flwr.common.constant import Status
from flwr.common.serde import context_from_proto, fab_to_proto, run_from_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.proto.runtime_pb2 import AcquireTaskRequest, PullTaskInputRequest
from flwr.serverapp import Grid
from flwr.supercore.constant import NodeStatus
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
)
from flwr.supercore.interceptors.http.utils import add_headers
from flwr.supercore.protobuf.client import (
    ProtobufCall,
    ProtobufClientInterceptor,
    ProtobufRequestContext,
)
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid.http_grid import HttpGrid
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fedhw.errors import InputError
from fedhw_server.leader.supervisor import die_with_parent

SECRET = "FEDHW_CONTROL_SECRET"
"""The environment variable by which a coordinator tells its children the secret."""

HEADER = "x-fedhw-control"

MAX_DEVICE_REQUEST_BYTES = 4 * 2**20
"""Bytes of a request by a device; Flower itself reads any number before it asks who calls."""

STOP_GRACE_SECONDS = 1
"""Seconds that calls have to end when it stops."""

APP = b"""\
[project]
name = "fedhw"
version = "1.0.0"
license = "Apache-2.0"

[tool.flwr.app]
publisher = "fedhw"

[tool.flwr.app.components]
serverapp = "fedhw_server.app:app"
clientapp = "fedhw_client.app:app"
"""
"""The whole Flower app, which ships no code.

Never edit it: devices know its digest. Both ends run what is installed, so nothing imports the
modules that it names.
"""


def flower_app() -> bytes:
    """Return the Flower app bundle: the same bytes with every version of Flower and of zlib.

    Devices know its digest from their invitation, and would take another one for another app.
    """
    content = f"pyproject.toml,{hashlib.sha256(APP).hexdigest()},{len(APP) * 8}".encode()
    bundle = io.BytesIO()
    with zipfile.ZipFile(bundle, "w", zipfile.ZIP_STORED) as archive:
        for name, part in (("pyproject.toml", APP), (".info/CONTENT", content)):
            entry = zipfile.ZipInfo(name)
            entry.create_system = 3  # whatever system this is
            archive.writestr(entry, part)
    return bundle.getvalue()


def app_digest() -> str:
    """SHA-256 of the bundle in hexadecimal, which devices compare with their invitation."""
    return hashlib.sha256(flower_app()).hexdigest()


class Guard:
    """Lets devices through to the Fleet API, and to the rest those who know the secret."""

    def __init__(self, app: ASGIApp, secret: str) -> None:
        self.app = app
        self.secret = secret.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 403, or let Flower answer."""
        if scope["type"] == "lifespan" or self._is_known(scope):
            await self.app(scope, receive, send)
        elif not self._is_for_devices(scope):
            await PlainTextResponse("forbidden", 403)(scope, receive, send)
        elif (body := await _body(receive)) is None:
            await PlainTextResponse("too large", 413)(scope, receive, send)
        else:
            await self.app(scope, _replayed(body, receive), send)

    def _is_known(self, scope: Scope) -> bool:
        given = dict(scope.get("headers", ())).get(HEADER.encode(), b"")
        return scope["type"] == "http" and secrets.compare_digest(given, self.secret)

    def _is_for_devices(self, scope: Scope) -> bool:
        if scope["type"] != "http":
            return False
        path: str = scope["path"]
        return path.startswith("/v1/fleet/") or path == "/health"


async def _body(receive: Receive) -> bytes | None:
    """What a device sends, None if it is too much or the device has hung up."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        if len(body) > MAX_DEVICE_REQUEST_BYTES:
            return None
        if not message.get("more_body", False):
            return bytes(body)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Give the body first, then whatever comes after it."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay


def serve() -> None:
    """Run `flower-superlink` with the guard; the command line is Flower's own."""
    import flwr.superlink.main as superlink
    import uvicorn
    from flwr.superlink.cli.flower_superlink import flower_superlink

    die_with_parent()
    secret = os.environ.pop(SECRET)
    inner = superlink._get_middleware
    unfinished = _begin_database(Path(sys.argv[sys.argv.index("--database") + 1]))

    def guarded() -> list[Middleware]:
        unfinished.unlink(missing_ok=True)  # the app is made after its database
        # First in the list is outermost: nothing of Flower runs for a caller that is refused.
        return [Middleware(Guard, secret=secret), *inner()]

    superlink._get_middleware = guarded
    # Devices keep their connections open, and it would wait for them to hang up.
    uvicorn.run = functools.partial(uvicorn.run, timeout_graceful_shutdown=STOP_GRACE_SECONDS)
    sys.argv[0] = "flower-superlink"
    flower_superlink()


def _begin_database(path: Path) -> Path:
    """Return a file that is there until the database is made.

    Flower cannot go on with one whose making was cut off. Nothing is lost with it: the roster
    registers the devices again.
    """
    unfinished = path.with_suffix(".unfinished")
    if unfinished.exists():
        for part in path.parent.glob(f"{path.name}*"):
            part.unlink()
    if not path.exists():
        unfinished.touch()
    return unfinished


class Address(NamedTuple):
    """Where the SuperLink of this machine is, whose certificate is trusted, and the secret."""

    at: str  # HOST:PORT
    certificate_authority: Path
    secret: str

    @property
    def trusted(self) -> bytes:
        """The certificate authority as PEM."""
        return self.certificate_authority.read_bytes()


class KnownNode(NamedTuple):
    """A SuperNode that may connect, and whether it is connected."""

    node: int
    is_online: bool


class SuperLink:
    """The Control API of a SuperLink; its methods raise httpx.HTTPError when none answers."""

    def __init__(self, address: Address) -> None:
        self._control = ControlHttpClient.from_server_address(
            address.at, False, address.trusted, [_Known(address.secret)]
        )

    def close(self) -> None:
        """Hang up."""
        self._control.close()

    def nodes(self) -> dict[str, "KnownNode"]:
        """Return the nodes that are registered, by public key."""
        response = self._control.ListNodes(ListNodesRequest())
        return {
            node.public_key.decode(): KnownNode(node.node_id, node.status == NodeStatus.ONLINE)
            for node in response.nodes_info
            if node.status != NodeStatus.UNREGISTERED
        }

    def register(self, public_key: str) -> int:
        """Let the SuperNode with this key (PEM) in; returns its node.

        A key that was unregistered once is refused for good (httpx.HTTPStatusError).
        """
        response = self._control.RegisterNode(RegisterNodeRequest(public_key=public_key.encode()))
        return int(response.node_id)

    def unregister(self, node: int) -> None:
        """Keep a SuperNode out from now on."""
        self._control.UnregisterNode(UnregisterNodeRequest(node_id=node))

    def start_run(self) -> int:
        """Begin a run of the Flower app, ending every other; returns its number."""
        for run_id, run in self._control.ListRuns(ListRunsRequest()).run_dict.items():
            if run.status.status != Status.FINISHED:
                self._control.StopRun(StopRunRequest(run_id=run_id))
        content = flower_app()
        fab = Fab(hashlib.sha256(content).hexdigest(), content, {})
        started = self._control.StartRun(StartRunRequest(fab=fab_to_proto(fab)))
        if not started.HasField("run_id"):
            raise RuntimeError("Flower has not started the run")
        return int(started.run_id)


@contextmanager
def running(address: Address) -> Iterator[tuple[Grid, Context]]:
    """Begin a run and yield what its ServerApp is called with.

    Raises httpx.HTTPError when the SuperLink does not answer, and InputError when it refuses.
    """
    superlink = SuperLink(address)
    try:
        superlink.start_run()
    finally:
        superlink.close()
    known = _Known(address.secret)
    with _runtime(address, [known, RuntimeVersionHttpInterceptor("SuperExec")]) as tasks:
        acquired = tasks.AcquireTask(AcquireTaskRequest(supported_task_types=["flwr-serverapp"]))
    if not acquired.token:
        raise InputError("flower: the run has no task; another ServerApp runs already, stop it")
    interceptors: list[ProtobufClientInterceptor] = [
        known,
        RuntimeVersionHttpInterceptor("flwr-serverapp"),
        RuntimeTokenHttpInterceptor(acquired.token),
    ]
    with _runtime(address, interceptors) as runtime:
        beat = HeartbeatSender(make_task_heartbeat_fn_http(runtime))
        beat.start()
        try:
            given = runtime.PullTaskInput(PullTaskInputRequest())
            TaskIdentity.task_id = given.task_id  # which messages are made with
            TaskIdentity.run_id = given.run.run_id
            TaskIdentity.node_id = given.context.node_id
            grid = HttpGrid(address.at, False, address.trusted, token=acquired.token)
            grid._client = runtime
            grid.set_run(run_from_proto(given.run))
            context = context_from_proto(given.context)
            context.state = RecordDict()
            yield grid, context
        finally:
            beat.stop()


@contextmanager
def _runtime(
    address: Address, interceptors: Sequence[ProtobufClientInterceptor]
) -> Iterator[RuntimeHttpClient]:
    client = RuntimeHttpClient.from_server_address(address.at, False, address.trusted, interceptors)
    try:
        yield client
    finally:
        client.close()


class _Known:
    """Shows the guard the secret."""

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        add_headers(context.request, {HEADER: self._secret})
        return call_next(context)


if __name__ == "__main__":
    serve()
