import os
import signal
import subprocess
import sys
import textwrap
import time

import psutil
import pytest

from fedhw_server import supervisor
from fedhw_server.supervisor import Part
from tests.server.conftest import PATIENCE, until

SLEEPER = [sys.executable, "-c", "print('here', flush=True); import time; time.sleep(600)"]


def make(tmp_path, *code, name="part"):
    command = [sys.executable, "-c", *code] if code else SLEEPER
    return Part(name, command, os.environ, tmp_path / f"{name}.log")


def test_it_runs_until_it_is_cancelled(loop, tmp_path):
    part = make(tmp_path)
    assert not part.is_up
    with loop.lasting(part.keep()):
        until(lambda: part.is_up)
        pid = part._process.pid
        assert psutil.pid_exists(pid)
        assert (part.starts, part.restarts) == (1, 0)
    assert not part.is_up
    assert not psutil.pid_exists(pid)


def test_it_is_started_again_after_a_kill(loop, tmp_path):
    part = make(tmp_path)
    with loop.lasting(part.keep()):
        for restarts in range(2):
            until(lambda: part.is_up and part.restarts == restarts)  # noqa: B023
            first = part._process.pid
            part._process.kill()
        until(lambda: part.is_up and part.restarts == 2)
        assert part._process.pid != first
        until(lambda: (tmp_path / "part.log").read_text() == "here\n" * 3)


def test_the_pauses_double(loop, tmp_path):
    part = make(tmp_path, "import time; print(time.time(), flush=True)")
    with loop.lasting(part.keep()):
        until(lambda: part.starts >= 4)
    starts = [float(line) for line in (tmp_path / "part.log").read_text().split()[:4]]
    pauses = [later - earlier for earlier, later in zip(starts, starts[1:], strict=False)]
    assert all(
        pause > wanted for pause, wanted in zip(pauses, (0.45, 0.95, 1.95), strict=True)
    )


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
    monkeypatch.setattr(supervisor, "GRACE", 0.2)
    code = """\
        import signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("deaf", flush=True)
        time.sleep(600)
        """
    part = make(tmp_path, textwrap.dedent(code))
    with loop.lasting(part.keep()):
        until(lambda: "deaf" in (tmp_path / "part.log").read_text())
        pid = part._process.pid
    assert not psutil.pid_exists(pid)
    assert part._process.returncode == -signal.SIGKILL


def test_a_log_that_is_too_long_is_begun_anew(loop, tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "LARGEST_LOG", 10)
    (tmp_path / "part.log").write_text("long ago, long ago")
    with loop.lasting(make(tmp_path).keep()):
        until(lambda: (tmp_path / "part.log").read_text() == "here\n")
    assert (tmp_path / "part.old.log").read_text() == "long ago, long ago"


PARENT = """\
import asyncio, os, sys
from pathlib import Path
from fedhw_server.supervisor import Part

child = (
    "import os, time; from fedhw_server.supervisor import die_with_parent; die_with_parent();"
    "print(os.getpid(), flush=True); time.sleep(600)"
)
part = Part("part", [sys.executable, "-c", child], os.environ, Path(sys.argv[1]))
asyncio.run(part.keep())
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_child_outlives_its_parent(tmp_path, number):
    log = tmp_path / "part.log"
    parent = subprocess.Popen([sys.executable, "-c", PARENT, log])
    until(lambda: log.exists() and log.read_text())
    child = psutil.Process(int(log.read_text()))
    parent.send_signal(number)
    parent.wait(PATIENCE)
    until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_a_child_whose_parent_is_gone_does_not_start():
    code = "from fedhw_server.supervisor import die_with_parent; die_with_parent(); print('alive')"
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
