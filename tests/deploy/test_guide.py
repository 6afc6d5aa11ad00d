"""What docs/operating.md says, against the program and the files it speaks of."""

import re
import sqlite3
from pathlib import Path

import click

from fedhw_server.store.fleet import Fleet
from tests.command_line import command
from tests.places import DEPLOY

DOCS = DEPLOY.parent / "docs"
GUIDE = (DOCS / "operating.md").read_text("utf-8")


def test_every_command_of_the_operator_is_told_and_no_other():
    server = command("server")
    assert isinstance(server, click.Group)
    assert set(re.findall(r"fedhw server ([a-z]+)", GUIDE)) == set(server.commands)


def test_command_lines_are_understood():
    lines = re.findall(r"^fedhw (server|client)\b([^#\n]*)", GUIDE, flags=re.M)
    assert len(lines) >= 5
    for name, rest in lines:
        words = rest.split(">")[0].split()
        with command(name).make_context(name, words) as context:
            if isinstance(context.command, click.Group) and words and words[0].isalpha():
                within = context.command.commands[words[0]]
                within.make_context(words[0], words[1:]).close()


def test_the_backup_holds_what_is_being_written(tmp_path: Path):
    (statement,) = re.findall(r"^sqlite3 fleet.db \"(.+)\"$", GUIDE, flags=re.M)
    fleet = Fleet(tmp_path / "fleet.db")  # stays open: its log is not in the file yet
    fleet.settings.agree()
    fleet.members.invite("anna")
    backup = tmp_path / "fleet.backup"
    with sqlite3.connect(tmp_path / "fleet.db") as database:
        database.execute(statement.replace("fleet.backup", str(backup)))
    restored = Fleet(backup)
    assert [device.name for device in restored.members.all()] == ["anna"]
    restored.close()
    fleet.close()


def test_what_is_linked_exists():
    for place, text in ((DOCS, GUIDE), (DEPLOY, (DEPLOY / "README.md").read_text("utf-8"))):
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (place / target).exists(), target


def test_every_file_of_deploy_can_be_found_from_its_index():
    index = (DEPLOY / "README.md").read_text("utf-8")
    for path in DEPLOY.iterdir():
        assert path.name == "README.md" or f"]({path.name})" in index


def test_metrics_are_called_by_their_names():
    rules = "".join(
        path.read_text("utf-8") for path in (DEPLOY / "prometheus" / "rules").glob("*.yml")
    )
    for name in re.findall(r"`(fedhw:[a-z0-9_:]+)", GUIDE):
        assert f"record: {name}\n" in rules
