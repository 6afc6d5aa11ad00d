"""What may happen to a device: full and failing disks, damage, clocks set back, wrong settings."""

import dataclasses
import hashlib
import json
import os
import random
import resource
import shutil
import socket
import sqlite3
import stat
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
import pytest
from prometheus_client import parser

from fedhw.errors import InputError
from fedhw.handwriting.synthetic import synthetic_writers
from fedhw.observation import Labels
from fedhw.release.release import Release
from fedhw.research.train_release import make_release
from fedhw.research.training import Training
from fedhw.system.clock import DAY_SECONDS, SettableClock
from fedhw.v1 import device_pb2 as pb
from fedhw.v1 import device_pb2_grpc as pb_grpc
from fedhw_client import Device, connect
from fedhw_client.agent.agent import Agent
from fedhw_client.agent.correction import Correction
from fedhw_client.store.corrections import SET_ASIDE, Selection, Store
from fedhw_client.store.salvage import PAGE_BYTES
from tests.command_line import is_one_sentence
from tests.integration.conftest import AgentProcess, Character, Launch, Refusal
from tests.parts import lack, need
from tests.waiting import until

Mount = Callable[..., Path]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mounts something at a new directory until the test ends; skips where that is not allowed."""
    mounted: list[Path] = []

    def mounts(*arguments: object) -> Path:
        place = tmp_path / f"mount{len(mounted)}"
        place.mkdir()
        _mount(*arguments, place)
        mounted.append(place)
        return place

    yield mounts
    for place in mounted:
        subprocess.run(["umount", place], check=True)


def _mount(*arguments: object) -> None:
    try:
        subprocess.run(["mount", *map(str, arguments)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        lack("mount", f"run as root, who may mount here ({error})")


@pytest.fixture(scope="module")
def lived_in(
    launch: Launch, tmp_path_factory: pytest.TempPathFactory, written: list[Character]
) -> Path:
    """The home of an agent that learned 120 corrections and was stopped."""
    home = tmp_path_factory.mktemp("lived_in") / "home"
    with launch(home) as agent, agent.connect() as device:
        device.learn_many(written[:120])
        until(lambda: device.status().personal_version > 0)
        assert agent.stop() == 0
    return home


@pytest.fixture
def home(lived_in: Path, tmp_path: Path) -> Path:
    """A copy of that home, for the test alone."""
    shutil.copytree(lived_in, tmp_path / "home", ignore=shutil.ignore_patterns("agent.sock"))
    return tmp_path / "home"


def contents(home: Path) -> list[tuple[bytes, str]]:
    with closing(Store(home / "device.db")) as store:
        assert store.notices == []
        return [(row.observation, row.label) for row in store.rows()]


def stored(home: Path) -> list[bytes]:
    """The corrections as the files have them: encrypted."""
    with TemporaryDirectory() as copy:
        for part in home.glob("device.db*"):
            shutil.copy(part, copy)
        with closing(sqlite3.connect(Path(copy) / "device.db")) as db:
            found = db.execute("SELECT sealed FROM samples ORDER BY position").fetchall()
    return [sealed for (sealed,) in found]


def pairs(characters: list[Character]) -> list[tuple[bytes, str]]:
    return [(character.glyph.tobytes(), character.label) for character in characters]


def refused(ask: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        ask()
    assert is_one_sentence(str(caught.value)), caught.value
    return str(caught.value)


def learn_on(device: Device, written: list[Character], learned: list[Character]) -> None:
    """Correct one after another, and keep account."""
    while len(learned) < 2000:
        character = written[len(learned) % len(written)]
        device.learn(*character)
        learned.append(character)


def fill(filesystem: Path, leaving: int) -> Path:
    """Fill a file system but for so many bytes."""
    filler = filesystem / "filler"
    free = os.statvfs(filesystem)
    filler.write_bytes(bytes(free.f_bavail * free.f_frsize - leaving))
    return filler


def test_a_full_disk_loses_nothing_and_recovers(
    launch: Launch, mount: Mount, written: list[Character]
) -> None:
    disk = mount("-t", "tmpfs", "-o", "size=8m", "tmpfs")
    with launch(disk / "home") as agent, agent.connect() as device:
        device.learn_many(written[:20])
        learned = written[:20]
        filler = fill(disk, leaving=200_000)
        assert "disk is full" in refused(lambda: learn_on(device, written, learned))
        assert len(learned) > 20
        with agent.stub() as stub:
            with pytest.raises(grpc.RpcError) as error:
                stub.Learn(iter([c.correction() for c in written]))
            assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert device.recognize(written[0].glyph).label
        assert device.status().kept == len(learned)
        filler.unlink()
        device.learn(*written[3])
        learned.append(written[3])
        version = device.status().personal_version
        device.learn_many(written)
        learned += written
        until(lambda: device.status().personal_version > version)
        agent.kill()
    assert contents(disk / "home") == pairs(learned)


def test_forgetting_on_a_full_disk_says_so_and_can_be_asked_again(
    launch: Launch, mount: Mount, written: list[Character]
) -> None:
    disk = mount("-t", "tmpfs", "-o", "size=8m", "tmpfs")
    label = written[0].label
    kept = [character for character in written if character.label != label]
    with launch(disk / "home") as agent, agent.connect() as device:
        device.learn_many(written)
        until(lambda: not device.status().learning)
        # Enough for a few frames of the log, not for bringing all of it into the database.
        filler = fill(disk, leaving=100_000)
        assert "disk" in refused(lambda: device.forget(label=label))
        assert device.status().kept in (len(written), len(kept))
        assert device.recognize(written[0].glyph).label
        filler.unlink()
        device.forget(label=label)
        assert device.status().kept == len(kept)
        content = (disk / "home/device.db").read_bytes()
        log = disk / "home/device.db-wal"
        content += log.read_bytes() if log.exists() else b""
        assert not any(c.glyph.tobytes() in content for c in written if c.label == label)
        agent.kill()
    assert contents(disk / "home") == pairs(kept)


def test_undoing_on_a_full_disk_takes_back_one_or_says_that_it_took_none(
    launch: Launch, mount: Mount, written: list[Character]
) -> None:
    disk = mount("-t", "tmpfs", "-o", "size=8m", "tmpfs")
    with launch(disk / "home") as agent, agent.connect() as device:
        device.learn_many(written)
        until(lambda: not device.status().learning)
        for leaving in (100_000, 0):
            filler = fill(disk, leaving)
            before = device.status().kept
            try:
                undone = bool(device.undo().id)
            except InputError as error:
                assert is_one_sentence(str(error))  # noqa: PT017
                undone = False
            assert device.status().kept == before - undone
            filler.unlink()
        assert device.undo().id
        left = device.status().kept
        agent.kill()
    assert contents(disk / "home") == pairs(written[:left])


def test_expiry_on_a_full_disk_is_put_off(
    launch: Launch, mount: Mount, written: list[Character]
) -> None:
    disk = mount("-t", "tmpfs", "-o", "size=8m", "tmpfs")
    ten_seconds = 10 / DAY_SECONDS
    with launch(disk / "home", "--keep-days", ten_seconds) as agent, agent.connect() as device:
        device.learn_many(written)
        filler = fill(disk, leaving=0)
        until(lambda: "not forgotten yet" in agent.logged)
        assert agent.process.poll() is None
        assert device.status().kept == len(written)
        filler.unlink()
        until(lambda: device.status().kept == 0)


def test_a_disk_that_fails_loses_nothing_and_recovers(
    launch: Launch, home: Path, written: list[Character]
) -> None:
    with launch(home) as agent, agent.connect() as device:
        learned = written[:120]
        size = (home / "device.db").stat().st_size // 2
        _, hard = resource.prlimit(agent.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(agent.process.pid, resource.RLIMIT_FSIZE, (size, hard))
        assert "disk fails" in refused(lambda: learn_on(device, written, learned))
        assert len(learned) > 120
        assert device.recognize(written[0].glyph).label
        resource.prlimit(agent.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
        device.learn(*written[1])
        agent.kill()
    assert contents(home) == pairs([*learned, written[1]])


def test_a_read_only_home_is_refused(
    launch: Launch, refusal: Refusal, mount: Mount, lived_in: Path
) -> None:
    disk = mount("-t", "tmpfs", "-o", "size=8m", "tmpfs")
    shutil.copytree(lived_in, disk / "home", ignore=shutil.ignore_patterns("agent.sock"))
    _mount("-o", "remount,ro", disk)
    sentence = refusal(disk / "home")
    assert sentence.startswith("home: ")
    assert str(disk / "home") in sentence
    _mount("-o", "remount,rw", disk)
    with launch(disk / "home") as agent, agent.connect() as device:
        assert device.status().kept == 120


def test_a_disk_that_becomes_read_only_is_told_and_recognition_goes_on(
    launch: Launch, mount: Mount, tmp_path: Path, written: list[Character]
) -> None:
    image = tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(2**25)
    need("mkfs.ext4")
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    disk = mount("-o", "loop", image)
    with launch(disk / "home") as agent, agent.connect() as device:
        device.learn_many(written[:20])
        until(lambda: device.status().personal_version > 0)
        _mount("-o", "remount,abort", disk)
        for _ in range(3):
            refused(lambda: device.learn(*written[20]))
        refused(device.undo)
        refused(lambda: device.forget(everything=True))
        for character in written[:5]:
            assert device.recognize(character.glyph).label
        assert agent.process.poll() is None
        assert device.status().kept == 20


def test_a_clock_set_back_loses_nothing(
    release: Release, tmp_path: Path, written: list[Character]
) -> None:
    clock = SettableClock()
    noon = datetime(2026, 6, 1, 12, tzinfo=UTC).timestamp()
    times = [noon, noon + 1, noon - 86_400, noon - 86_399]
    agent = Agent(release, Store(tmp_path / "device.db"), clock=clock)
    try:
        names = []
        for at, character in zip(times, written, strict=False):
            clock.set_wall(at)
            names += agent.learn([Correction(*character)])
    finally:
        agent.close()
    agent = Agent(release, Store(tmp_path / "device.db"))
    try:
        assert [kept.id for kept in agent.recent(10)] == names[::-1]
        assert [kept.at for kept in agent.recent(10)] == times[::-1]
        assert agent.forget(Selection(end=noon)) == 2
        assert [kept.id for kept in agent.recent(10)] == names[1::-1]
        undone = agent.undo()
        assert undone is not None
        assert undone.id == names[1]
    finally:
        agent.close()


def test_only_one_agent_lives_in_a_home(launch: Launch, refusal: Refusal, tmp_path: Path) -> None:
    with launch(tmp_path / "home") as agent, agent.connect() as device:
        sentence = refusal(tmp_path / "home")
        assert sentence.startswith("home: ")
        assert str(tmp_path / "home") in sentence
        assert device.status().release  # the first one does not mind


def overwrite(file: Path, start: int, length: int, seed: int = 0) -> None:
    with file.open("r+b") as opened:
        opened.seek(start)
        opened.write(random.Random(seed).randbytes(length))


def told_and_kept(agent: AgentProcess, damaged: bytes) -> list[str]:
    """The notices, after a look that they are on standard output and the damaged file aside."""
    with agent.connect() as device:
        notices = list(device.status().notices)
    for notice in notices:
        assert f"{notice}\n" in agent.said
    (aside,) = agent.home.glob(f"{SET_ASIDE}*")
    assert any(str(aside) in notice for notice in notices)
    assert (aside / "device.db").read_bytes() == damaged
    return notices


@pytest.mark.parametrize("seed", range(3))
def test_damaged_pages_cost_only_what_stood_on_them(
    launch: Launch, home: Path, written: list[Character], seed: int
) -> None:
    database = home / "device.db"
    content, sealed, rng = database.read_bytes(), stored(home), random.Random(seed)
    # Three pages that hold corrections, all but the first page of the file.
    holding = sorted({content.index(row) // PAGE_BYTES for row in sealed} - {0})
    lost = rng.sample(holding, 3)
    for page in lost:
        overwrite(database, page * PAGE_BYTES, PAGE_BYTES, seed)
    damaged = database.read_bytes()
    whole = [c for c, row in zip(written, sealed, strict=False) if row in damaged]
    readable = pairs(whole)
    assert 90 < len(readable) < 120
    with launch(home) as agent:
        told_and_kept(agent, damaged)
        with agent.connect() as device:
            assert device.status().kept == len(readable)
            device.learn(*written[0])
            until(lambda: device.status().personal_version > 0)
            assert device.recognize(written[0].glyph).HasField("local_expert")
        agent.kill()
    assert contents(home) == [*readable, *pairs(written[:1])]


def test_a_damaged_header_costs_nothing(
    launch: Launch, home: Path, written: list[Character]
) -> None:
    overwrite(home / "device.db", 0, 100)
    damaged = (home / "device.db").read_bytes()
    with launch(home) as agent:
        told_and_kept(agent, damaged)
        agent.kill()
    assert contents(home) == pairs(written[:120])


def test_a_damaged_log_costs_only_what_stood_there(
    launch: Launch, tmp_path: Path, written: list[Character]
) -> None:
    home = tmp_path / "home"
    with launch(home) as agent, agent.connect() as device:
        for character in written[:40]:
            device.learn(*character)
        agent.kill()
    log, sealed = home / "device.db-wal", stored(home)
    content = log.read_bytes()
    # In the middle of the log: SQLite drops all of it from there on.
    overwrite(log, content.rindex(sealed[20]), 100)
    damaged = log.read_bytes()
    readable = pairs([c for c, row in zip(written, sealed, strict=False) if row in damaged])
    assert len(readable) >= 39
    with launch(home) as agent, agent.connect() as device:
        assert device.status().kept == len(readable)
        notices = device.status().notices
        assert notices
        assert all(f"{notice}\n" in agent.said for notice in notices)
        agent.kill()
    assert contents(home) == readable


def test_a_damaged_mixture_is_learned_anew(
    launch: Launch, home: Path, written: list[Character]
) -> None:
    with closing(sqlite3.connect(home / "device.db")) as database, database:
        database.execute("UPDATE personal SET sealed = zeroblob(100)")
        (version,) = database.execute("SELECT personal_version FROM counters").fetchone()
    with launch(home) as agent, agent.connect() as device:
        until(lambda: device.status().personal_version > version)
        assert device.recognize(written[0].glyph).HasField("local_expert")
        assert device.status().kept == 120


def test_a_newer_schema_is_left_alone(refusal: Refusal, home: Path) -> None:
    with closing(sqlite3.connect(home / "device.db")) as database:
        database.execute("PRAGMA user_version = 99")
    before = hashlib.sha256((home / "device.db").read_bytes()).digest()
    assert "schema 99" in refusal(home)
    assert hashlib.sha256((home / "device.db").read_bytes()).digest() == before
    assert not list(home.glob(f"{SET_ASIDE}*"))


def test_a_path_too_long_for_a_socket_is_refused(
    launch: Launch, refusal: Refusal, release_directory: Path, tmp_path: Path
) -> None:
    home = tmp_path / ("long" * 30)
    assert refusal(home, "--release", release_directory).startswith("home: ")
    with launch(home, "--port", 0) as agent, connect(home, agent.port("device")) as device:
        assert device.status().kept == 0


def test_the_first_start_needs_a_release(refusal: Refusal, tmp_path: Path) -> None:
    assert refusal(tmp_path / "home").startswith("release: ")
    assert refusal(tmp_path / "home", "--release", tmp_path / "none").startswith("release: ")


def test_a_release_without_the_person_s_characters_is_refused(
    launch: Launch, refusal: Refusal, home: Path, tmp_path: Path
) -> None:
    writers = synthetic_writers(4, 186)
    digits = writers.take((writers.labels < 10).nonzero()[0])
    digits = dataclasses.replace(digits, classes=Labels.characters("0123456789"))
    make_release(tmp_path / "digits", digits, "lenet5", Training(epochs=1, batch=64), hold_out=0)
    refusal(home, "--release", tmp_path / "digits")
    with launch(home) as agent, agent.connect() as device:  # as if nothing had been
        assert device.status().kept == 120
        assert device.status().personal_version > 0


def test_a_port_that_is_taken_is_refused(refusal: Refusal, home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for option in ("port", "metrics-port", "pad-port"):
            pad = ["--pad"] if option == "pad-port" else []
            assert refusal(home, *pad, f"--{option}", port).startswith(f"{option}: ")


def listening(pid: int) -> set[str]:
    """Where a process listens on over TCP, as /proc/net/tcp and tcp6 write it, as IPv4 if it is."""
    links = Path(f"/proc/{pid}/fd").iterdir()
    inodes = {str(link.readlink()).removeprefix("socket:[").rstrip("]") for link in links}
    tables = (Path(f"/proc/{pid}/net/{name}") for name in ("tcp", "tcp6"))
    lines = [line.split() for table in tables for line in table.read_text().splitlines()[1:]]
    listeners = {line[1] for line in lines if line[3] == "0A" and line[9] in inodes}
    return {listener.removeprefix("0000000000000000FFFF0000") for listener in listeners}


def test_a_port_is_on_loopback_and_asks_for_the_token(
    launch: Launch, home: Path, written: list[Character]
) -> None:
    with launch(home, "--port", 0) as agent:
        port = agent.port("device")
        assert listening(agent.process.pid) == {f"0100007F:{port:04X}"}
        assert not (home / "agent.sock").exists()
        token = home / "token"
        assert stat.S_IMODE(token.stat().st_mode) == 0o600
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = pb_grpc.DeviceStub(channel)
            for metadata in ((), (("authorization", "Bearer wrong"),)):
                calls: list[Callable[[], object]] = [
                    lambda m=metadata: stub.GetStatus(pb.GetStatusRequest(), metadata=m),
                    lambda m=metadata: next(stub.WatchStatus(pb.WatchStatusRequest(), metadata=m)),
                    lambda m=metadata: stub.Learn(iter([written[0].correction()]), metadata=m),
                    lambda m=metadata: next(
                        stub.Recognize(iter([written[0].question()]), metadata=m)
                    ),
                ]
                for call in calls:
                    with pytest.raises(grpc.RpcError) as error:
                        call()
                    assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
                    assert is_one_sentence(error.value.details())
        with connect(home, port) as device:
            assert device.recognize(written[0].glyph).label
            assert device.status().kept == 120
        first = token.read_text()
    with launch(home, "--port", 0):
        assert token.read_text() == first  # apps need not be started again


def test_only_the_owner_gets_in(launch: Launch, tmp_path: Path, written: list[Character]) -> None:
    home = tmp_path / "home"
    with launch(home) as agent, agent.connect() as device:
        device.learn(*written[0])
        assert listening(agent.process.pid) == set()
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in home.iterdir()}
        assert modes["agent.sock"] == 0o600
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
        databases = [mode for name, mode in modes.items() if name.startswith("device.db")]
        assert databases == [0o600] * len(databases)


KEYS = {
    "ready": {"release"},
    "learned": {"swapped", "version"},
    "forgot": {"corrections"},
    "imported": {"corrections"},
    "stopped": set(),
}
"""All that may be logged of a person's day, by event."""


def test_nothing_that_was_written_is_logged(
    launch: Launch, tmp_path: Path, written: list[Character]
) -> None:
    with launch(tmp_path / "home") as agent, agent.connect() as device:
        device.learn_many(written)
        until(lambda: device.status().personal_version > 0 and not device.status().learning)
        device.undo()
        device.forget(label=written[0].label)
        assert device.import_profile(device.export_profile("correct horse"), "correct horse") == 0
        with agent.stub() as stub:
            for request in (
                pb.LearnRequest(glyph=written[0].question().glyph, label="SECRETLABEL"),
                pb.LearnRequest(glyph=written[0].question().glyph, label="7", id="SECRETID" * 9),
            ):
                with pytest.raises(grpc.RpcError):
                    stub.Learn(iter([request]))
        assert agent.stop() == 0
        lines = [json.loads(line) for line in agent.logged.splitlines()]
    assert {line["event"] for line in lines} == KEYS.keys()
    for line in lines:
        assert line.keys() - {"event", "level", "timestamp"} == KEYS[line["event"]]
        assert all(isinstance(line[k], int) for k in KEYS[line["event"]] - {"release"})
    assert "SECRET" not in agent.logged + agent.said


def test_metrics_count_and_tell_nothing_else(
    launch: Launch, tmp_path: Path, written: list[Character]
) -> None:
    with launch(tmp_path / "home", "--metrics-port", 0) as agent, agent.connect() as device:
        port = agent.port("metrics")
        assert listening(agent.process.pid) == {f"0100007F:{port:04X}"}
        device.learn_many(written[:20])
        until(lambda: device.status().personal_version > 0 and not device.status().learning)
        for character in written[:7]:
            device.recognize(character.glyph)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            families = list(parser.text_string_to_metric_families(answer.read().decode()))
        samples = [sample for family in families for sample in family.samples]
        status = device.status()
    assert all(sample.name.startswith("fedhw_device_") for sample in samples)
    assert {label for sample in samples for label in sample.labels} == {"release", "le"}
    values = {s.name.removeprefix("fedhw_device_"): s.value for s in samples if not s.labels}
    assert values["recognitions_total"] == values["recognition_seconds_count"] == 7
    assert values["corrections_total"] == values["kept"] == 20
    assert values["personal_version"] == status.personal_version
    assert values["learnings_total"] >= status.personal_version
    assert values["learning_seconds_total"] > 0
    assert values["store_bytes"] == status.store_bytes
    assert {s.labels["release"] for s in samples if "release" in s.labels} == {status.release}


def test_the_service_manager_is_told(launch: Launch, home: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        asked = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "300000"}
        with launch(home, **asked) as agent:
            assert manager.recv(100) == b"READY=1"
            assert [manager.recv(100) for _ in range(5)] == [b"WATCHDOG=1"] * 5
            assert agent.stop() == 0
        last = b""
        while last != b"STOPPING=1":
            last = manager.recv(100)
            assert last in (b"WATCHDOG=1", b"STOPPING=1")
