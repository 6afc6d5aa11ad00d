"""Flower's SuperLink; all use of Flower's internals in the coordinator is here.

Flower serves the devices' Fleet API, the operator's Control API and the ServerApp's Runtime API on
one port, the latter two without authentication (Flower 1.41, `flwr.superlink.main`). The guard in
front of them lets callers without this start's secret reach only the Fleet API. A loopback address
proves nothing, since behind a reverse proxy every caller has one.

`tests/server/leader/test_superlink.py` fails when Flower changes these interfaces.
"""

import functools
import hashlib
import io
import os
import secrets
import sys
import zipfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
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
"""The environment variable that passes the secret to child processes."""

HEADER = "x-fedhw-control"

MAX_DEVICE_REQUEST_BYTES = 4 * 2**20
"""Most bytes of a device's request; Flower itself has no limit before authentication."""

STOP_GRACE_SECONDS = 1
"""Seconds that calls have to end when the SuperLink stops."""

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

Never edit it: devices know its digest. Both ends run the installed code, so nothing imports the
modules that it names.
"""


def flower_app() -> bytes:
    """Return the Flower app bundle, the same bytes with every version of Flower and zlib.

    Devices know its digest from their invitation and refuse other apps.
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
    """Passes devices to the Fleet API, and callers with the secret to all of Flower."""

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
    """Return a request's body, None if it is too large or the device has hung up."""
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
    """Return a `receive` that gives the body first, and then what comes after it."""
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
        # The first middleware is outermost: a refused call reaches nothing of Flower.
        return [Middleware(Guard, secret=secret), *inner()]

    superlink._get_middleware = guarded
    # Without it uvicorn would wait for the devices to close their connections.
    uvicorn.run = functools.partial(uvicorn.run, timeout_graceful_shutdown=STOP_GRACE_SECONDS)
    sys.argv[0] = "flower-superlink"
    flower_superlink()


def _begin_database(path: Path) -> Path:
    """Return a marker file that exists while the database is being made.

    Flower cannot use a database whose creation was interrupted. It is deleted then, and nothing is
    lost: `Membership` registers the devices again.
    """
    unfinished = path.with_suffix(".unfinished")
    if unfinished.exists():
        for part in path.parent.glob(f"{path.name}*"):
            part.unlink()
    if not path.exists():
        unfinished.touch()
    return unfinished


class Address(NamedTuple):
    """The address of this machine's SuperLink, its certificate authority, and the secret."""

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
            address.at, False, address.trusted, [_SecretInterceptor(address.secret)]
        )

    def close(self) -> None:
        """Close the connection."""
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
        """Register the SuperNode with this public key (PEM); returns its node.

        A key that was unregistered once is refused for good (httpx.HTTPStatusError).
        """
        response = self._control.RegisterNode(RegisterNodeRequest(public_key=public_key.encode()))
        return int(response.node_id)

    def unregister(self, node: int) -> None:
        """Unregister a SuperNode, which can never connect again."""
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
    """Begin a run and yield the arguments of its ServerApp.

    Raises httpx.HTTPError when the SuperLink does not answer, and InputError when it refuses.
    """
    with closing(SuperLink(address)) as superlink:
        superlink.start_run()
    known = _SecretInterceptor(address.secret)
    place = (address.at, False, address.trusted)
    interceptors: list[ProtobufClientInterceptor]
    interceptors = [known, RuntimeVersionHttpInterceptor("SuperExec")]
    with RuntimeHttpClient.from_server_address(*place, interceptors) as tasks:
        acquired = tasks.AcquireTask(AcquireTaskRequest(supported_task_types=["flwr-serverapp"]))
    if not acquired.token:
        raise InputError("flower: the run has no task; another ServerApp runs already, stop it")
    interceptors = [
        known,
        RuntimeVersionHttpInterceptor("flwr-serverapp"),
        RuntimeTokenHttpInterceptor(acquired.token),
    ]
    with RuntimeHttpClient.from_server_address(*place, interceptors) as runtime:
        beat = HeartbeatSender(make_task_heartbeat_fn_http(runtime))
        beat.start()
        try:
            given = runtime.PullTaskInput(PullTaskInputRequest())
            TaskIdentity.task_id = given.task_id  # which messages are made with
            TaskIdentity.run_id = given.run.run_id
            TaskIdentity.node_id = given.context.node_id
            grid = HttpGrid(*place, token=acquired.token)
            grid._client = runtime
            grid.set_run(run_from_proto(given.run))
            context = context_from_proto(given.context)
            context.state = RecordDict()
            yield grid, context
        finally:
            beat.stop()


class _SecretInterceptor:
    """Sends the guard the secret."""

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        add_headers(context.request, {HEADER: self._secret})
        return call_next(context)


if __name__ == "__main__":
    serve()
