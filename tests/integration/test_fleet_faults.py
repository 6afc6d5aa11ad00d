"""Whatever ends, breaks or lies, the fleet is afterwards as if it had not.

What is killed is killed at once (SIGKILL). 'As if it had not' is: every device runs the newest
release and says so, and the coordinator has counted each report that a device has paid for once,
and nothing else.
"""

import hashlib
import itertools
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest
from flwr.app import ConfigRecord, RecordDict
from flwr.cli.build import build_fab_from_files
from flwr.common.constant import ErrorCode

from fedhw.invitation import Invitation
from fedhw.observation import Labels
from fedhw.privacy.ledger import Ledger
from fedhw.privacy.mechanism import GaussianMechanism
from fedhw.privacy.statistics import Tally, make_report
from fedhw.release.manifest import Manifest
from fedhw.release.registry import Parcel, Registry
from fedhw.release.release import Release
from fedhw.release.signing import ReleaseKey
from fedhw.system.clock import SystemClock
from fedhw.v1 import release_pb2, statistics_pb2
from fedhw_client import AgentMissingError
from fedhw_client.fleet.enrolment import Enrolment, enrol, secure_channel
from fedhw_client.fleet.reporter import LONGEST_PAUSE_SECONDS, SEND_TIMEOUT_SECONDS, SIGNED, signed
from fedhw_client.fleet.supernode import _connected, _CoordinatorTime
from fedhw_client.store.corrections import Store
from fedhw_client.store.device_home import Home
from fedhw_server.fronts.grpc_server import LARGEST_MESSAGE_BYTES
from fedhw_server.leader import superlink
from tests.command_line import is_one_sentence
from tests.integration import steer
from tests.integration.account import heard, missing_windows, until_settled
from tests.integration.conftest import AgentProcess, Character, CoordinatorProcess
from tests.integration.hostile import Hostile, hostile, said, superlink_of
from tests.integration.network import SERVER, Wire, wired
from tests.integration.relay import Relay
from tests.releases import published, shuffled
from tests.waiting import PATIENCE, until

pytestmark = pytest.mark.superlink

WINDOW = 10
CUT = SEND_TIMEOUT_SECONDS + LONGEST_PAUSE_SECONDS + WINDOW
"""Seconds for which nothing passes: more than a device waits for an answer and pauses then, and
than Flower waits for a sign of life."""

FEW = 15
"""Corrections of which so few judge a release that it cannot look worse: nobody holds it back."""

POLICY = ("--window", WINDOW, "--epsilon", 50, "--minimum-cohort", 2)
BUDGET = ("--epsilon-per-day", 1e6, "--epsilon-in-all", 1e6)


@dataclass
class Running:
    """A coordinator, its devices, and ever new releases for them."""

    coordinator: CoordinatorProcess
    release: Release
    network: tuple[str, ...] = ()
    agents: dict[str, AgentProcess] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def homes(self) -> list[Path]:
        return [agent.home for agent in self.agents.values()]

    @property
    def registry(self) -> Registry:
        home = self.coordinator.home
        return Registry(home / "releases", ReleaseKey.load(home / "release.key"))

    @property
    def newest(self) -> str:
        latest = self.registry.latest
        assert latest is not None
        return latest.name

    def enrol(self, name: str, **changes: str) -> None:
        """Start the device of somebody new."""
        invitation = self.coordinator.invite(name, **changes)
        home = self.coordinator.home.with_name(name)
        self.agents[name] = AgentProcess(
            home, "--enroll", invitation, *BUDGET, network=self.network
        )

    def restart(self, name: str) -> None:
        """Start a device again."""
        self.agents[name] = AgentProcess(self.agents[name].home, network=self.network)

    def publish(self) -> None:
        """Publish another release of the same quality, about which devices may decide at once."""
        for home in self.homes:
            decided = Home(home).decided
            until(lambda decided=decided: not decided.exists() or age(decided) > WINDOW)
        number = next(self.numbers)
        place = self.coordinator.home.with_name(f"release-{number}")
        published(self.registry, self.release, shuffled(number), place)

    def is_well(self, *interrupted: str) -> None:
        """Wait until all is as it should be; only who was `interrupted` may have missed windows."""
        self.coordinator.until_running(self.newest)
        until(lambda: all(Ledger.open(home / "ledger.db").history() for home in self.homes))
        until_settled(self.coordinator, self.homes)
        for name, agent in self.agents.items():
            assert agent.process.poll() is None
            with agent.connect() as device:
                assert device.status().release == self.newest
                assert not device.status().notices
            if name not in interrupted:
                assert missing_windows(agent.home) == set()

    def end(self) -> None:
        for agent in self.agents.values():
            agent.kill()
        self.coordinator.kill()


def age(path: Path) -> float:
    """Seconds since it was written."""
    return time.time() - path.stat().st_mtime


@dataclass
class Snare:
    """Kills an agent when it has got so many bytes more."""

    agent: AgentProcess | None = None
    bytes: int = 0
    _from: int | None = None

    def received(self, total: int) -> None:
        if self.agent is None:
            return
        if self._from is None:
            self._from = total
        if total - self._from > self.bytes:
            self.agent.process.kill()


@pytest.fixture(scope="module")
def severed(
    tmp_path_factory: pytest.TempPathFactory, release: Release, written: list[Character]
) -> Iterator[tuple[Running, Wire]]:
    """A fleet with a network of its own."""
    place = tmp_path_factory.mktemp("severed")
    with wired() as wire:
        coordinator = CoordinatorProcess(
            place / "coordinator", *POLICY, host=SERVER, network=wire.of_server
        )
        running = Running(coordinator, release, wire.of_devices)
        try:
            coordinator.until_ready()
            running.publish()
            for name in ("anna", "berta"):
                running.enrol(name)
            for agent in running.agents.values():
                agent.until_ready()
                with agent.connect() as device:
                    device.learn(*written[0])
            running.is_well()
            yield running, wire
        finally:
            running.end()


@pytest.fixture(scope="module")
def snare() -> Snare:
    return Snare()


@pytest.fixture(scope="module")
def fleet(
    tmp_path_factory: pytest.TempPathFactory, release: Release, snare: Snare
) -> Iterator[Running]:
    """Four devices; what carl gets passes the snare."""
    place = tmp_path_factory.mktemp("faults")
    coordinator = CoordinatorProcess(place / "coordinator", *POLICY)
    running = Running(coordinator, release)
    relay = Relay(coordinator.ports[1], received=snare.received)
    try:
        coordinator.until_ready()
        running.publish()
        for name in ("anna", "berta", "dora"):
            running.enrol(name)
        running.enrol("carl", flower=relay.address)
        for agent in running.agents.values():
            agent.until_ready()
        running.is_well()
        yield running
    finally:
        running.end()
        relay.close()


def test_nobody_steers_flower_from_another_machine(
    severed: tuple[Running, Wire],
) -> None:
    running, _ = severed
    coordinator, authority = running.coordinator, running.coordinator.home / "tls" / "ca.crt"
    at = f"{SERVER}:{coordinator.ports[1]}"
    for network in (running.network, coordinator.network):  # from afar, and from its own address
        asked = subprocess.run(
            [*network, sys.executable, steer.__file__, at, authority],
            capture_output=True,
            text=True,
            check=False,
        )
        assert asked.stdout == f"{FORBIDDEN}\n", asked.stderr


def test_a_device_goes_on_without_the_network(
    severed: tuple[Running, Wire], written: list[Character]
) -> None:
    running, wire = severed
    wire.cut()
    running.publish()
    for agent in running.agents.values():
        with agent.connect() as device:
            for character in written[1:FEW]:
                device.recognize(character.glyph)
                device.learn(*character)
            assert device.status().kept == FEW
            assert device.status().release != running.newest


def test_the_superlink_is_killed(fleet: Running) -> None:
    before = fleet.coordinator.part("superlink")
    os.kill(before, signal.SIGKILL)
    fleet.publish()
    until(lambda: fleet.coordinator.part("superlink") != before)
    fleet.is_well()


def test_the_serverapp_is_killed(fleet: Running) -> None:
    before = fleet.coordinator.part("serverapp")
    fleet.publish()
    rounds = number_of_rounds(fleet)
    until(lambda: number_of_rounds(fleet) > rounds)  # in the middle of one
    os.kill(before, signal.SIGKILL)
    until(lambda: fleet.coordinator.part("serverapp") != before)
    fleet.is_well()


def number_of_rounds(fleet: Running) -> int:
    with fleet.coordinator.fleet() as known:
        return len(known.offer_log.all())


def test_the_coordinator_is_killed_and_started_again(fleet: Running) -> None:
    parts = [fleet.coordinator.part(name) for name in ("superlink", "serverapp")]
    fleet.coordinator.kill()
    until(lambda: not any(is_running(part) for part in parts))
    fleet.publish()
    anna = fleet.agents["anna"].home / "ledger.db"
    until(lambda: Ledger.open(anna).unsent())
    fleet.coordinator = fleet.coordinator.again()
    fleet.coordinator.until_ready()
    fleet.is_well()


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_two_devices_are_killed_and_one_while_it_gets_a_release(
    fleet: Running, snare: Snare, written: list[Character]
) -> None:
    """The two are killed while somebody corrects them."""
    acknowledged: dict[str, list[str]] = {"anna": [], "berta": []}

    def correct(name: str) -> None:
        with fleet.agents[name].connect() as device:
            try:
                for character in written[:FEW]:
                    acknowledged[name].append(device.learn(*character))
                    time.sleep(0.3)
            except AgentMissingError:
                return

    correcting = [threading.Thread(target=correct, args=(name,)) for name in acknowledged]
    for one in correcting:
        one.start()
    for name in acknowledged:
        until(lambda name=name: len(acknowledged[name]) > 2)
        fleet.agents[name].kill()
    for one in correcting:
        one.join(PATIENCE)
    assert all(len(ids) < FEW for ids in acknowledged.values())
    carl = fleet.agents["carl"]
    before = whole_release(carl)
    snare.bytes, snare.agent = 200_000, carl
    fleet.publish()
    until(lambda: carl.process.poll() is not None)
    assert carl.ended() == -signal.SIGKILL
    snare.agent = None
    assert whole_release(carl) == before
    for name in ("anna", "berta", "carl"):
        fleet.restart(name)
        fleet.agents[name].until_ready()
    fleet.is_well("anna", "berta", "carl")
    for name, ids in acknowledged.items():
        assert fleet.agents[name].stop() == 0
        with closing(Store(fleet.agents[name].home / "device.db")) as store:
            assert store.known(ids) == set(ids)
        fleet.restart(name)
        fleet.agents[name].until_ready()


def whole_release(agent: AgentProcess) -> dict[str, str]:
    """The release in a home, and what came of another one."""
    places = [agent.home / name for name in ("release", "incoming")]
    found = [path for place in places if place.exists() for path in place.iterdir()]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def test_a_device_is_revoked_while_it_is_connected(fleet: Running) -> None:
    fleet.enrol("eve")
    eve = fleet.agents["eve"]
    eve.until_ready()
    fleet.is_well("anna", "berta", "carl")
    enrolment = Enrolment.load(eve.home / "enrolment")
    counted = heard(fleet.coordinator.home)
    fleet.coordinator.command("revoke", "eve")
    # At once, for reports:
    message = report(enrolment, int(time.time() // WINDOW) - 2, fleet.newest)
    assert sent(enrolment, message) is grpc.StatusCode.PERMISSION_DENIED
    # and for releases, as soon as the coordinator has looked.
    until(lambda: '"revoked"' in fleet.coordinator.logged)
    with (
        pytest.raises(httpx.HTTPError),
        _connected(enrolment, _CoordinatorTime(SystemClock()), None),
    ):
        pass
    until(lambda: "not let in" in eve.logged)
    del fleet.agents["eve"]
    fleet.publish()
    fleet.coordinator.until_running(fleet.newest)
    assert fleet.coordinator.devices()["eve"].running != fleet.newest
    with eve.connect() as device:  # it is of use to its person all the same
        assert device.status().release != fleet.newest
    ledger = Ledger.open(eve.home / "ledger.db")
    until(lambda: any(charge.refused for charge in ledger.history()))
    eve.kill()
    of_eve = {key: value for key, value in counted.reports.items() if key[1] == "eve"}
    after = heard(fleet.coordinator.home).reports
    assert {key: value for key, value in after.items() if key[1] == "eve"} == of_eve


def report(enrolment: Enrolment, window: int, release: str, **changes: object) -> bytes:
    """What a device would send of a window in which nothing happened, with something changed."""
    invitation = enrolment.invitation
    mechanism = GaussianMechanism(invitation.epsilon, invitation.delta)
    made = make_report(Tally.empty(62), invitation.device, window, release, mechanism)
    return signed(replace(made, **changes), enrolment.report_key)


def sent(enrolment: Enrolment, message: bytes) -> grpc.StatusCode:
    """How the coordinator answers."""
    with secure_channel(enrolment.invitation) as channel:
        call = channel.unary_unary("/fedhw.v1.Statistics/SendReport").future(
            message, timeout=PATIENCE
        )
        code: grpc.StatusCode = call.code()  # when it is over
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        assert is_one_sentence(call.details()), call.details()
    return code


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory, release: Release) -> Iterator[Running]:
    """A fleet whose only agent has nothing to report for a day, and which has a second release."""
    place = tmp_path_factory.mktemp("quiet")
    running = Running(CoordinatorProcess(place / "coordinator", "--minimum-cohort", 2), release)
    try:
        running.coordinator.until_ready()
        for _ in range(2):
            running.publish()
        running.enrol("anna")
        running.agents["anna"].until_ready()
        running.coordinator.until_running(running.newest)
        yield running
    finally:
        running.end()


@pytest.fixture(scope="module")
def pen(quiet: Running) -> Enrolment:
    """A device that is nothing but its keys."""
    invitation = Invitation.load(quiet.coordinator.invite("pen"))
    return enrol(invitation, quiet.coordinator.home.with_name("pen"))


def test_reports_that_must_not_count(quiet: Running, pen: Enrolment) -> None:
    home, name = quiet.coordinator.home, quiet.newest
    window = int(time.time() // pen.invitation.window) - 1
    good = report(pen, window, name)
    assert sent(pen, good) is grpc.StatusCode.OK
    counted = heard(home)
    assert len(counted.reports) == 1
    assert sent(pen, good) is grpc.StatusCode.OK  # the same once more is no other
    assert heard(home) == counted
    parts = statistics_pb2.SendReportRequest.FromString(good)
    content = bytearray(parts.report)
    content[-1] ^= 1
    stranger = replace(pen, invitation=replace(pen.invitation, device="nobody"))
    huge = np.full(103, 10**6)
    bad = {
        "another one of the same window": (report(pen, window, name), "ALREADY_EXISTS"),
        "altered": (statistics_pb2.SendReportRequest(
            report=bytes(content), signature=parts.signature
        ).SerializeToString(), "UNAUTHENTICATED"),
        "too large": (good + bytes(LARGEST_MESSAGE_BYTES), "RESOURCE_EXHAUSTED"),
        "no message": (b"\xff" * 50, "INVALID_ARGUMENT"),
        "no report": (resigned(pen, b"\xff" * 50), "INVALID_ARGUMENT"),
        "NaN": (report(pen, window - 1, name, epsilon=math.nan), "INVALID_ARGUMENT"),
        "out of range": (report(pen, window - 1, name, steps=huge), "INVALID_ARGUMENT"),
        "too short": (report(pen, window - 1, name, steps=huge[:5]), "INVALID_ARGUMENT"),
        "cheaper": (report(pen, window - 1, name, epsilon=1.0), "INVALID_ARGUMENT"),
        "not over": (report(pen, window + 1, name), "FAILED_PRECONDITION"),
        "over for long": (report(pen, window - 20, name), "INVALID_ARGUMENT"),
        "of no release": (report(pen, window - 1, "v9-01234567"), "INVALID_ARGUMENT"),
        "of another's name": (report(replace(pen, invitation=replace(
            pen.invitation, device="anna")), window - 1, name), "UNAUTHENTICATED"),
        "of a stranger": (report(stranger, window - 1, name), "UNAUTHENTICATED"),
    }  # fmt: skip
    answered = {what: sent(pen, message).name for what, (message, _) in bad.items()}
    assert answered == {what: code for what, (_, code) in bad.items()}
    assert heard(home) == counted
    assert sent(pen, report(pen, window - 1, name)) is grpc.StatusCode.OK


def resigned(pen: Enrolment, content: bytes) -> bytes:
    signature = pen.report_key.sign(SIGNED + content)
    request = statistics_pb2.SendReportRequest(report=content, signature=signature)
    return request.SerializeToString()


FORBIDDEN = dict.fromkeys(steer.ORDERS, 403)


def test_nobody_steers_flower_without_the_secret(quiet: Running) -> None:
    at = f"127.0.0.1:{quiet.coordinator.ports[1]}"
    assert steer.answers(at, quiet.coordinator.home / "tls" / "ca.crt") == FORBIDDEN


@pytest.fixture(scope="module")
def node(quiet: Running, pen: Enrolment) -> int:
    """The agent, as Flower knows it, when its coordinator has ended."""
    with quiet.coordinator.fleet() as known:
        nodes = {device.name: number for number, device in known.members.by_node().items()}
    quiet.coordinator.kill()
    return nodes["anna"]


@pytest.fixture(scope="module")
def taken(quiet: Running, node: int) -> Iterator[superlink.Address]:
    with superlink_of(quiet.coordinator.home, quiet.coordinator.ports[1]) as address:
        yield address


@pytest.fixture
def enemy(taken: superlink.Address, node: int) -> Iterator[Hostile]:
    with hostile(taken, node) as attacker:
        yield attacker


def offers(quiet: Running, place: Path) -> dict[str, tuple[Parcel, str]]:
    """Releases that a device must refuse, and why."""
    registry, key = quiet.registry, ReleaseKey.load(quiet.coordinator.home / "release.key")
    old, new = registry.parcel(1), registry.parcel(2)
    manifest = Manifest.parse(new.manifest, "parcel")
    following = replace(manifest, version=9, parent=2)
    other = following.to_json().encode()
    foreign = replace(following, labels=Labels(manifest.labels.texts[::-1])).to_json().encode()
    unknown = replace(following, architecture="resnet").to_json().encode()
    cut = {name: content[:-1] for name, content in new.files.items()}
    few = dict(itertools.islice(new.files.items(), 1))
    stranger = ReleaseKey.create(place / "stranger.key")
    return {
        "signed by another": (Parcel(other, stranger.sign(other), new.files), "SIGNATURE"),
        "not signed": (Parcel(other, b"", new.files), "SIGNATURE"),
        "signed, then altered": (Parcel(other, new.signature, new.files), "SIGNATURE"),
        "older": (old, "VERSION"),
        "of another alphabet": (Parcel(foreign, key.sign(foreign), new.files), "ALPHABET"),
        "of another kind": (Parcel(unknown, key.sign(unknown), new.files), "ARCHITECTURE"),
        "cut short": (Parcel(other, key.sign(other), cut), "FILES"),
        "in part": (Parcel(other, key.sign(other), few), "FILES"),
    }


def contents(home: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(home)): path.read_bytes()
        for path in sorted(home.rglob("*"))
        if path.is_file()
    }


def test_releases_that_must_not_be_taken(
    quiet: Running, enemy: Hostile, tmp_path: Path, written: list[Character]
) -> None:
    agent = quiet.agents["anna"]
    before = contents(agent.home)
    running = quiet.newest
    assert any(name.startswith("release/") for name in before)
    for what, (parcel, refusal) in offers(quiet, tmp_path).items():
        answer = enemy.offer(*parcel)
        found = (answer.adoption, release_pb2.Refusal.Name(answer.refusal), answer.running)
        wanted = (release_pb2.ADOPTION_REFUSED, f"REFUSAL_{refusal}", running)
        assert found == wanted, what
        assert contents(agent.home) == before, what
    with agent.connect() as device:
        assert device.recognize(written[0].glyph).release == running


def test_messages_that_are_none(quiet: Running, enemy: Hostile) -> None:
    agent = quiet.agents["anna"]
    before = contents(agent.home)
    messages = {
        "garbage": (said(b"\xff" * 100), "query.release"),
        "nothing": (RecordDict({}), "query.release"),
        "no bytes": (RecordDict({"fedhw": ConfigRecord({"offer": "text"})}), "query.release"),
        "another question": (said(b""), "query.weights"),
        "an order": (said(b""), "train"),
    }
    for what, (content, kind) in messages.items():
        reply = enemy.ask(content, kind)
        if reply.has_error():  # of an error its type alone
            assert reply.error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION, what
            assert re.fullmatch("[A-Za-z]+", str(reply.error.reason)), what
        else:
            answer = reply.content["fedhw"]["answer"]
            assert isinstance(answer, bytes)
            refused = release_pb2.Answer.FromString(answer)
            assert refused.refusal == release_pb2.REFUSAL_SIGNATURE, what
    assert contents(agent.home) == before
    assert agent.process.poll() is None


def test_another_app_is_not_run(
    quiet: Running,
    taken: superlink.Address,
    node: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its code would leave a mark when it is imported."""
    agent, mark = quiet.agents["anna"], tmp_path / "mark"
    before = contents(agent.home)
    code = f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n".encode()
    code += b"from flwr.clientapp import ClientApp\napp = ClientApp()\n"
    described = superlink.APP.replace(b"fedhw_client.app:app", b"evil:app")
    assert described != superlink.APP
    files = {"pyproject.toml": described, "evil.py": code}
    exec(code, {})  # so it would
    assert mark.exists()
    mark.unlink()
    monkeypatch.setattr(superlink, "flower_app", lambda: build_fab_from_files(files)[0])
    with hostile(taken, node) as attacker:
        reply = attacker.ask(said(b""))
    assert reply.has_error()
    assert (reply.error.code, reply.error.reason) == (ErrorCode.INVALID_FAB, "another app")
    assert not mark.exists()
    assert contents(agent.home) == before


def test_the_network_comes_back(severed: tuple[Running, Wire]) -> None:
    """It was cut in the first test; what is between has its own fleets."""
    running, wire = severed
    counted = heard(running.coordinator.home)
    time.sleep(max(0.0, wire.cut_at + CUT - time.monotonic()))
    assert heard(running.coordinator.home) == counted
    wire.mend()
    running.is_well()
    windows = int(CUT // WINDOW)
    assert len(heard(running.coordinator.home).reports) >= len(counted.reports) + 2 * windows
