"""How many devices one coordinator carries: idle ones, which only ask for messages.

    python benchmarks/coordinator.py

An idle device asks Flower for messages and gives a sign of life every 10 s
(`fedhw_client.fleet.supernode.LONGEST_POLL_SECONDS`), signed with its key, over a connection that
stays open. This measures how many questions a second the guarded SuperLink answers, with as many
devices registered as given, beside a bare TLS web server (uvicorn, starlette) in the same turns,
and says how many devices that makes when the SuperLink is to be half idle. Reports come once a
window, see `statistics_service.py`.
"""

import argparse
import multiprocessing
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PullMessagesRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor
from tables import show

from fedhw_client.commands.replay_writer import resident_memory
from fedhw_client.fleet.supernode import LONGEST_POLL_SECONDS
from fedhw_server.fronts.certificates import make_certificates
from fedhw_server.leader import superlink
from fedhw_server.leader.superlink import Address, SuperLink
from fedhw_server.leader.supervisor import PARENT

CALLERS = 4
"""Threads that ask at once; more do not make a SuperLink faster."""

TURN = 5.0
"""Seconds."""

ROUNDS = 3


def serve_bare(port: int, certificates: str) -> None:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    async def answer(request: Request) -> Response:
        await request.body()
        return Response(b"")

    uvicorn.run(
        Starlette(routes=[Route("/", answer, methods=["POST"])]),
        port=port,
        access_log=False,
        log_level="error",
        ssl_keyfile=f"{certificates}/server.key",
        ssl_certfile=f"{certificates}/server.crt",
    )


def asked_a_second(calls: list[Callable[[], object]]) -> float:
    """Return how often all callers together got an answer."""
    counts = [0] * len(calls)
    end = time.perf_counter() + TURN

    def ask(caller: int) -> None:
        while time.perf_counter() < end:
            calls[caller]()
            counts[caller] += 1

    threads = [threading.Thread(target=ask, args=(caller,)) for caller in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / TURN


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--devices", type=int, default=1000, help="that are registered")
    parser.add_argument("--port", type=int, default=39481)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        make_certificates(home, ["127.0.0.1"])
        secret = secrets.token_urlsafe()
        environment = os.environ | {
            superlink.SECRET: secret,
            PARENT: str(os.getpid()),
            "FLWR_HOME": directory,
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_LOG_LEVEL": "ERROR",
        }
        command = [
            *(sys.executable, "-m", "fedhw_server.leader.superlink"),
            *("--ssl-ca-certfile", str(home / "ca.crt")),
            *("--ssl-certfile", str(home / "server.crt")),
            *("--ssl-keyfile", str(home / "server.key")),
            *("--host", "127.0.0.1", "--port", str(options.port)),
            *("--database", str(home / "superlink.db"), "--isolation", "process"),
            *("--enable-supernode-auth", "--disable-runtime-dependency-installation"),
        ]
        address = Address(f"127.0.0.1:{options.port}", home / "ca.crt", secret)
        bare = multiprocessing.get_context("spawn").Process(
            target=serve_bare, args=(options.port + 1, directory), daemon=True
        )
        bare.start()
        with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
            try:
                measure(options.devices, address, options.port + 1, process.pid)
            finally:
                process.kill()
                bare.kill()


def await_answer(call: Callable[[], object]) -> None:
    while True:
        try:
            call()
            return
        except httpx.HTTPError:
            time.sleep(0.1)


def measure(devices: int, address: Address, bare_port: int, process: int) -> None:
    control = SuperLink(address)
    web = [httpx.Client(verify=str(address.certificate_authority)) for _ in range(CALLERS)]
    bare = f"https://127.0.0.1:{bare_port}/"
    await_answer(control.nodes)
    await_answer(lambda: web[0].post(bare))
    keys = [ec.generate_private_key(ec.SECP384R1()) for _ in range(devices)]
    for key in keys:
        control.register(public_key_to_bytes(key.public_key()).decode())
    fleet: list[Callable[[], object]] = []
    for key in keys[:CALLERS]:
        client = FleetHttpClient.from_server_address(
            address.at,
            False,
            address.trusted,
            interceptors=[
                RuntimeVersionHttpInterceptor("SuperNode"),
                NodeAuthHttpInterceptor(key, key.public_key()),
            ],
        )
        activated = client.ActivateNode(
            ActivateNodeRequest(
                public_key=public_key_to_bytes(key.public_key()), heartbeat_interval=1800
            )
        )
        request = PullMessagesRequest(node=Node(node_id=activated.node_id))
        fleet.append(lambda client=client, request=request: client.PullMessages(request))
    peers: list[Callable[[], object]] = [
        lambda client=client: client.post(bare, content=bytes(32)) for client in web
    ]
    for call in (*fleet, *peers):
        call()
    turns = [(asked_a_second(fleet), asked_a_second(peers)) for _ in range(ROUNDS)]
    show(
        ["turn", "SuperLink, answers/s", "bare server, answers/s", "ratio"],
        [
            [number + 1, f"{ours:,.0f}", f"{theirs:,.0f}", f"{ours / theirs:.2f}"]
            for number, (ours, theirs) in enumerate(turns)
        ],
    )
    each = 2 / LONGEST_POLL_SECONDS
    half = max(ours for ours, _ in turns) / each / 2
    show(
        [
            *("devices registered", "questions a second of each"),
            *("devices that make the SuperLink half idle", "its memory"),
        ],
        [[f"{devices:,}", f"{each:g}", f"{half:,.0f}", f"{resident_memory(process):.0f} MiB"]],
    )


if __name__ == "__main__":
    main()
