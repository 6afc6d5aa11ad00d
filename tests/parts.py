"""What some tests need of the machine, and how a test that lacks it says so.

A test is marked `pytest.mark.needs("chromium")`. Where the part is missing the test is skipped with
one line that says how to get it. In CI everything is installed, so there it fails; only the data
beside the repository may be missing.
"""

import os
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.places import SHARED


class Part(NamedTuple):
    """Whether the machine has a part, and what to do where it has not."""

    is_here: Callable[[], bool]
    mend: str


def _program(name: str, package: str) -> Part:
    return Part(lambda: shutil.which(name) is not None, f"apt-get install {package}")


@cache
def _may_make_networks() -> bool:
    name = f"fedhw-{os.getpid()}-may"
    made = [
        subprocess.run(["ip", "netns", action, name], check=False, capture_output=True)
        for action in ("add", "delete")
    ]
    return all(one.returncode == 0 for one in made)


PROGRAMS = Path(__file__).with_name("parts.txt")
"""Each program that a test runs, and the Debian package that has it."""

PARTS = {
    **{
        name: _program(name, package)
        for name, package in map(str.split, PROGRAMS.read_text("ascii").splitlines())
    },
    "network namespaces": Part(_may_make_networks, "run as root, who may make them"),
}


def need(name: str) -> None:
    """Skip the test where a part is missing; fail it in CI."""
    part = PARTS[name]
    if not part.is_here():
        lack(name, part.mend)


def need_data(path: Path) -> None:
    """Skip the test where data beside the repository is missing, in CI, too."""
    if not path.exists():
        pytest.skip(f"{path.name} is missing: put it into {SHARED}")


def lack(name: str, mend: str) -> None:
    """Skip the test for something that turned out to be missing; fail it in CI."""
    line = f"{name} is missing: {mend}"
    if os.environ.get("CI") == "true":
        pytest.fail(f"{line}; in CI it must be there", pytrace=False)
    pytest.skip(line)
