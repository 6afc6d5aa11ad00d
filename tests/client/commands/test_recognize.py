"""Pictures that a person has recognised, and corrects, by a release and by a real agent."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from fedhw.data.writers import WriterSet
from fedhw_client import Device
from fedhw_client.commands.replay_writer import running_agent
from tests.command_line import run
from tests.places import ROOT
from tests.waiting import until

EXAMPLE = ROOT / "client/examples/letters.py"


@pytest.fixture(scope="module")
def device(
    release_directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Device, Path]]:
    home = tmp_path_factory.mktemp("home")
    with running_agent(home, release_directory) as (device, _):
        yield device, home


@pytest.fixture
def picture(tmp_path: Path, unseen_writers: WriterSet) -> Path:
    Image.fromarray(unseen_writers.observations[0]).save(tmp_path / "letter.png")
    return tmp_path / "letter.png"


def typed(
    home: Path, *command: object, answers: str = "", name: str = "fedhw"
) -> subprocess.CompletedProcess[str]:
    module = [name] if name.endswith(".py") else ["-m", name]
    return subprocess.run(
        [sys.executable, *module, *map(str, command)],
        input=answers,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "FEDHW_HOME": str(home)},
    )


def test_a_release_recognises_for_anybody(
    release_directory: Path, picture: Path, capsys: pytest.CaptureFixture[str]
):
    odd = picture.rename(picture.with_name("[a].png"))
    assert run("recognize", release_directory, odd) == 0
    assert "[a].png" in capsys.readouterr().out


def test_an_unreadable_picture_is_one_sentence(
    release_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "bad.png").write_text("no image")
    assert run("recognize", release_directory, tmp_path / "bad.png") == 2
    message = capsys.readouterr().err
    assert message == f"fedhw: {tmp_path}/bad.png: is not a readable image; save it as PNG\n"


def test_a_picture_is_learned_and_then_recognised(device, picture):
    agent, home = device
    before = agent.status().kept
    for _ in range(8):
        learned = typed(home, "learn", "--device", picture, "Q")
        assert learned.returncode == 0, learned.stderr
        assert learned.stdout.startswith("stored as ")
    assert agent.status().kept == before + 8
    until(lambda: agent.status().personal_version > 0 and not agent.status().learning)
    seen = typed(home, "recognize", "--device", picture, picture)
    assert seen.returncode == 0, seen.stderr
    assert seen.stdout.count("letter.png") == 2
    assert "Q" in seen.stdout


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (("learn", "--device", "letter.png", "é"), "fedhw: label: 'é' is not known"),
        (("learn", "letter.png", "Q"), "fedhw: device: is missing"),
        (("learn", "--device", "nothing.png", "Q"), "fedhw: nothing.png: there is no such file"),
        (("recognize", "release"), "fedhw: files: there is none"),
        (("learn", "--device", "--port", "1", "letter.png", "Q"), "fedhw: home: "),
    ],
)
def test_what_cannot_be_used_is_one_sentence(device, picture, command, sentence, monkeypatch):
    monkeypatch.chdir(picture.parent)
    answer = typed(device[1], *command)
    assert answer.returncode == 2
    assert answer.stderr.startswith(sentence)
    assert answer.stderr.count("\n") == 1


def test_without_an_agent_it_says_how_to_start_one(tmp_path, picture):
    answer = typed(tmp_path, "recognize", "--device", picture)
    assert answer.returncode == 2
    assert answer.stderr == "fedhw: device: no agent answers; start one with `fedhw client`\n"


def test_the_example_recognises_and_learns(device, picture):
    agent, home = device
    before = agent.status().kept
    run = typed(home, picture, picture, answers="\nR\n", name=str(EXAMPLE))
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("letter.png: ") == 2
    assert agent.status().kept == before + 2
    assert agent.undo().label == "R"


def test_the_example_says_when_nobody_answers(tmp_path, picture):
    run = typed(tmp_path, picture, name=str(EXAMPLE))
    assert run.returncode == 1
    assert run.stderr.startswith("device: no agent answers")
