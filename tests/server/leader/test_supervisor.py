import itertools
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from fedhw_server.leader import supervisor
from fedhw_server.leader.supervisor import Part
from tests.waiting import PATIENCE, until

SLEEPER = [sys.executable, "-c", "print('here', flush=True); import time; time.sleep(600)"]


def make(tmp_path, *code, name="part"):
    command = [sys.executable, "-c", *code] if code else SLEEPER
    return Part(name, command, os.environ, tmp_path / f"{name}.log")


def said(tmp_path):
    log = tmp_path / "part.log"
    return log.read_text() if log.exists() else ""


def lives(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_it_runs_until_it_is_cancelled(loop, tmp_path):
    part = make(tmp_path)
    assert not part.is_up
    with loop.lasting(part.keep()):
        until(lambda: part.is_up)
        pid = part.pid
        assert lives(pid)
        assert (part.starts, part.restarts) == (1, 0)
    assert not part.is_up
    assert not lives(pid)


def test_it_is_started_again_after_a_kill(loop, tmp_path):
    part = make(tmp_path)
    with loop.lasting(part.keep()):
        for starts in (1, 2):
            until(lambda: said(tmp_path) == "here\n" * starts)  # noqa: B023
            first = part.pid
            os.kill(first, signal.SIGKILL)
        until(lambda: said(tmp_path) == "here\n" * 3)
        assert part.is_up
        assert part.restarts == 2
        assert part.pid != first


def test_the_pauses_double(loop, tmp_path):
    part = make(tmp_path, "import time; print(time.time(), flush=True)")
    with loop.lasting(part.keep()):
        until(lambda: said(tmp_path).count("\n") >= 4)
    starts = [float(line) for line in (tmp_path / "part.log").read_text().split()[:4]]
    pauses = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert all(pause > wanted for pause, wanted in zip(pauses, (0.45, 0.95, 1.95), strict=True))


def test_one_that_cannot_be_started_is_tried_again(loop, tmp_path):
    program = tmp_path / "program"
    part = Part("part", [str(program)], os.environ, tmp_path / "part.log")
    with loop.lasting(part.keep()):
        time.sleep(0.2)
        assert part.starts == 0
        program.write_text("#!/bin/sh\nexec sleep 600\n")
        program.chmod(0o700)
        until(lambda: part.is_up)


def test_one_that_does_not_want_to_end_is_killed(loop, tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "STOP_GRACE_SECONDS", 0.2)
    code = """\
        import signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("deaf", flush=True)
        time.sleep(600)
        """
    part = make(tmp_path, textwrap.dedent(code))
    with loop.lasting(part.keep()):
        until(lambda: said(tmp_path) == "deaf\n")
        pid = part.pid
    assert not lives(pid)
    assert part.exit_code == -signal.SIGKILL


def test_a_log_never_grows_too_long(loop, tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "LARGEST_LOG_BYTES", 20_000)
    monkeypatch.setattr(supervisor, "LOG_CHECK_SECONDS", 0.05)
    code = "import time\nwhile True: print('x' * 999, flush=True); time.sleep(0.001)"
    part = make(tmp_path, code)
    log = tmp_path / "part.log"
    with loop.lasting(part.keep()):
        until(lambda: log.exists() and log.stat().st_size > 20_000)
        until(lambda: log.stat().st_size < 20_000)
        until(lambda: log.stat().st_size > 0)
        assert set(log.read_text()) <= {"x", "\n"}  # no hole at its start
        assert part.starts == 1


PARENT = """\
import asyncio, os, sys
from pathlib import Path
from fedhw_server.leader.supervisor import Part

child = (
    "import os, time; from fedhw_server.leader.supervisor import die_with_parent;"
    "die_with_parent();"
    "print(os.getpid(), flush=True); time.sleep(600)"
)
part = Part("part", [sys.executable, "-c", child], os.environ, Path(sys.argv[1]))
asyncio.run(part.keep())
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_child_outlives_its_parent(tmp_path, number):
    parent = subprocess.Popen([sys.executable, "-c", PARENT, tmp_path / "part.log"])
    until(lambda: said(tmp_path).endswith("\n"))
    child = int(said(tmp_path))
    assert lives(child)
    parent.send_signal(number)
    parent.wait(PATIENCE)
    until(lambda: not lives(child))


def test_a_child_whose_parent_is_gone_does_not_start():
    code = (
        "from fedhw_server.leader.supervisor import die_with_parent;"
        "die_with_parent(); print('alive')"
    )
    orphan = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, supervisor.PARENT: "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert orphan.returncode == 1
    assert orphan.stdout == ""
    assert orphan.stderr == "the coordinator has ended already\n"
