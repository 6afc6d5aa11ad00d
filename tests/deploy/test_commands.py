"""What the units, images and manifests start is what the program understands."""

import re
import shlex
from collections.abc import Iterator

import click
import pytest
import yaml

from tests.command_line import command
from tests.places import DEPLOY


def started() -> Iterator[tuple[str, list[str]]]:
    """Each command line of a coordinator or an agent, and where it stands."""
    for unit in sorted((DEPLOY / "systemd").glob("*.service")):
        (line,) = re.findall(r"^ExecStart=\S+/fedhw (.*)$", unit.read_text("utf-8"), flags=re.M)
        yield unit.name, shlex.split(line)
    for file in sorted((DEPLOY / "docker").glob("*.Dockerfile")):
        text = file.read_text("utf-8")
        words = [
            re.findall(rf"^{word} (\[.*\])$", text, flags=re.M) for word in ("ENTRYPOINT", "CMD")
        ]
        line = [part for found in words for part in (yaml.safe_load(found[0]) if found else [])]
        yield file.name, line[1:]
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
    yield "compose.yaml", ["server", *compose["services"]["coordinator"]["command"]]
    manifest = yaml.safe_load((DEPLOY / "kubernetes" / "statefulset.yaml").read_text("utf-8"))
    container = manifest["spec"]["template"]["spec"]["containers"][0]
    yield "statefulset.yaml", ["server", *container["args"]]


@pytest.mark.parametrize(("place", "line"), list(started()), ids=lambda value: str(value)[:30])
def test_the_program_understands(place: str, line: list[str]):
    with command(line[0]).make_context(line[0], line[1:]) as context:
        assert context.args == []


def test_an_option_that_there_is_not_would_be_noticed():
    with pytest.raises(click.NoSuchOption):
        command("server").make_context("server", ["--hosts=0.0.0.0"])
