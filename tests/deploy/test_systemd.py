"""The units as systemd reads them, and how exposed it finds the services."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.places import DEPLOY

UNITS = DEPLOY / "systemd"

pytestmark = pytest.mark.needs("systemd-analyze")


def analyze(*arguments: object, home: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | (
        {} if home is None else {"HOME": str(home), "XDG_RUNTIME_DIR": str(home / "run")}
    )
    return subprocess.run(
        ["systemd-analyze", *map(str, arguments)], capture_output=True, text=True, env=environment
    )


def program(path: Path) -> None:
    """What the unit starts; systemd wants to find it."""
    path.parent.mkdir(parents=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)


def complaints(directory: Path, text: str) -> str:
    """What systemd says of the coordinator's unit: mistakes are warnings, the status is 0."""
    installed = directory / "opt" / "fedhw" / "bin" / "fedhw"
    if not installed.exists():
        program(installed)
    assert "/opt/fedhw/bin/fedhw server" in text
    unit = directory / "fedhw-server.service"
    unit.write_text(text.replace("=/opt/fedhw/bin/fedhw", f"={installed}"))
    verified = analyze("verify", "--man=no", unit)
    assert verified.returncode == 0, verified.stderr
    return verified.stderr


def test_the_coordinators_unit_has_no_mistake(tmp_path: Path):
    text = (UNITS / "fedhw-server.service").read_text("utf-8")
    assert complaints(tmp_path, text) == ""
    mistaken = text.replace("ProtectSystem=", "ProtectSytem=")
    assert "ProtectSytem" in complaints(tmp_path, mistaken)


def test_the_agents_unit_has_no_mistake(tmp_path: Path):
    program(tmp_path / ".local" / "bin" / "fedhw")
    (tmp_path / "run" / "systemd").mkdir(parents=True)
    verified = analyze(
        "verify", "--user", "--man=no", UNITS / "fedhw-client.service", home=tmp_path
    )
    assert (verified.returncode, verified.stderr) == (0, "")


@pytest.mark.parametrize(("name", "most"), [("fedhw-server", 1.5), ("fedhw-client", 6.0)])
def test_a_service_is_hardly_exposed(name: str, most: float):
    """Of 10; what a service of a person's own may close is little."""
    judged = analyze("security", "--offline=true", UNITS / f"{name}.service")
    found = re.search(r"exposure level for \S+: ([0-9.]+)", judged.stdout)
    assert found is not None, judged.stderr
    assert float(found[1]) <= most
