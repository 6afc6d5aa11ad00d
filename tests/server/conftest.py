"""Real parts of a coordinator: databases, releases, devices with keys, a server, a SuperLink."""

import asyncio
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fedhw.experts.global_expert import build
from fedhw.handwriting.synthetic import synthetic_writers
from fedhw.invitation import Invitation
from fedhw.privacy.mechanism import GaussianMechanism
from fedhw.privacy.statistics import LATENCIES, Report, Tally, make_report
from fedhw.release.manifest import Manifest
from fedhw.release.registry import Registry
from fedhw.release.release import publish
from fedhw.release.signing import ReleaseKey
from fedhw.release.sketch import Sketch
from fedhw.v1 import enrolment_pb2 as enrolment_pb
from fedhw.v1 import enrolment_pb2_grpc as enrolment_grpc
from fedhw.v1 import statistics_pb2 as pb
from fedhw.v1 import statistics_pb2_grpc as pb_grpc
from fedhw_client.fleet.enrolment import Enrolment
from fedhw_client.fleet.reporter import signed
from fedhw_server.console.fleet_metrics import Metrics
from fedhw_server.fronts.certificates import make_certificates
from fedhw_server.fronts.enrolment_service import EnrolmentService
from fedhw_server.fronts.grpc_server import grpc_server
from fedhw_server.fronts.statistics_service import StatisticsService
from fedhw_server.leader.coordinator_process import Settings, child_processes
from fedhw_server.leader.superlink import Address, SuperLink, app_digest
from fedhw_server.leader.supervisor import Part
from fedhw_server.store.coordinator_home import Home
from fedhw_server.store.fleet import Fleet
from fedhw_server.store.settings import ReportPolicy
from tests.waiting import PATIENCE, free_port, until

POLICY = ReportPolicy(window=10, epsilon=50.0, delta=1e-6, minimum_cohort=2)


class Loop:
    """An event loop in a thread, as long as a `with` block lasts."""

    def __enter__(self) -> "Loop":
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> "Future[Any]":
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.start(coroutine).result(PATIENCE)

    @contextmanager
    def lasting(self, coroutine: Coroutine[Any, Any, Any]) -> Iterator[None]:
        """Run it meanwhile; it is cancelled and has ended after the block."""
        ended = threading.Event()

        async def run() -> None:
            try:
                await coroutine
            finally:
                ended.set()

        task = self.start(run())
        try:
            yield
        finally:
            task.cancel()
            assert ended.wait(PATIENCE)


@pytest.fixture(scope="session")
def loop() -> Iterator[Loop]:
    with Loop() as loop:
        yield loop


@pytest.fixture(scope="session")
def releases(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two releases of experts that know nothing."""
    writers = synthetic_writers(range(3000, 3002), 62)
    made = []
    for number in range(2):
        torch.manual_seed(number)
        expert = build("lenet5", len(writers.classes))
        width = expert.head.in_features
        sketch = Sketch(torch.ones(4, width, dtype=torch.int8), torch.ones(width))
        made.append(tmp_path_factory.mktemp("releases") / f"[{number}]")
        publish(made[-1], expert, "lenet5", sketch, writers, [], {"generic_accuracy": 0.5})
    return made


@dataclass
class Pen:
    """A device: its name and its keys."""

    name: str
    report_key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    node_key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP384R1())
    )

    @property
    def public(self) -> bytes:
        return self.report_key.public_key().public_bytes_raw()

    @property
    def node(self) -> str:
        key = self.node_key.public_key()
        return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    def join(self, fleet: Fleet) -> "Pen":
        fleet.members.enrol(self.name, fleet.members.invite(self.name), self.public, self.node)
        return self

    def request(self, token: str) -> enrolment_pb.EnrolRequest:
        proof = b"fedhw enrolment 1:" + self.name.encode() + b"\0" + self.node.encode()
        return enrolment_pb.EnrolRequest(
            device=self.name,
            token=token,
            report_key=self.public,
            node_key=self.node,
            proof=self.report_key.sign(proof),
        )

    def report(self, release: str, window: int | None = None, tally: Tally | None = None) -> Report:
        number = past() if window is None else window
        mechanism = GaussianMechanism(POLICY.epsilon, POLICY.delta)
        return make_report(tally or busy(), self.name, number, release, mechanism)

    def sign(self, report: Report, **changes: Any) -> pb.SendReportRequest:
        return pb.SendReportRequest.FromString(signed(replace(report, **changes), self.report_key))

    def enrolment(self, home: Home, flower: str) -> Enrolment:
        """What the device keeps of its coordinator."""
        invitation = Invitation(
            device=self.name,
            token="",
            certificate_authority=(home.certificates / "ca.crt").read_text(),
            statistics="127.0.0.1:1",
            flower=flower,
            release_key="0" * 64,
            app=app_digest(),
            window=POLICY.window,
            epsilon=POLICY.epsilon,
            delta=POLICY.delta,
        )
        return Enrolment(invitation, self.report_key, self.node_key)


START = int(time.time())
"""When the tests began: what they say of windows must not change under their hands."""


def past(windows: int = 1) -> int:
    """The number of a window that was over when the tests began; 1 is the newest."""
    return START // POLICY.window - windows


def busy(classes: int = 62) -> Tally:
    """A window in which the mixture had 45 of 50 right and the global expert 40."""
    errors = (5, *(0,) * (classes - 1))
    return Tally(50, 40, 30, 45, 25, 200, errors, (200, *(0,) * len(LATENCIES)))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A coordinator's home, with certificates and a release key, and nothing published."""
    return make_home(tmp_path / "home")


def make_home(directory: Path) -> Home:
    home = Home(directory)
    make_certificates(home.certificates, ["127.0.0.1"])
    ReleaseKey.create(home.release_key)
    return home


@pytest.fixture
def fleet(home: Home) -> Iterator[Fleet]:
    with open_fleet(home) as fleet:
        yield fleet


@contextmanager
def open_fleet(home: Home) -> Iterator[Fleet]:
    fleet = Fleet(home.database)
    fleet.settings.agree(**vars(POLICY))
    try:
        yield fleet
    finally:
        fleet.close()


@pytest.fixture
def registry(home: Home) -> Registry:
    return open_registry(home)


def open_registry(home: Home) -> Registry:
    return Registry(home.releases, ReleaseKey.load(home.release_key))


@pytest.fixture
def published(registry: Registry, releases: list[Path]) -> Manifest:
    return registry.publish(releases[0])


@dataclass
class Served:
    """A gRPC server of both services, and a channel to it."""

    address: str
    channel: grpc.Channel
    service: StatisticsService
    metrics: Metrics
    enrolled: list[None] = field(default_factory=list)

    def send(self, request: pb.SendReportRequest) -> None:
        stub = pb_grpc.StatisticsStub(self.channel)  # type: ignore[no-untyped-call]
        stub.SendReport(request, timeout=PATIENCE)

    def enrol(self, request: enrolment_pb.EnrolRequest) -> None:
        stub = enrolment_grpc.EnrolmentStub(self.channel)  # type: ignore[no-untyped-call]
        stub.Enrol(request, timeout=PATIENCE)


@pytest.fixture
def served(loop: Loop, home: Home, fleet: Fleet, registry: Registry) -> Iterator[Served]:
    metrics = Metrics(fleet, registry, [])
    service = StatisticsService(fleet, registry, metrics)
    enrolled: list[None] = []

    async def start() -> tuple[grpc.aio.Server, int]:
        enrolment = EnrolmentService(fleet, lambda: enrolled.append(None))
        server, port = grpc_server("127.0.0.1:0", home.certificates, service, enrolment)
        await server.start()
        return server, port

    server, port = loop.run(start())
    with loop.lasting(service.count_forever()), channel_to(home, port) as channel:
        yield Served(f"127.0.0.1:{port}", channel, service, metrics, enrolled)
        loop.run(server.stop(None))


@contextmanager
def channel_to(home: Home, port: int) -> Iterator[grpc.Channel]:
    credentials = grpc.ssl_channel_credentials((home.certificates / "ca.crt").read_bytes())
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials) as channel:
        yield channel


def refusal(call: Callable[[], object]) -> tuple[str, str]:
    """The code and the sentence that a call is refused with."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code().name, caught.value.details()


@dataclass
class Link:
    """A SuperLink in a process of its own."""

    home: Home
    address: Address
    superlink: SuperLink
    part: Part


@pytest.fixture(scope="module")
def link(loop: Loop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Link]:
    home = make_home(tmp_path_factory.mktemp("link") / "home")
    address = Address(f"127.0.0.1:{free_port()}", home.certificates / "ca.crt", "the secret")
    part, _ = child_processes(Settings(home), address)
    superlink = SuperLink(address)
    with loop.lasting(part.keep()):
        until(lambda: answers(superlink))
        yield Link(home, address, superlink, part)
    superlink.close()
    shutil.rmtree(home.directory)


def answers(superlink: SuperLink) -> bool:
    try:
        superlink.nodes()
    except httpx.HTTPError:
        return False
    return True


def noise_free(steps: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """A vector of 62 classes that is easy to sum."""
    return np.full(79, steps, np.int64)


class Coordinator:
    """`fedhw server` on a home, in a process of its own."""

    def __init__(self, home: Home, *options: object) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115
        self._logged = tempfile.TemporaryFile()  # noqa: SIM115
        ports = ["--port", "0", "--flower-port", "0", "--metrics-port", "0"]
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "fedhw", "server", "--home", home.directory),
                *(*ports, *map(str, options)),
            ],
            stdout=self._said,
            stderr=self._logged,
        )
        until(lambda: "metrics: " in self.said or self.process.poll() is not None)

    @property
    def said(self) -> str:
        return os.pread(self._said.fileno(), 2**20, 0).decode()

    @property
    def logged(self) -> str:
        return os.pread(self._logged.fileno(), 2**20, 0).decode()

    def port(self, of: str) -> int:
        found = re.search(rf"^{of}: .*?:(\d+)(/|$)", self.said, re.MULTILINE)
        assert found is not None, self.logged
        return int(found[1])

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(PATIENCE)
