"""A whole fleet on one machine, each part a process of its own as in a real fleet.

The coordinator and the agents are started with the commands that a user would type; agents enrol
with real invitations, and everything talks over TLS. A thread for each device replays what its
writer wrote.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from fedhw.data.writers import WriterSet
from fedhw.errors import InputError
from fedhw.privacy.ledger import Ledger
from fedhw.privacy.statistics import STATISTICS
from fedhw.system.clock import Clock, SystemClock
from fedhw.system.private_files import write_private
from fedhw_client.connection import AgentMissingError, connect
from fedhw_client.fleet.reporter import SPREAD_SHARE
from fedhw_client.store.device_home import Home as DeviceHome
from fedhw_server.leader.supervisor import PARENT
from fedhw_server.store.coordinator_home import Home as ServerHome
from fedhw_server.store.fleet import Fleet
from fedhw_server.store.invitations import invite
from fedhw_server.store.members import Member

AGENT_MIB, COORDINATOR_MIB = 400, 900
"""Memory that each takes; the coordinator has three processes."""

MINIMUM_COHORT = 2
"""The fewest devices whose reports the coordinator shows."""

DELTA = 1e-6
"""Delta of reports."""

RECENT = 50
"""Characters in the recent accuracy."""

START_TIMEOUT_SECONDS = 60.0
"""Seconds in which a part must start."""

STOP_TIMEOUT_SECONDS = 15.0
"""Seconds in which a part must end by itself."""

LATE = 10.0
"""Seconds to wait for late reports."""

WITHOUT_END = "1e9"
"""A budget that no demonstration spends."""

_PROGRAM = (
    "from fedhw_server.leader.supervisor import die_with_parent; die_with_parent(); "
    "from fedhw.cli import main; main()"
)
"""`fedhw`, but the kernel ends it when the process that started it ends."""

_LOW, _HIGH = next((row.low, row.high) for row in STATISTICS if row.name == "gain")


@dataclass(frozen=True)
class Plan:
    """What a fleet does: each of the `writers` writes on a device of its own, in that order.

    They write `rate` characters a second, or without a limit for 0. Reports cover `window` seconds
    and cost `epsilon` each. `release` is the directory of the global expert.
    """

    release: Path
    writers: Mapping[str, WriterSet]
    rate: float
    window: int
    epsilon: float


class Share(NamedTuple):
    """How many characters the global expert alone and the mixture had right, of how many."""

    ge_right: int = 0
    right: int = 0
    of: int = 0

    @property
    def gain(self) -> float:
        """Accuracy of the mixture less that of the global expert."""
        return (self.right - self.ge_right) / self.of


class DeviceLook(NamedTuple):
    """One device at a moment.

    `epsilon` is the total cost of its reports; `failure` says why it has stopped writing.
    """

    name: str
    writer: str
    state: str
    is_online: bool
    running: str
    written: int
    to_write: int
    recent: Share
    overall: Share
    reports: int
    epsilon: float
    failure: str | None


class WindowLook(NamedTuple):
    """A window's estimated gain, with a 99 % interval, and its true gain.

    `true` is the mean over the devices with characters in the window, each clipped as in the
    reports; None where there are none.
    """

    window: int
    cohort: int
    estimate: float
    low: float
    high: float
    true: float | None


class Look(NamedTuple):
    """A fleet at a moment; `failure` says why the coordinator has ended."""

    release: str
    rounds: int
    devices: list[DeviceLook]
    windows: list[WindowLook]
    failure: str | None


def check_memory(devices: int) -> None:
    """Raise InputError where the free memory is too small for that many agents."""
    try:
        content = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:  # the system does not say how much is free
        return
    free = int(content.partition("MemAvailable:")[2].split()[0]) / 1024
    needed = COORDINATOR_MIB + devices * AGENT_MIB
    if needed > free:
        raise InputError(
            f"devices: {devices} and a coordinator need about {needed:,} MiB of memory, and "
            f"{free:,.0f} MiB are free; ask for fewer or free some"
        )


class LocalFleet:
    """Starts a coordinator and the devices of a plan in the directory `home`, and ends them.

    Raises InputError for a home whose path is too long, and when the coordinator does not start.
    """

    def __init__(self, home: Path, plan: Plan, clock: Clock = SystemClock()) -> None:
        self._plan = plan
        self._clock = clock
        self._logs = home / "logs"
        self._stop = threading.Event()
        self._open = ExitStack()
        self._windows: dict[int, WindowLook] = {}
        self._devices: list[_Device] = []
        devices = home / "devices"
        for n in range(1, len(plan.writers) + 1):
            _ = DeviceHome(devices / f"device-{n}").socket  # raises InputError for a long path
        self._logs.mkdir(parents=True)
        self._home = ServerHome(home / "coordinator")
        self._coordinator = _Child(
            self._logs / "coordinator",
            *("server", "--home", self._home.directory),
            *("--port", 0, "--flower-port", 0, "--metrics-port", 0),
            *("--window", plan.window, "--epsilon", plan.epsilon, "--delta", DELTA),
            *("--minimum-cohort", MINIMUM_COHORT),
        )
        try:
            self._await_coordinator()
            self._fleet = Fleet(self._home.database, clock)
            self._open.callback(self._fleet.close)
            self._release = self._home.registry.publish(plan.release)
            for n, (writer, characters) in enumerate(plan.writers.items(), 1):
                place = devices / f"device-{n}"
                self._devices.append(self._start(place, writer, characters))
        except BaseException:
            self.stop()
            raise

    def stop(self) -> list[str]:
        """End every process, the devices first; return what did not end properly."""
        self._stop.set()
        for device in self._devices:
            device.ask_to_end()
        bad = [f"{device.name}: {reason}" for device in self._devices if (reason := device.end())]
        self._coordinator.ask_to_end()
        reason = self._coordinator.end()
        self._open.close()
        return bad if reason is None else [*bad, f"coordinator: {reason}"]

    def look(self) -> Look:
        """Return the state of the fleet, from the coordinator's store and the devices' ledgers."""
        members = {member.name: member for member in self._fleet.members.all()}
        self._look_at_windows()
        return Look(
            release=self._release.name,
            rounds=len(self._fleet.offer_log.all()),
            devices=[device.look(members[device.name]) for device in self._devices],
            windows=[self._windows[window] for window in sorted(self._windows)],
            failure=self._coordinator.ending,
        )

    def is_over(self) -> bool:
        """Whether nothing more will come: all is written and reported, or a part has ended."""
        if self._coordinator.ending is not None:
            return True
        left = [device for device in self._devices if device.failure is None]
        if not self.is_written():
            return False
        last = max((device.written[-1].at for device in left if device.written), default=0.0)
        window = int(last // self._plan.window)
        due = (window + 1 + SPREAD_SHARE) * self._plan.window + LATE
        reported = dict(self._fleet.reports.windows()).get(window, 0)
        return reported >= len(left) or self._clock.wall() > due

    def is_written(self) -> bool:
        """Whether no device has anything left to write."""
        return all(device.is_written or device.failure for device in self._devices)

    def _await_coordinator(self) -> None:
        deadline = self._clock.monotonic() + START_TIMEOUT_SECONDS
        while "\nmetrics: " not in self._coordinator.said:
            if self._coordinator.ending is not None:
                raise InputError(self._coordinator.ending)
            if self._clock.monotonic() > deadline:
                raise InputError(
                    f"coordinator: it has not started in {START_TIMEOUT_SECONDS:.0f} s; "
                    "give the machine less to do"
                )
            self._clock.sleep(0.05)

    def _start(self, place: Path, writer: str, characters: WriterSet) -> "_Device":
        log = self._logs / place.name
        invitation = log.with_suffix(".enroll")
        content = invite(self._home, self._fleet, place.name).to_json()
        write_private(invitation, content.encode())
        agent = _Child(
            log,
            *("client", "--home", place, "--enroll", invitation),
            *("--epsilon-per-day", WITHOUT_END, "--epsilon-in-all", WITHOUT_END),
        )
        rate, stop = self._plan.rate, self._stop
        return _Device(DeviceHome(place), agent, writer, characters, rate, stop, self._clock)

    def _look_at_windows(self) -> None:
        classes = len(self._release.labels)
        for window, cohort in self._fleet.reports.windows():
            known = self._windows.get(window)
            if known is not None and known.cohort == cohort:
                continue
            found = self._fleet.reports.estimates(classes, window)
            if found is None:
                continue
            [gain] = [each for each in found.estimates if each.name == "gain"]
            true = self._true_gain(window * self._plan.window, (window + 1) * self._plan.window)
            self._windows[window] = WindowLook(
                window, found.cohort, gain.mean, *gain.interval(), true
            )

    def _true_gain(self, start: float, end: float) -> float | None:
        shares = [device.share(start, end) for device in self._devices]
        gains = [min(max(share.gain, _LOW), _HIGH) for share in shares if share.of]
        return fmean(gains) if gains else None


class _Written(NamedTuple):
    """A character: when it was corrected, and which guesses were right."""

    at: float
    ge_right: bool
    right: bool


class _Device:
    """A device's agent, and the thread that writes what its writer wrote."""

    def __init__(
        self,
        home: DeviceHome,
        agent: "_Child",
        writer: str,
        characters: WriterSet,
        rate: float,
        stop: threading.Event,
        clock: Clock,
    ) -> None:
        self.name = home.directory.name
        self.written: list[_Written] = []
        self.is_written = False
        self._home = home
        self._agent = agent
        self._writer = writer
        self._characters = characters
        self._clock = clock
        self._refusal: str | None = None
        self._hand = threading.Thread(target=self._write, args=(rate, stop), daemon=True)
        self._hand.start()

    @property
    def failure(self) -> str | None:
        """Why nothing more is written here."""
        return self._agent.ending or self._refusal

    def ask_to_end(self) -> None:
        self._hand.join(STOP_TIMEOUT_SECONDS)
        self._agent.ask_to_end()

    def end(self) -> str | None:
        return self._agent.end()

    def share(self, start: float, end: float) -> Share:
        """Count the characters that were corrected from `start` up to `end`."""
        return _share([one for one in self.written if start <= one.at < end])

    def look(self, member: Member) -> DeviceLook:
        written = self.written.copy()
        failure = self.failure
        reports, epsilon = self._told()
        return DeviceLook(
            name=self.name,
            writer=self._writer,
            state=member.state,
            is_online=member.is_online(self._clock.wall()),
            running=member.running or "",
            written=len(written),
            to_write=len(self._characters),
            recent=_share(written[-RECENT:]),
            overall=_share(written),
            reports=reports,
            epsilon=epsilon,
            failure=failure,
        )

    def _told(self) -> tuple[int, float]:
        """Return how many reports were sent, and the epsilon that is spent."""
        try:
            ledger = Ledger.open(self._home.ledger)
            sent = sum(charge.sent_at is not None for charge in ledger.history())
            return sent, ledger.spent(self._clock.wall()).in_all
        except InputError:  # the agent is just creating it
            return 0, 0.0

    def _write(self, rate: float, stop: threading.Event) -> None:
        try:
            with connect(self._home.directory) as agent:
                while not self._clock.wait(stop, 0.1):
                    try:
                        agent.status()
                        break
                    except AgentMissingError:
                        if self.failure is not None:
                            return
                began = self._clock.monotonic()
                for number, (glyph, label) in enumerate(
                    zip(self._characters.observations, self._characters.labels, strict=True)
                ):
                    due = began + number / rate if rate else 0.0
                    if self._clock.wait(stop, max(0.0, due - self._clock.monotonic())):
                        return
                    truth = self._characters.classes[label]
                    answer = agent.recognize(glyph)
                    agent.learn(glyph, truth)
                    ge_right, right = answer.global_expert.label == truth, answer.label == truth
                    self.written.append(_Written(self._clock.wall(), ge_right, right))
                self.is_written = True
        except (InputError, AgentMissingError) as error:
            # If the agent has ended, how it ended says more than this error.
            if not self._clock.wait(stop, 1.0):
                self._refusal = str(error)


class _Child:
    """A process that runs a command of fedhw, in a session of its own.

    Thus Ctrl+C in the terminal does not reach it, and everything is ended in order. Its standard
    output is in `log`.out, its log in `log`.log.
    """

    def __init__(self, log: Path, *arguments: object) -> None:
        self._said, self._logged = log.with_suffix(".out"), log.with_suffix(".log")
        with self._said.open("wb") as said, self._logged.open("wb") as logged:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=logged,
                env=os.environ | {PARENT: str(os.getpid())},
                start_new_session=True,
            )
        self._is_asked = False

    @property
    def said(self) -> str:
        """Standard output until now."""
        return self._said.read_text(encoding="utf-8")

    @property
    def ending(self) -> str | None:
        """Why it has ended by itself; None if it has not."""
        code = self._process.poll()
        if code is None or self._is_asked:
            return None
        if code <= 0:
            return f"it was ended by {signal.Signals(-code).name}" if code else "it has ended"
        logged = self._logged.read_text(encoding="utf-8").splitlines()
        # Python draws a frame around a group of errors.
        *_, last = ["", *filter(None, (line.strip(" |+-") for line in logged))]
        return last.removeprefix("fedhw: ") or f"it has ended with code {code}"

    def ask_to_end(self) -> None:
        if self._process.poll() is None:
            self._is_asked = True
            self._process.terminate()

    def end(self) -> str | None:
        """Wait for its end; return what went wrong, if anything."""
        try:
            code = self._process.wait(STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return f"it did not end in {STOP_TIMEOUT_SECONDS:.0f} s and was killed"
        # An agent without a release does not handle SIGTERM.
        if self._is_asked and code not in (0, -signal.SIGTERM):
            return f"it has ended with code {code}"
        return None


def _share(written: list[_Written]) -> Share:
    return Share(
        sum(one.ge_right for one in written), sum(one.right for one in written), len(written)
    )
