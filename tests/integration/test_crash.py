"""The agent is killed at any moment; what it has acknowledged is there afterwards."""

import multiprocessing
import random
import shutil
import signal
import threading
import time
import uuid
from contextlib import closing
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import grpc
import pytest

from fedhw.v1 import device_pb2 as pb
from fedhw.v1 import device_pb2_grpc as pb_grpc
from fedhw_client.agent.agent import CAPACITY
from fedhw_client.agent.agent_process import Settings, run
from fedhw_client.store.corrections import Store
from fedhw_client.store.device_home import Home
from tests.integration.conftest import Character, Launch, open_channel
from tests.waiting import PATIENCE, until

ROUNDS = 50
LONGEST_PAUSE = 0.02
"""Seconds between two calls; learning needs some of them."""


@dataclass
class Ledger:
    """What an agent owes, by name: all of what it acknowledged, all or none of what it did not."""

    acknowledged: dict[str, Character] = field(default_factory=dict)
    pending: dict[str, Character] = field(default_factory=dict)

    def stream(self, stub: Any, written: list[Character], rng: random.Random) -> None:
        """Correct until the agent answers no more."""
        while True:
            several = rng.randint(2, 9) if rng.random() < 0.2 else 1
            call = {uuid.uuid4().hex: character for character in rng.choices(written, k=several)}
            self.pending = call
            requests = [character.correction(name) for name, character in call.items()]
            try:
                answer = stub.Learn(iter(requests))
            except grpc.RpcError:
                return
            assert list(answer.ids) == list(call)
            self.acknowledged |= call
            self.pending = {}
            time.sleep(rng.uniform(0, LONGEST_PAUSE))

    def check(self, database: Path) -> int:
        """Compare with what is stored; returns the version of the personal mixture."""
        copy = database.parent.with_name("copy")
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        for part in database.parent.glob(f"{database.name}*"):
            shutil.copy(part, copy)
        with closing(Store(copy / database.name)) as store:
            assert store.notices == []
            rows, version, personal = store.rows(), store.personal_version, store.personal
        found = {row.id: (row.observation, row.label) for row in rows}
        assert len(found) == len(rows)
        if self.pending.keys() & found.keys():
            self.acknowledged |= self.pending
        self.pending = {}
        owed = {name: (c.glyph.tobytes(), c.label) for name, c in self.acknowledged.items()}
        assert found.items() <= owed.items()
        # Corrections make room for others beyond the capacity alone.
        assert len(found) >= min(len(owed), CAPACITY)
        self.acknowledged = {name: self.acknowledged[name] for name in found}
        assert (personal is not None) == (version > 0)
        return version


@pytest.fixture
def rng() -> random.Random:
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # shown when the test fails
    return random.Random(seed)


def test_fifty_kills_lose_nothing(
    release_directory: Path, tmp_path: Path, written: list[Character], rng: random.Random
) -> None:
    home, ledger, version, versions = Home(tmp_path / "home"), Ledger(), 0, set()
    home.directory.mkdir()
    home.install(release_directory)
    # A process of its own for each agent, forked from one that has imported all of it.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fedhw_client.agent.agent_process"])
    for number in range(ROUNDS):
        agent = context.Process(target=run, args=(Settings(home), str))
        agent.start()
        if number % 10 == 9:
            time.sleep(rng.uniform(0, 0.2))  # it may not even have started
        else:
            with open_channel(home.directory) as channel:
                _stream_until_killed(agent, channel, version, ledger, written, rng, number % 4 == 0)
        agent.kill()
        agent.join(PATIENCE)
        assert agent.exitcode == -signal.SIGKILL
        version = ledger.check(home.database)
        versions.add(version)
    assert len(ledger.acknowledged) > 8
    assert version > 0
    assert len(versions) > 5


def _stream_until_killed(
    agent: BaseProcess,
    channel: grpc.Channel,
    version: int,
    ledger: Ledger,
    written: list[Character],
    rng: random.Random,
    learning: bool,
) -> None:
    """Kill it soon, or when it has just learned."""
    grpc.channel_ready_future(channel).result(PATIENCE)
    stub = pb_grpc.DeviceStub(channel)
    status = stub.GetStatus(pb.GetStatusRequest()).status
    assert (status.kept, list(status.notices)) == (min(len(ledger.acknowledged), CAPACITY), [])
    (answer,) = stub.Recognize(iter([written[0].question()]))
    # What was never learned may have been by now.
    assert answer.personal_version in ((version,) if version else (0, 1))
    assert answer.HasField("local_expert") == (answer.personal_version > 0)
    delay = rng.uniform(0, 0.01 if learning else 0.15)

    def kill() -> None:
        end = time.monotonic() + 6
        while learning and time.monotonic() < end:
            if stub.GetStatus(pb.GetStatusRequest()).status.personal_version != version:
                break  # a new mixture is in use, and about to be stored
            time.sleep(0.002)
        time.sleep(delay)
        agent.kill()

    killing = threading.Thread(target=kill)
    killing.start()
    ledger.stream(stub, written, rng)
    killing.join(PATIENCE)


def test_the_program_is_killed_and_started_again(
    launch: Launch, tmp_path: Path, written: list[Character], rng: random.Random
) -> None:
    home, ledger = tmp_path / "home", Ledger()
    with launch(home) as agent, agent.stub() as stub:
        streaming = threading.Thread(target=ledger.stream, args=(stub, written, rng))
        streaming.start()
        until(lambda: len(ledger.acknowledged) >= 20)
        agent.kill()
        streaming.join(PATIENCE)
        assert agent.process.returncode == -signal.SIGKILL
    assert (home / "agent.sock").is_socket()
    ledger.check(home / "device.db")
    with launch(home) as agent, agent.connect() as device:
        assert device.status().kept == len(ledger.acknowledged)
        device.learn(*written[0])
        until(lambda: device.status().personal_version > 0)
        assert device.recognize(written[0].glyph).HasField("local_expert")
        assert agent.said.count("\n") == 1  # where it listens, and no notice


def test_a_polite_end_while_a_client_streams(
    launch: Launch, tmp_path: Path, written: list[Character], rng: random.Random
) -> None:
    home, ledger = tmp_path / "home", Ledger()
    with launch(home) as agent, agent.stub() as stub:
        streaming = threading.Thread(target=ledger.stream, args=(stub, written, rng))
        # One who only listens must not hold it up.
        watching = stub.WatchStatus(pb.WatchStatusRequest())
        next(watching)
        streaming.start()
        until(lambda: len(ledger.acknowledged) >= 20)
        began = time.monotonic()
        assert agent.stop() == 0
        assert time.monotonic() - began < 10
        streaming.join(PATIENCE)
        assert not streaming.is_alive()
        assert '"stopped"' in agent.logged
    ledger.check(home / "device.db")
    assert not (home / "device.db-wal").exists()  # all of it is in the one file
