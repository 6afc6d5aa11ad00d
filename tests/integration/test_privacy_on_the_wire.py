"""All that leaves a device, byte for byte: declared messages, and nothing of what was written."""

import base64
import gzip
import math
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from fedhw.errors import InputError
from fedhw.privacy.ledger import Ledger
from fedhw.privacy.statistics import length
from fedhw.release.registry import Registry
from fedhw.release.release import Release
from fedhw.release.signing import ReleaseKey
from fedhw.v1 import enrolment_pb2, release_pb2, statistics_pb2
from fedhw_client.store.corrections import Store
from fedhw_client.store.sample_keys import SampleKeys
from fedhw_server.store.members import SETTLED
from tests.integration.conftest import AgentProcess, Character, CoordinatorProcess
from tests.integration.leaks import Secrets
from tests.integration.protocol import Request, answers, exactly, fleet_requests, grpc_requests
from tests.integration.relay import Between, Relay
from tests.releases import published, shuffled
from tests.waiting import until

pytestmark = pytest.mark.superlink

WINDOW = 5
CORRECTIONS = 60
BUDGET = ("--epsilon-per-day", 1e6, "--epsilon-in-all", 1e6)

RECORD = 22
"""Bytes that TLS 1.3 adds to a record (RFC 8446, section 5.2): header, type, tag."""

HANDSHAKE = 2500
"""Bytes of a handshake at most, and of its end."""


@dataclass(frozen=True)
class Recording:
    """A session of a device, and what it must not have told."""

    statistics: list[bytes]
    flower: list[bytes]
    encrypted: int
    """Bytes that have left the device, as the network saw them."""
    home: Path
    secrets: Secrets
    log: str

    @property
    def everything(self) -> list[bytes]:
        return [*self.statistics, *self.flower]

    def reports(self) -> list[Request]:
        return [request for one in self.statistics for request in grpc_requests(one)]

    def calls(self) -> list[Request]:
        return [request for one in self.flower for request in fleet_requests(one)]


@pytest.fixture(scope="module")
def recording(
    tmp_path_factory: pytest.TempPathFactory,
    release_directory: Path,
    release: Release,
    written: list[Character],
) -> Iterator[Recording]:
    """Enrolment, a release, 60 corrections, some of them wrong, reports, a second release."""
    place = tmp_path_factory.mktemp("recorded")
    policy = ("--window", WINDOW, "--epsilon", 50, "--minimum-cohort", 2)
    coordinator = CoordinatorProcess(place / "coordinator", *policy)
    relays: list[Relay] = []
    home = place / "anna"
    try:
        coordinator.until_ready()
        # In front of each plane one that sees what the network sees, behind it one that sees all.
        for port, protocol in zip(coordinator.ports, ("h2", "http/1.1"), strict=False):
            authority = coordinator.home / "tls" / "ca.crt"
            relays.append(Relay(port, Between.of(place / "tls", authority, protocol)))
            relays.append(Relay(relays[-1].port))
        statistics, outer_statistics, flower, outer_flower = relays
        enroll = coordinator.invite(
            "anna",
            certificate_authority=(place / "tls" / "ca.crt").read_text("ascii"),
            statistics=outer_statistics.address,
            flower=outer_flower.address,
        )
        coordinator.command("publish", release_directory)
        agent = AgentProcess(home, "--enroll", enroll, *BUDGET)
        try:
            agent.until_ready()
            sentences = write(agent, written[:CORRECTIONS])
            # Before it is offered another one, or it has never said that it runs this one.
            until(lambda: coordinator.devices()["anna"].adoption == "running")
            until(lambda: stored(home))  # which is a moment after it is in use
            mixtures = stored(home)
            keys = coordinator.home / "release.key"
            registry = Registry(coordinator.home / "releases", ReleaseKey.load(keys))
            published(registry, release, shuffled(1), place / "second")
            latest = registry.latest
            assert latest is not None
            # One of two decisions, and neither is to tell anything else.
            until(lambda: coordinator.devices()["anna"].offered == latest.version)
            until(lambda: coordinator.devices()["anna"].adoption in SETTLED, 120)
            until(lambda: len(Ledger.open(home / "ledger.db").history()) > 3)
            until(lambda: not Ledger.open(home / "ledger.db").unsent())
            assert agent.stop() == 0
        finally:
            agent.kill()
        [last] = stored(home)
        mixtures.append(last)
        yield Recording(
            [bytes(one.sent) for one in statistics.conversations],
            [bytes(one.sent) for one in flower.conversations],
            outer_statistics.sent + outer_flower.sent,
            home,
            Secrets(written[:CORRECTIONS], mixtures, release.labels, sentences),
            agent.logged,
        )
    finally:
        for relay in relays[::-1]:
            relay.close()
        coordinator.kill()


def stored(home: Path) -> list[bytes]:
    """The personal mixture, decrypted, if there is one."""
    keys = SampleKeys(home / "device.db")
    with closing(sqlite3.connect(f"{(home / 'device.db').as_uri()}?mode=ro", uri=True)) as db:
        found = db.execute("SELECT release, key, sealed FROM personal").fetchall()
    mixtures = [keys.unseal(key, sealed, release.encode()) for release, key, sealed in found]
    return [tensors for tensors in mixtures if tensors is not None]


def write(agent: AgentProcess, written: list[Character]) -> list[str]:
    """Have each character recognised, correct it, and make mistakes; returns what was said then."""
    sentences = []
    with agent.connect() as device:
        for character in written:
            device.recognize(character.glyph)
            device.learn(*character)
        for glyph, label in ((np.full((28, 28), math.nan), "a"), (written[0].glyph, "\u00e4")):
            with pytest.raises(InputError) as mistake:
                device.learn(glyph, label)
            sentences.append(str(mistake.value))
        until(lambda: device.status().personal_version > 0)
    return sentences


def test_the_statistics_plane_carries_an_enrolment_and_reports(recording: Recording) -> None:
    enrolments, reports = [], []
    for request in recording.reports():
        if isinstance(request.message, enrolment_pb2.EnrolRequest):
            enrolments.append(request.message)
        else:
            assert isinstance(request.message, statistics_pb2.SendReportRequest)
            reports.append(request.message.SerializeToString())
            report = exactly(statistics_pb2.Report, request.message.report)
            assert len(report.steps) == length(62)
        assert request.headers.keys() <= {
            *(":method", ":scheme", ":path", ":authority", "te", "content-type"),
            *("user-agent", "grpc-accept-encoding", "grpc-timeout"),
        }
    assert len(enrolments) == 1
    assert len(enrolments[0].report_key) == 32
    charges = Ledger.open(recording.home / "ledger.db").history()
    # What is sent again is the same; nothing was sent that was not paid for.
    assert dict.fromkeys(reports) == dict.fromkeys(charge.message for charge in charges)


def test_the_model_plane_carries_answers(recording: Recording) -> None:
    calls = recording.calls()
    said = list(answers(calls))
    assert all(isinstance(one, release_pb2.Answer) for one in said)
    assert {one.adoption for one in said} >= {
        release_pb2.ADOPTION_WANTED,
        release_pb2.ADOPTION_LEARNING,
        release_pb2.ADOPTION_RUNNING,
    }
    for one in calls:
        assert one.headers.keys() <= {
            *("host", "accept", "accept-encoding", "connection", "user-agent", "content-type"),
            *("content-length", "flwr-public-key", "flwr-timestamp", "flwr-signature"),
            *("flwr-package-name", "flwr-package-version", "flwr-component-name"),
        }


def test_nothing_of_what_was_written_or_learned_is_in_it(recording: Recording) -> None:
    headers = [
        f"{name}: {value}".encode()
        for request in (*recording.reports(), *recording.calls())
        for name, value in request.headers.items()
    ]
    assert recording.secrets.found(*recording.everything, *headers) == set()


def test_nothing_else_has_left_the_device(recording: Recording) -> None:
    clear = sum(map(len, recording.everything))
    connections = len(recording.everything)
    assert connections > 2
    requests = len(recording.calls()) + len(recording.reports())
    frames = 8 * requests  # a few records for a request, and answers to pings
    assert clear < recording.encrypted < clear + connections * HANDSHAKE + frames * RECORD


def test_the_search_finds_what_is_there(recording: Recording) -> None:
    secrets = recording.secrets
    assert secrets.found((recording.home / "device.db").read_bytes()) == set()
    with closing(Store(recording.home / "device.db")) as store:
        rows, personal = store.rows(), store.personal
    assert personal is not None
    database = b"".join((*(row.observation for row in rows), personal.tensors))
    text = "".join(row.label for row in rows).encode()
    assert secrets.found(database) == {"glyph", "weights"}
    assert secrets.found(text) == {"text"}
    assert secrets.found(b"glyph: dtype; " + next(iter(secrets.pieces["exception"]))) == {
        "exception"
    }
    for packed in (gzip.compress(database), base64.b64encode(database), database.hex().encode()):
        assert secrets.found(b"about " + packed + b" this") == {"glyph", "weights"}


def test_the_log_says_nothing_of_it_either(recording: Recording) -> None:
    assert recording.secrets.found(recording.log.encode()) <= {"exception"}
