"""What is true of every command, whoever brings it."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
import typer

from fedhw.cli import app
from fedhw.data.npz import save_npz
from fedhw.handwriting.synthetic import synthetic_writers
from fedhw.system.plugins import COMMANDS
from tests import installed_packages
from tests.command_line import run
from tests.full_disk import disk_of

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs a package of one module, as pip would do it, for as long as a test takes."""
    monkeypatch.syspath_prepend(tmp_path)

    def installed(package: str, code: str, **commands: str) -> None:
        (tmp_path / f"{package}.py").write_text(code)
        points = {name: f"{package}:{attribute}" for name, attribute in commands.items()}
        installed_packages.install(tmp_path, package, {COMMANDS: points})

    return installed


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out.startswith("fedhw 0.")


def test_python_runs_it_by_its_name() -> None:
    command = [sys.executable, "-m", "fedhw", "--version"]
    assert subprocess.run(command, capture_output=True, check=True).stdout.startswith(b"fedhw 0.")


STRANGER = """
import typer

from fedhw.errors import InputError

app = typer.Typer(help="Ink and paper.")

@app.command()
def buy(sheets: int) -> None:
    print(f"{sheets} sheets")

@app.command()
def burn() -> None:
    raise InputError("burn: there is no fire; light one")

def erase(pages: int = 1) -> None:
    "Rub it out."
    print(f"{pages} pages erased")
"""


def test_a_strangers_package_adds_commands(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("erase") == 2
    install("stationer", STRANGER, paper="app", erase="erase")
    assert run("--help") == 0
    shown = capsys.readouterr().out
    assert "Ink and paper." in shown
    assert "Rub it out." in shown
    assert run("erase", "--pages", 3) == 0
    assert run("paper", "buy", 20) == 0
    assert capsys.readouterr().out == "3 pages erased\n20 sheets\n"
    assert run("paper", "burn") == 2
    assert capsys.readouterr().err == "fedhw: burn: there is no fire; light one\n"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (
            "import nowhere.to_be_found",
            "the plug-in broken:erase cannot be imported (ModuleNotFoundError: No module named "
            "'nowhere'); install it again or remove it",
        ),
        (
            "",
            "the plug-in broken:erase cannot be imported (AttributeError: module 'broken' has no "
            "attribute 'erase'); install it again or remove it",
        ),
        (
            "erase = 7",
            "is not a command (7 is not a callable object); remove the package that has it",
        ),
    ],
)
def test_a_command_that_is_broken_says_so_and_stops_no_other(
    code: str, reason: str, install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install("broken", code, erase="erase")
    sys.modules.pop("broken", None)
    assert run("--version") == 0
    assert run("--help") == 0
    assert "Cannot be used: erase: " in capsys.readouterr().out
    assert run("erase", "--pages", 3, "--help") == 2
    assert capsys.readouterr().err == f"fedhw: erase: {reason}\n"


def test_two_packages_that_bring_the_same_command_are_both_named(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install("stationer", STRANGER, cost="erase")
    assert run("cost") == 2
    assert capsys.readouterr().err == (
        "fedhw: cost: fedhw.research.commands.cost:cost and stationer:erase have the same name; "
        "remove one of their packages\n"
    )


def test_a_command_that_there_is_not_is_not_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("simulat") == 2
    assert "Did you mean 'simulate'?" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    save_npz(tmp_path / "writers.npz", synthetic_writers(range(2000, 2004), 62))
    asked = (
        "--data",
        tmp_path / "writers.npz",
        "--epochs",
        1,
        "--out",
        tmp_path / "file" / "release",
    )
    assert run("train-expert", *asked) == 2
    message = capsys.readouterr().err
    assert message.endswith("file: File exists; give a path that can be used\n")


def test_a_full_disk_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_npz(tmp_path / "writers.npz", synthetic_writers(range(2000, 2003), 10))
    before = set(tmp_path.iterdir())
    asked = ("--data", tmp_path / "writers.npz", "--epochs", 1, "--out", tmp_path / "release")
    with disk_of(100_000):
        assert run("train-expert", *asked) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == f"fedhw: {tmp_path / '.release.training'}: File too large; free some space"
    assert set(tmp_path.iterdir()) == before


DRAWING = """
from fedhw.system.console import out, say

def draw() -> None:
    "Draw a line."
    say("größe")
    out.print("größe ━")
"""


def test_what_a_terminal_cannot_show_is_replaced(install: Install, tmp_path: Path) -> None:
    """As in a locale of another alphabet."""
    install("artist", DRAWING, draw="draw")
    command = [sys.executable, "-m", "fedhw", "draw"]
    told = os.environ | {"PYTHONIOENCODING": "ascii:strict", "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, env=told, capture_output=True, check=True)
    assert done.stdout.split() == [b"gr??e", b"gr??e", b"?"]


def commands() -> Iterator[tuple[str, click.Command]]:
    """All commands of ours, with what a user types to call them."""

    def below(path: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
        yield path, command
        if isinstance(command, click.Group):
            for name in command.list_commands(click.Context(command)):
                found = command.get_command(click.Context(command), name)
                assert found is not None
                yield from below(f"{path} {name}", found)

    return below("fedhw", typer.main.get_command(app))


ALL_COMMANDS = dict(commands())


@pytest.mark.parametrize("path", ALL_COMMANDS)
def test_help_is_complete(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each argument and option is explained, and there is an example."""
    command, (_, *words) = ALL_COMMANDS[path], path.split()
    assert run(*words, "--help") == 0
    shown = " ".join(re.sub("[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
    assert f"For example: {path}" in shown
    for parameter in command.params:
        told = getattr(parameter, "help", None)
        assert told, parameter.name
        assert " ".join(told.split()[:2]) in shown


def test_commands_are_grouped_by_who_needs_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    shown = capsys.readouterr().out
    places = [
        shown.index(text)
        for text in (
            *("Commands of a device", "client", "learn"),
            *("Commands of a researcher", "simulate", "train-expert"),
            *("Commands of an operator", "server"),
        )
    ]
    assert len(set(places)) == len(places)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("simulat", "simulate"), ("server statu", "status"), ("client privcy", "privacy")],
)
def test_a_slip_is_answered_once(
    typed: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*typed.split()) == 2
    said = capsys.readouterr().err
    assert said.count("Did you mean") == 1
    assert meant in said
