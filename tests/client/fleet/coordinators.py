"""Real parts of a coordinator for devices to talk to: its gRPC services, and a SuperLink."""

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path

import grpc
import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fedhw.invitation import Invitation
from fedhw.release.registry import Registry
from fedhw.release.signing import ReleaseKey
from fedhw.system.clock import Clock, SystemClock
from fedhw.v1 import enrolment_pb2, statistics_pb2
from fedhw_client.fleet.enrolment import Enrolment
from fedhw_server.fronts.certificates import make_certificates
from fedhw_server.fronts.enrolment_service import EnrolmentService
from fedhw_server.fronts.grpc_server import grpc_server
from fedhw_server.fronts.statistics_service import StatisticsService, Watcher
from fedhw_server.leader import superlink
from fedhw_server.leader.superlink import Address, SuperLink, app_digest
from fedhw_server.leader.supervisor import PARENT
from fedhw_server.store.fleet import Fleet
from tests.waiting import free_port, until

NOBODY = "127.0.0.1:1"
"""Where no coordinator listens."""


class Services:
    """Statistics and enrolment over TLS on one port, in a thread; may be stopped and started.

    While `loses_answers`, what it is sent is dealt with and no answer arrives; while `hangs`,
    nothing is dealt with. `received` are the reports that have arrived, byte for byte.
    """

    def __init__(
        self, directory: Path, release: Path, clock: Clock = SystemClock(), **policy: float
    ) -> None:
        directory.mkdir()
        self.certificates = directory / "tls"
        make_certificates(self.certificates, ["127.0.0.1"])
        self.fleet = Fleet(directory / "fleet.db", clock)
        self.fleet.settings.agree(**policy)
        self.registry = Registry(directory / "releases", ReleaseKey.create(directory / "key"))
        self.release = self.registry.publish(release)
        self.received: list[bytes] = []
        self.loses_answers = self.hangs = False
        self.port = free_port()
        self._thread: threading.Thread | None = None

    def invitation(self, name: str) -> Invitation:
        policy = self.fleet.policy
        return Invitation(
            device=name,
            token=self.fleet.members.invite(name),
            certificate_authority=(self.certificates / "ca.crt").read_text(encoding="ascii"),
            statistics=f"127.0.0.1:{self.port}",
            flower=NOBODY,
            release_key="0" * 64,
            app=app_digest(),
            window=policy.window,
            epsilon=policy.epsilon,
            delta=policy.delta,
        )

    def start(self) -> None:
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        assert self._ready.wait(60)

    def stop(self) -> None:
        if self._thread is not None:
            self._loop.call_soon_threadsafe(self._ending.set)
            self._thread.join()
            self._thread = None

    def close(self) -> None:
        self.stop()
        self.fleet.close()

    async def _serve(self) -> None:
        self._loop, self._ending = asyncio.get_running_loop(), asyncio.Event()
        statistics = _Statistics(self.fleet, self.registry, Watcher())
        enrolment = _Enrolment(self.fleet, lambda: None)
        statistics.services = enrolment.services = self
        address = f"127.0.0.1:{self.port}"
        server, _ = grpc_server(address, self.certificates, statistics, enrolment)
        counting = asyncio.create_task(statistics.count_forever())
        await server.start()
        self._ready.set()
        await self._ending.wait()
        await server.stop(0)
        counting.cancel()


class _Statistics(StatisticsService):
    services: Services

    async def SendReport(  # noqa: N802
        self, request: statistics_pb2.SendReportRequest, context: "grpc.aio.ServicerContext"
    ) -> statistics_pb2.SendReportResponse:
        self.services.received.append(request.SerializeToString())
        if self.services.hangs:
            await asyncio.Event().wait()
        response = await super().SendReport(request, context)
        if self.services.loses_answers:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the connection is lost")
        return response


class _Enrolment(EnrolmentService):
    services: Services

    async def Enrol(  # noqa: N802
        self, request: enrolment_pb2.EnrolRequest, context: "grpc.aio.ServicerContext"
    ) -> enrolment_pb2.EnrolResponse:
        response = await super().Enrol(request, context)
        if self.services.loses_answers:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the connection is lost")
        return response


class SuperLinkProcess:
    """A SuperLink as the coordinator starts it, behind its guard; may be killed and started."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.directory = directory
        make_certificates(directory / "tls", ["127.0.0.1"])
        self._port = free_port()
        where = f"127.0.0.1:{self._port}"
        self.address = Address(where, directory / "tls" / "ca.crt", "known to the parts")
        self.control = SuperLink(self.address)
        self.start()

    def start(self) -> None:
        tls = self.directory / "tls"
        environment = {
            superlink.SECRET: self.address.secret,
            PARENT: str(os.getpid()),
            "FLWR_HOME": str(self.directory),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
        }
        with (self.directory / "superlink.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "fedhw_server.leader.superlink"),
                    *("--ssl-ca-certfile", tls / "ca.crt"),
                    *("--ssl-certfile", tls / "server.crt"),
                    *("--ssl-keyfile", tls / "server.key"),
                    *("--host", "127.0.0.1", "--port", str(self._port)),
                    *("--database", self.directory / "superlink.db"),
                    *("--isolation", "process", "--enable-supernode-auth"),
                    "--disable-runtime-dependency-installation",
                ],
                env=os.environ | environment,
                stdout=log,
                stderr=log,
            )
        until(self._answers)

    def _answers(self) -> bool:
        try:
            self.control.nodes()
        except httpx.HTTPError:
            return False
        return True

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.control.close()
        self.kill()

    def enrolled(self, app: str | None = None) -> Enrolment:
        """A device that may connect; `app` is the digest of the one that it agreed to."""
        node_key = ec.generate_private_key(ec.SECP384R1())
        invitation = Invitation(
            device="anna",
            token="",
            certificate_authority=self.address.trusted.decode(),
            statistics=NOBODY,
            flower=self.address.at,
            release_key="0" * 64,
            app=app or app_digest(),
            window=60,
            epsilon=2.0,
            delta=1e-6,
        )
        self.control.register(public_pem(node_key))
        return Enrolment(invitation, Ed25519PrivateKey.generate(), node_key)


def public_pem(key: ec.EllipticCurvePrivateKey) -> str:
    """The public half as Flower writes it."""
    content = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return content.decode()
