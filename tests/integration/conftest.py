"""Real coordinators and agents: each a process of its own, in a home of its own."""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from fedhw.data.writers import WriterSet
from fedhw.invitation import Invitation
from fedhw.v1 import device_pb2 as pb
from fedhw.v1 import device_pb2_grpc as pb_grpc
from fedhw_client import Device, connect
from fedhw_server.store.fleet import Fleet
from fedhw_server.store.members import Member
from tests.command_line import is_one_sentence
from tests.waiting import PATIENCE, free_port, until


class Character(NamedTuple):
    """What somebody wrote, uint8 [28, 28], and what it is."""

    glyph: NDArray[np.uint8]
    label: str

    def correction(self, id: str = "") -> pb.LearnRequest:
        return pb.LearnRequest(glyph=pb.Glyph(image=self.glyph.tobytes()), label=self.label, id=id)

    def question(self) -> pb.RecognizeRequest:
        return pb.RecognizeRequest(glyph=pb.Glyph(image=self.glyph.tobytes()))


class FedhwProcess:
    """`fedhw` with some arguments; `network` is the command that runs it in another one."""

    program: tuple[str, ...] = ("-m", "fedhw")

    def __init__(
        self, *arguments: object, network: Sequence[str] = (), environment: dict[str, str]
    ) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115
        self._logged = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            [*network, sys.executable, *self.program, *map(str, arguments)],
            stdout=self._said,
            stderr=self._logged,
            env=os.environ | environment,
        )

    @property
    def said(self) -> str:
        """Standard output until now."""
        return _content(self._said)

    @property
    def logged(self) -> str:
        """Standard error until now."""
        return _content(self._logged)

    def until_ready(self) -> None:
        until(lambda: '"ready"' in self.logged or self.process.poll() is not None)
        assert self.process.poll() is None, self.logged

    def ended(self) -> int:
        """The exit code, once it has ended."""
        return self.process.wait(PATIENCE)

    def stop(self) -> int:
        self.process.terminate()
        return self.ended()

    def kill(self) -> None:
        self.process.kill()
        self.ended()


class AgentProcess(FedhwProcess):
    """`fedhw client` with a home."""

    def __init__(
        self, home: Path, *options: object, network: Sequence[str] = (), **environment: str
    ) -> None:
        self.home = home
        super().__init__(
            "client", "--home", home, *options, network=network, environment=environment
        )

    def port(self, of: str) -> int:
        """The port that it says it listens on."""
        found = re.search(rf"^{of}: .*127\.0\.0\.1:(\d+)", self.said, re.MULTILINE)
        assert found is not None, self.said
        return int(found[1])

    def resident_mib(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    def connect(self) -> Device:
        return connect(self.home)

    @contextmanager
    def channel(self) -> Iterator[grpc.Channel]:
        with open_channel(self.home) as channel:
            yield channel

    @contextmanager
    def stub(self) -> Iterator[Any]:
        """The service without the library between."""
        with self.channel() as channel:
            yield pb_grpc.DeviceStub(channel)


class CoordinatorProcess(FedhwProcess):
    """`fedhw server` with a home; its ports stay the same when it is started `again`."""

    def __init__(
        self,
        home: Path,
        *options: object,
        host: str = "127.0.0.1",
        ports: Sequence[int] = (),
        network: Sequence[str] = (),
    ) -> None:
        self.home = home
        self.host = host
        self.network = network
        self.ports = ports or [free_port() for _ in range(3)]
        self._options = options
        named = zip(("--port", "--flower-port", "--metrics-port"), self.ports, strict=True)
        places = [part for pair in named for part in pair]
        super().__init__(
            *("server", "--home", home, "--host", host, *places, *options),
            network=network,
            environment={},
        )

    @property
    def metrics_port(self) -> int:
        return self.ports[2]

    def again(self) -> Self:
        """Start another one in this one's place, which has ended."""
        place = {"host": self.host, "ports": self.ports, "network": self.network}
        return type(self)(self.home, *self._options, **place)

    def command(self, name: str, *arguments: object) -> str:
        """What `fedhw server NAME` prints."""
        command = [*self.program, "server", name, "--home", self.home, *arguments]
        done = subprocess.run(
            [sys.executable, *map(str, command)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def invite(self, name: str, **changes: Any) -> Path:
        """The file for a new device, with some of it changed."""
        path = self.home.with_name(f"{name}.enroll")
        path.write_text(self.command("enroll", name), encoding="utf-8")
        path.write_text(replace(Invitation.load(path), **changes).to_json(), encoding="utf-8")
        return path

    @contextmanager
    def fleet(self) -> Iterator[Fleet]:
        """What it knows."""
        with closing(Fleet(self.home / "fleet.db")) as fleet:
            yield fleet

    def devices(self) -> dict[str, Member]:
        with self.fleet() as fleet:
            return {device.name: device for device in fleet.members.all()}

    def part(self, name: str) -> int:
        """The process that was last started as this part."""
        started = [json.loads(line) for line in self.logged.splitlines()]
        return [line["pid"] for line in started if line.get("part") == name and "pid" in line][-1]

    def until_all(self, adoption: str, release: str, *names: str, seconds: float = 180.0) -> None:
        """Wait until these devices, or all that are enrolled, run a release and say so."""

        def agree() -> bool:
            devices = self.devices()
            asked = names or [name for name, one in devices.items() if one.state == "enrolled"]
            return all(
                (devices[name].adoption, devices[name].running) == (adoption, release)
                for name in asked
            )

        until(agree, seconds)

    def until_running(self, release: str, *names: str, seconds: float = 180.0) -> None:
        self.until_all("running", release, *names, seconds=seconds)


Launch = Callable[..., AbstractContextManager[AgentProcess]]
Refusal = Callable[..., str]


def open_channel(home: Path) -> grpc.Channel:
    # Channels to one address share a connection unless told otherwise.
    options = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.initial_reconnect_backoff_ms", 20),
        ("grpc.min_reconnect_backoff_ms", 20),
        ("grpc.max_reconnect_backoff_ms", 20),
        ("grpc.max_send_message_length", -1),
    ]
    return grpc.insecure_channel(f"unix:{home / 'agent.sock'}", options)


def _content(file: Any) -> str:
    return os.pread(file.fileno(), 2**24, 0).decode()


@pytest.fixture(scope="session")
def launch(release_directory: Path) -> Launch:
    """Runs an agent, ready to be asked, as long as a `with` block lasts."""

    @contextmanager
    def launched(home: Path, *options: object, **environment: str) -> Iterator[AgentProcess]:
        agent = AgentProcess(home, "--release", release_directory, *options, **environment)
        try:
            agent.until_ready()
            yield agent
        finally:
            agent.kill()

    return launched


@pytest.fixture(scope="session")
def refusal() -> Refusal:
    """Runs an agent that must not start, and returns the one sentence it ends with."""

    def refused(home: Path, *options: object) -> str:
        agent = AgentProcess(home, *options)
        try:
            assert agent.ended() == 2, agent.logged
        finally:
            agent.kill()
        *log, last = agent.logged.splitlines()
        assert all(json.loads(line)["event"] == "stopped" for line in log), agent.logged
        assert is_one_sentence(last), agent.logged
        assert last.startswith("fedhw: ")
        return last.removeprefix("fedhw: ")

    return refused


@pytest.fixture(scope="session")
def written(unseen_writers: WriterSet) -> list[Character]:
    """What one person writes, in order."""
    rows = unseen_writers.rows_of(0)
    labels = (unseen_writers.classes[unseen_writers.labels[row]] for row in rows)
    return [
        Character(*pair) for pair in zip(unseen_writers.observations[rows], labels, strict=True)
    ]
