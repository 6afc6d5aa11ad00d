"""Replays a writer's characters through an agent: recognise, then correct, one by one.

The agent runs in its own process and home, so the user's own data is not touched. Accuracy is
prequential (Dawid 1984): each character is tested before it is learned from.
"""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np

from fedhw.data.writers import WriterSet
from fedhw.errors import InputError
from fedhw.system.clock import Clock, SystemClock
from fedhw_client.connection import AgentMissingError, Device, connect

START_TIMEOUT_SECONDS = 120.0
"""Seconds that an agent has to start."""

POLL_SECONDS = 0.05
"""Seconds between two checks whether it has started."""


@dataclass(frozen=True)
class Milliseconds:
    """Quantiles of a latency."""

    p50: float
    p99: float

    @classmethod
    def of(cls, seconds: list[float]) -> "Milliseconds":
        """Take the quantiles of durations in seconds."""
        p50, p99 = np.quantile(np.array(seconds) * 1e3, [0.5, 0.99])
        return cls(float(p50), float(p99))


@dataclass(frozen=True)
class Outcome:
    """The result of a replay; `rss_mb` is the agent's resident memory at the end, in MiB."""

    writer: str
    samples: int
    ge_accuracy: float
    moe_accuracy: float
    recognize_ms: Milliseconds
    learn_ack_ms: Milliseconds
    rss_mb: float

    def as_rows(self) -> list[tuple[str, str]]:
        """Return the names and the texts of the figures that are shown."""
        times = (("recognise", self.recognize_ms), ("correct", self.learn_ack_ms))
        return [
            ("characters", f"{self.samples}"),
            ("global expert alone", f"{self.ge_accuracy:.1%}"),
            ("with local expert and gate", f"{self.moe_accuracy:.1%}"),
            *(
                (f"to {name}, median and p99", f"{took.p50:.2f} and {took.p99:.2f} ms")
                for name, took in times
            ),
            ("agent's memory", f"{self.rss_mb:.0f} MiB"),
        ]


def characters_of(writers: WriterSet, name: str) -> WriterSet:
    """Return one writer's characters in order; raises InputError for an unknown writer."""
    if name not in writers.names:
        known = ", ".join(sorted(writers.names)[:5])
        raise InputError(f"writer: {name!r} is not in the file; use a name such as {known}")
    return writers.take(writers.rows_of(list(writers.names).index(name)))


def replay_writer(
    characters: WriterSet,
    writer: str,
    rate: float,
    release: Path,
    after: Callable[[int], object],
    clock: Clock = SystemClock(),
) -> Outcome:
    """Replay characters through a new agent, `rate` a second, or as fast as it answers for 0.

    `after` is called with the number of characters so far.
    """
    recognized, acknowledged = [], []
    ge_right = right = 0
    with (
        tempfile.TemporaryDirectory(prefix="fedhw-") as place,
        running_agent(Path(place), release, clock) as (device, process),
    ):
        began = clock.monotonic()
        for number, (observation, label) in enumerate(
            zip(characters.observations, characters.labels, strict=True)
        ):
            if rate:
                clock.sleep(max(0.0, began + number / rate - clock.monotonic()))
            truth = characters.classes[label]
            asked = clock.monotonic()
            answer = device.recognize(observation)
            answered = clock.monotonic()
            device.learn(observation, truth)
            acknowledged.append(clock.monotonic() - answered)
            recognized.append(answered - asked)
            ge_right += answer.global_expert.label == truth
            right += answer.label == truth
            after(number + 1)
        memory = resident_memory(process.pid)
    total = len(characters)
    return Outcome(
        writer=writer,
        samples=total,
        ge_accuracy=ge_right / total,
        moe_accuracy=right / total,
        recognize_ms=Milliseconds.of(recognized),
        learn_ack_ms=Milliseconds.of(acknowledged),
        rss_mb=memory,
    )


@contextmanager
def running_agent(
    home: Path, release: Path, clock: Clock = SystemClock()
) -> Iterator[tuple[Device, "subprocess.Popen[bytes]"]]:
    """Run an agent in its own process; yields a client of it, and the process."""
    command = [sys.executable, "-m", "fedhw", "client", "--home", str(home)]
    with (home / "agent.log").open("w+", encoding="utf-8") as said:
        process = subprocess.Popen(
            [*command, "--release", str(release)], stdout=subprocess.DEVNULL, stderr=said
        )
        try:
            with connect(home) as device:
                _await(device, process, said, clock)
                yield device, process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def _await(device: Device, process: "subprocess.Popen[bytes]", said: TextIO, clock: Clock) -> None:
    deadline = clock.monotonic() + START_TIMEOUT_SECONDS
    while True:
        try:
            device.status()
            return
        except AgentMissingError:
            if process.poll() is not None:
                said.seek(0)
                *_, last = ["", *said.read().splitlines()]
                raise InputError(last.removeprefix("fedhw: ")) from None
            if clock.monotonic() > deadline:
                raise
            clock.sleep(POLL_SECONDS)


def resident_memory(pid: int) -> float:
    """Return the resident memory of a process in MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
