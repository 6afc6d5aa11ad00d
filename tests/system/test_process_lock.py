"""Outputs are written in turn, whatever became of who wrote before."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from fedhw.system.process_lock import in_turn

FORK = multiprocessing.get_context("fork")


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
