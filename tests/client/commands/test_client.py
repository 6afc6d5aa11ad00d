"""The options of the agent that do not fit together."""

from pathlib import Path

import pytest

from tests.command_line import run


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--pad-port", "9000"], "pad-port: 9000 is for the pad; give --pad, too"),
        (["--keep-days", "0"], "keep-days: 0.0 is not above 0"),
        (["--keep-days", "nan"], "keep-days: nan is not above 0"),
        (["--epsilon-per-day", "4"], "epsilon-per-day: 4 is agreed when a device joins"),
        (["--epsilon-in-all", "40"], "epsilon-in-all: 40 is agreed when a device joins"),
        (["--replay", "x.npz", "--epsilon-in-all", "40"], "epsilon-in-all: 40.0 is not for a"),
        (["--replay", "x.npz", "--least-cohort", "4"], "least-cohort: 4 is not for a replay"),
        (["--replay", "x.npz", "--enroll", "x.enroll"], "enroll: x.enroll is not for a replay"),
        (["--writer", "anna"], "writer: anna is for a replay; give --replay, too"),
        (["--replay", "x.npz"], "writer: is missing"),
    ],
)
def test_options_of_the_agent_that_do_not_fit_are_one_sentence(
    arguments: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("client", "--home", tmp_path / "home", *arguments) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"fedhw: {sentence}")
    assert message.count("\n") == 1
    assert not (tmp_path / "home").exists()
