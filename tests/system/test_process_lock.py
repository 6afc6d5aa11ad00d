"""Outputs are written in turn, whatever became of who wrote before; a home is for one user."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from fedhw.errors import InputError
from fedhw.system.process_lock import in_turn, is_occupied, occupied

FORK = multiprocessing.get_context("fork")

STRANGER = 54321
"""The number of another user."""


def begin(place: Path, work: Callable[[Path, Connection], None]) -> tuple[int, Connection]:
    ours, theirs = FORK.Pipe()
    process = FORK.Process(target=work, args=(place, theirs), daemon=True)
    process.start()
    assert process.pid is not None
    return process.pid, ours


def work(place: Path, told: Connection) -> None:
    with in_turn(place, lambda: told.send("waits")):
        told.send("works")
        told.recv()
    told.send("ends")


def test_the_second_waits_for_the_first(tmp_path: Path) -> None:
    _, first = begin(tmp_path / "out", work)
    assert first.recv() == "works"
    _, second = begin(tmp_path / "out", work)
    _, third = begin(tmp_path / "other" / "out", work)
    assert (second.recv(), third.recv()) == ("waits", "works")
    assert not second.poll()
    for each in (first, third):
        each.send("go on")
    assert [first.recv(), second.recv()] == ["ends", "works"]
    second.send("go on")
    assert (second.recv(), third.recv()) == ("ends", "ends")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_killed_process_keeps_nobody_waiting(tmp_path: Path) -> None:
    number, first = begin(tmp_path / "out", work)
    assert first.recv() == "works"
    os.kill(number, signal.SIGKILL)
    os.waitpid(number, 0)
    assert [path.name for path in tmp_path.iterdir()] == [".out.lock"]
    with in_turn(tmp_path / "out", lambda: None):
        pass
    assert list(tmp_path.iterdir()) == []


def test_an_open_home_is_closed(tmp_path):
    tmp_path.chmod(0o777)
    with occupied(tmp_path, "agent"):
        assert tmp_path.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_the_home_of_another_user_is_refused_and_stays(tmp_path):
    os.chown(tmp_path, STRANGER, STRANGER)
    before = tmp_path.stat().st_mode
    with (
        pytest.raises(InputError, match=r"home: .* is another user's.*--home"),
        occupied(tmp_path, "agent"),
    ):
        pass
    assert tmp_path.stat().st_mode == before
    assert not [*tmp_path.iterdir()]


def test_who_is_in_a_home_is_seen_from_outside(tmp_path):
    assert not is_occupied(tmp_path / "none", "agent")
    with occupied(tmp_path, "agent"):
        assert is_occupied(tmp_path, "agent")
        assert not is_occupied(tmp_path, "coordinator")
    assert not is_occupied(tmp_path, "agent")


def test_the_root_is_no_output():
    told = "out: / cannot be replaced; give a directory in it"
    with pytest.raises(InputError, match=told), in_turn(Path("/"), lambda: None):
        pass
