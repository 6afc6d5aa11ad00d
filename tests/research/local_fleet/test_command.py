"""The whole fleet as a newcomer starts it: a real command, its real processes, and none of them."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import tempfile
import termios
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from fedhw.data.npz import save_npz
from fedhw.data.writers import WriterSet
from fedhw.personalization.method import extract_features
from fedhw.release.release import Release
from fedhw.research.local_fleet.fleet_view import FleetView, gain_of
from fedhw.research.local_fleet.local_fleet import DeviceLook, Look, Share, WindowLook
from fedhw_client.commands.replay_writer import characters_of
from fedhw_server.store.fleet import Fleet
from tests.waiting import PATIENCE, until

pytestmark = pytest.mark.superlink

WRITTEN = 48
"""Characters of each writer."""

MARK = "FEDHW_TEST_OF_THE_FLEET"


class Command:
    """`fedhw fleet` with two devices, and whatever it starts."""

    def __init__(self, temporary: Path, *options: object, terminal: int | None = None) -> None:
        self.temporary = temporary
        self._mark = uuid.uuid4().hex
        self._said = tempfile.TemporaryFile()  # noqa: SIM115
        self._complained = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fedhw", "fleet", "--devices", "2", *map(str, options)],
            stdin=terminal,
            stdout=self._said if terminal is None else terminal,
            stderr=self._complained,
            env=os.environ | {MARK: self._mark, "TMPDIR": str(temporary), "TERM": "xterm"},
            start_new_session=True,
        )

    @property
    def said(self) -> str:
        return os.pread(self._said.fileno(), 2**20, 0).decode()

    @property
    def complained(self) -> str:
        return os.pread(self._complained.fileno(), 2**20, 0).decode()

    def processes(self) -> dict[int, str]:
        """All that runs now because of it: command lines by process number."""
        found = {}
        for place in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has ended meanwhile
                if self._mark.encode() in (place / "environ").read_bytes():
                    command = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    found[int(place.name)] = command
        return found

    def ended(self) -> int:
        return self.process.wait(PATIENCE)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


Start = Callable[..., Command]


@pytest.fixture
def start(tmp_path: Path, release_directory: Path, unseen_writers: WriterSet) -> Iterator[Start]:
    """Starts a fleet on short texts; whatever it has started is gone after the test."""
    rows = [unseen_writers.rows_of(writer)[:WRITTEN] for writer in (1, 4)]
    save_npz(tmp_path / "writers.npz", unseen_writers.take(np.concatenate(rows)))
    started = []
    # Its path is short enough for sockets.
    with tempfile.TemporaryDirectory() as temporary:

        def starting(*options: object, terminal: int | None = None) -> Command:
            given = ("--release", release_directory, "--data", tmp_path / "writers.npz")
            started.append(Command(Path(temporary), *given, *options, terminal=terminal))
            return started[-1]

        yield starting
        for command in started:
            command.kill()
            until(lambda command=command: not command.processes())


def test_it_writes_everything_and_says_what_is_true(start, tmp_path, release, unseen_writers):
    # Six seconds of writing, more than a window: a device does not report the one that it joins in.
    command = start("--rate", 8, "--window", 4, "--json", tmp_path / "figures.json")
    assert command.ended() == 0, command.complained
    assert command.complained == ""
    assert command.processes() == {}
    assert list(command.temporary.iterdir()) == []
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["failures"] == []
    assert figures["rounds"] >= 1
    for device in figures["devices"]:
        assert (device["written"], device["running"]) == (WRITTEN, figures["release"])
        assert device["online"]
        assert device["ge_right"] == right_by(release, unseen_writers, device["writer"])
        assert device["right"] > 0
        assert device["reports"] >= 1
        assert device["epsilon"] >= 1000
        assert f"{device['name']} has written everything\n" in command.said
        shares = (100 * device[name] / WRITTEN for name in ("ge_right", "right"))
        row = rf"{device['name']} .* {WRITTEN}/{WRITTEN} .*" + "{:.0f} → {:.0f} %".format(*shares)
        assert re.search(row, command.said), command.said
    assert {device["writer"] for device in figures["devices"]} == {
        unseen_writers.names[writer] for writer in (1, 4)
    }
    true = [window for window in figures["windows"] if window["true"] is not None]
    assert true
    for window in true:
        assert window["cohort"] == 2
        assert window["low"] <= window["true"] <= window["high"]
        # Ten standard deviations of the noise, were all active.
        assert abs(window["estimate"] - window["true"]) < 0.3
        assert f"truly {100 * window['true']:+.1f}\n" in command.said
    assert "\x1b" not in command.said


def right_by(release: Release, writers: WriterSet, name: str) -> int:
    """How many of a writer's characters the global expert has right, all at once."""
    characters = characters_of(writers, name)
    scores = extract_features(release.expert, characters.observations[None, :WRITTEN]).scores[0]
    return int((scores.argmax(-1).numpy() == characters.labels[:WRITTEN]).sum())


def test_control_c_in_a_terminal_ends_everything(start):
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    os.set_blocking(ours, False)
    shown = bytearray()

    def read() -> bytes:
        with suppress(BlockingIOError):
            shown.extend(os.read(ours, 2**16))
        return bytes(shown)

    command = start("--rate", 1, terminal=theirs)
    until(lambda: all(f"device-{n} runs v1".encode() in read() for n in (1, 2)))
    assert len(command.processes()) == 6  # itself, the coordinator's three, two agents
    command.process.send_signal(signal.SIGINT)
    until(lambda: command.process.poll() is not None or (read() and False))
    assert command.ended() == 0, command.complained
    assert command.processes() == {}
    assert list(command.temporary.iterdir()) == []
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", read().decode())
    assert max(len(line) for line in re.split(r"[\r\n]+", text)) <= 80
    *_, summary = text.split("ending every process")
    assert re.search(r"device-1 +\S+ +yes", summary), summary
    assert command.complained == ""
    for end in (ours, theirs):
        os.close(end)


def test_what_fails_is_named_and_the_rest_goes_on(start):
    with tempfile.TemporaryDirectory() as place:
        home = Path(place) / "home"
        command = start("--home", home, "--rate", 8)
        until(lambda: "device-1 writes" in command.said and "device-2 writes" in command.said)
        [agent] = [
            number
            for number, line in command.processes().items()
            if str(home / "devices" / "device-1") in line
        ]
        os.kill(agent, signal.SIGKILL)
        until(lambda: "device-1 failed: it was ended by SIGKILL" in command.said)
        until(lambda: "device-2 has written everything" in command.said)
        command.process.terminate()
        assert command.ended() == 1
        assert command.complained == "device-1: it was ended by SIGKILL\n"
        assert command.processes() == {}
        # It was asked for, so it stays.
        fleet = Fleet(home / "coordinator" / "fleet.db")
        assert [device.state for device in fleet.members.all()] == ["enrolled", "enrolled"]
        fleet.close()
        again = start("--home", home)
        assert again.ended() == 2
        assert again.complained == (
            f"fedhw: home: {home} holds something already; give a new directory\n"
        )


def test_nothing_outlives_it_even_when_it_is_killed(start):
    command = start("--rate", 1)
    until(lambda: "device-1 writes" in command.said)
    assert len(command.processes()) == 6
    command.kill()
    until(lambda: not command.processes())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--devices", 100_000), "devices: 100000 and a coordinator need about 40,000,900 MiB"),
        (("--devices", 3), "writers: 3 cannot be drawn from the 2"),
        (("--epsilon", 5000), "epsilon: 5000 is out of range"),
        (("--data", "emnist:letters"), "data: emnist:letters names no writers"),
        (("--data", "paper.pdf"), "data: 'paper.pdf' is not a source"),
        (("--release", "nowhere"), "release: nowhere/manifest.json does not exist"),
        (("--json", "/tmp"), "json: /tmp is a directory"),
        (("--home", f"/tmp/{'x' * 100}"), f"home: /tmp/{'x' * 100}/devices/device-1 is too long"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(start, options, sentence):
    command = start(*options)
    assert command.ended() == 2
    assert command.complained.startswith(f"fedhw: {sentence}"), command.complained
    assert command.complained.count("\n") == 1
    assert command.processes() == {}
    if "--home" in options:
        Path(options[1]).rmdir()


def device(name: str, **changes: object) -> DeviceLook:
    nothing = DeviceLook(name, "bo", "invited", False, "", 0, 9, Share(), Share(), 0, 0.0, None)
    return nothing._replace(**changes)


def window(number: int, cohort: int, true: float | None = 0.05) -> WindowLook:
    return WindowLook(number, cohort, 0.0312, -0.1, 0.2, true)


def test_a_window_is_told_of_once_and_when_all_have_reported(capsys):
    view = FleetView(20)
    two = [device("device-1"), device("device-2")]
    look = Look("v1-0123abcd", 0, two, [window(7, 1)], None)
    view.show(look)
    assert capsys.readouterr().out == ""
    view.show(look._replace(windows=[window(7, 2)]))
    view.show(look._replace(windows=[window(7, 2), window(8, 1)]))
    [line] = capsys.readouterr().out.splitlines()
    assert line.endswith("2 reports, gain +3.1 points (99 %: -10.0 to +20.0), truly +5.0")
    # The second device is gone, so nobody else will report.
    lost = [two[0], device("device-2", failure="it was ended by SIGKILL")]
    view.show(look._replace(devices=lost, windows=[window(7, 2), window(8, 1, None)]))
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "device-2 failed: it was ended by SIGKILL"
    assert told[1].endswith("1 reports; nobody wrote")
    assert gain_of(window(1, 2, None)) == "2 reports; nobody wrote"


def test_what_is_new_of_a_device_is_told_once(capsys):
    view = FleetView(20)
    looks = [
        device("device-1"),
        device("device-1", state="enrolled"),
        device("device-1", state="enrolled", written=1),
        device("device-1", state="enrolled", written=1, running="v1-0123abcd"),
        device("device-1", state="enrolled", written=9, running="v1-0123abcd"),
        device("device-1", state="enrolled", written=9, running="v2-0123abcd"),
    ]
    for look in looks:
        for _ in range(2):
            view.show(Look("v1-0123abcd", 0, [look], [], None))
    assert capsys.readouterr().out.splitlines() == [
        "device-1 has enrolled",
        "device-1 writes",
        "device-1 runs v1-0123abcd",
        "device-1 has written everything",
        "device-1 runs v2-0123abcd",
    ]
