"""Real agents: each a process of its own, in a home of its own, reached over its socket."""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from fedhw.data.writers import WriterSet
from fedhw.v1 import device_pb2 as pb
from fedhw.v1 import device_pb2_grpc as pb_grpc
from fedhw_client import Device, connect

PATIENCE = 60.0
"""Seconds that anything may take on a busy machine."""


class Character(NamedTuple):
    """What somebody wrote, uint8 [28, 28], and what it is."""

    glyph: NDArray[np.uint8]
    label: str

    def correction(self, id: str = "") -> pb.LearnRequest:
        return pb.LearnRequest(glyph=pb.Glyph(image=self.glyph.tobytes()), label=self.label, id=id)

    def question(self) -> pb.RecognizeRequest:
        return pb.RecognizeRequest(glyph=pb.Glyph(image=self.glyph.tobytes()))


class AgentProcess:
    """`fedhw client` with a home."""

    program: tuple[str, ...] = ("-m", "fedhw.cli")

    def __init__(self, home: Path, *options: object, **environment: str) -> None:
        self.home = home
        self._said = tempfile.TemporaryFile()  # noqa: SIM115
        self._logged = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, *self.program, "client", "--home", home, *map(str, options)],
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


def until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait for what must come."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it has not come"
        time.sleep(0.01)


def is_one_sentence(text: str) -> bool:
    return re.fullmatch(r"[a-z][^\n]{20,}[^\n.]", text) is not None and "Traceback" not in text


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
    labels = (unseen_writers.alphabet[unseen_writers.labels[row]] for row in rows)
    return [Character(*pair) for pair in zip(unseen_writers.images[rows], labels, strict=True)]
