"""Reports per second that the statistics service takes, and its memory over 100,000 of them.

    python benchmarks/statistics_service.py RELEASE

The peer, in the same run: a bare gRPC echo (grpc.aio, TLS with the same certificate) of the same
bytes. One client, the same for both, keeps many calls in flight; the two servers have one core and
take turns, the client has the others. Every report is signed, checked, counted and durable before
it is answered. Claims: at least half the echo's calls per second, and flat memory.
"""

import argparse
import asyncio
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tables import show

TURN = 2_500
"""Reports sent to one server before the other has its turn."""

DEVICES = 5_000
WINDOW = 10
FLYING = 256
"""Calls in flight."""

OURS, ECHO = "/fedhw.v1.Statistics/SendReport", "/echo"


def prepare(home: Path, release: Path, reports: int) -> Iterator[bytes]:
    """Make a coordinator's home and yield as many signed reports of its devices."""
    from fedhw.privacy.mechanism import GaussianMechanism
    from fedhw.privacy.statistics import Tally, make_report
    from fedhw.release.registry import Registry
    from fedhw.release.signing import ReleaseKey
    from fedhw_client.fleet.reporter import signed
    from fedhw_server.fronts.certificates import make_certificates
    from fedhw_server.store.fleet import Fleet

    make_certificates(home / "tls", ["127.0.0.1"])
    published = Registry(home / "releases", ReleaseKey.create(home / "key")).publish(release)
    fleet = Fleet(home / "fleet.db")
    policy = fleet.settings.agree(window=WINDOW)
    mechanism = GaussianMechanism(policy.epsilon, policy.delta)
    keys = {f"pen-{number}": Ed25519PrivateKey.generate() for number in range(DEVICES)}
    for name, key in keys.items():
        node_key = ec.generate_private_key(ec.SECP384R1()).public_key()
        pem = node_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        token = fleet.members.invite(name)
        fleet.members.enrol(name, token, key.public_key().public_bytes_raw(), pem)
    fleet.close()
    tally = Tally.empty(len(published.labels))
    newest = int(time.time()) // WINDOW - 1
    for window in itertools.islice(itertools.count(newest, -1), reports // DEVICES):
        for name, key in keys.items():
            yield signed(make_report(tally, name, window, published.name, mechanism), key)


def serve_ours(home: Path) -> None:
    from fedhw.release.registry import Registry
    from fedhw.release.signing import ReleaseKey
    from fedhw_server.console.fleet_metrics import Metrics
    from fedhw_server.fronts.enrolment_service import EnrolmentService
    from fedhw_server.fronts.grpc_server import grpc_server
    from fedhw_server.fronts.statistics_service import StatisticsService
    from fedhw_server.store.fleet import Fleet

    async def run() -> None:
        fleet = Fleet(home / "fleet.db")
        registry = Registry(home / "releases", ReleaseKey.load(home / "key"))
        service = StatisticsService(fleet, registry, Metrics(Fleet(fleet.path), registry, []))
        enrolment = EnrolmentService(fleet, lambda: None)
        server, port = grpc_server("127.0.0.1:0", home / "tls", service, enrolment)
        await server.start()
        print(port, flush=True)
        await service.count_forever()

    asyncio.run(run())


def serve_echo(home: Path) -> None:
    class Echo(grpc.GenericRpcHandler):
        def service(self, details: Any) -> Any:
            async def echo(request: bytes, context: Any) -> bytes:
                return request

            return grpc.unary_unary_rpc_method_handler(echo)

    async def run() -> None:
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((Echo(),))
        pair = tuple((home / "tls" / f"server.{end}").read_bytes() for end in ("key", "crt"))
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
        await server.start()
        print(port, flush=True)
        await server.wait_for_termination()

    asyncio.run(run())


@contextmanager
def started(home: Path, kind: str) -> Iterator[tuple[int, int]]:
    """Run a server; yields its process and its port."""
    process = subprocess.Popen(
        [sys.executable, __file__, str(home), "--serve", kind], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield process.pid, int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()


async def measure(home: Path, requests: Sequence[bytes]) -> None:
    from fedhw_client.commands.replay_writer import resident_memory

    rates: dict[str, list[float]] = {OURS: [], ECHO: []}
    costs: dict[str, list[float]] = {OURS: [], ECHO: []}
    memory = []
    with ExitStack() as stack:
        servers = {
            method: stack.enter_context(started(home, kind))
            for method, kind in ((OURS, "ours"), (ECHO, "echo"))
        }
        credentials = grpc.ssl_channel_credentials((home / "tls" / "ca.crt").read_bytes())
        calls = {}
        for method, (_, port) in servers.items():
            channel = grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials)
            await asyncio.wait_for(channel.channel_ready(), 60)
            calls[method] = channel.unary_unary(method)
        for start in range(0, len(requests), TURN):
            batch = requests[start : start + TURN]
            for method, (pid, _) in servers.items():
                before, began = cpu_seconds(pid), time.perf_counter()
                await send(calls[method], batch)
                rates[method].append(len(batch) / (time.perf_counter() - began))
                costs[method].append((cpu_seconds(pid) - before) / len(batch))
            memory.append(resident_memory(servers[OURS][0]))
    tables(rates, costs, memory)


async def send(call: Any, requests: Sequence[bytes]) -> None:
    left = iter(requests)

    async def one_after_another() -> None:
        for request in left:
            await call(request)

    await asyncio.gather(*(one_after_another() for _ in range(FLYING)))


def tables(
    rates: dict[str, list[float]], costs: dict[str, list[float]], memory: list[float]
) -> None:
    names = {OURS: "statistics service", ECHO: "bare echo"}
    show(
        ["server", "calls/s, median of turns", "its processor time for each"],
        [
            [
                name,
                f"{statistics.median(rates[method]):,.0f}",
                f"{statistics.median(costs[method]) * 1e6:.0f} µs",
            ]
            for method, name in names.items()
        ],
    )
    ratios = sorted(ours / echo for ours, echo in zip(rates[OURS], rates[ECHO], strict=True))
    thirds = np.array_split(np.array(memory), 3)
    show(
        [
            *("service's calls to the echo's, median of turns", "least", "most"),
            *("MiB, first third of the reports", "second", "last"),
        ],
        [
            [
                *(f"{r:.2f}" for r in (statistics.median(ratios), ratios[0], ratios[-1])),
                *(f"{third.mean():.1f}" for third in thirds),
            ]
        ],
    )


def cpu_seconds(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("place", type=Path, metavar="RELEASE")
    parser.add_argument("--reports", type=int, default=100_000)
    parser.add_argument("--serve", choices=["ours", "echo"])
    arguments = parser.parse_args()
    if (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, {0} if arguments.serve else range(1, os.cpu_count() or 1))
    if arguments.serve == "ours":
        return serve_ours(arguments.place)
    if arguments.serve == "echo":
        return serve_echo(arguments.place)
    with tempfile.TemporaryDirectory() as home:
        requests = list(prepare(Path(home), arguments.place, arguments.reports))
        asyncio.run(measure(Path(home), requests))
    return None


if __name__ == "__main__":
    main()
