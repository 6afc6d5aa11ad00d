"""What the private experts cost beside the global one."""

import json
from pathlib import Path

import pytest

from tests.command_line import run


def test_the_private_experts_are_a_fortieth(
    release_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("cost", release_directory, "--json") == 0
    parts = json.loads(capsys.readouterr().out)
    assert parts["global expert"]["parameters"] == 66126
    private = parts["local expert"], parts["gate"]
    assert sum(part["parameter_share"] for part in private) <= 0.025
    assert sum(part["mac_share"] for part in private) <= 0.025
