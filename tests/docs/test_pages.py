"""What the pages tell a reader to type is there: commands, options, modules, files."""

import ast
import doctest
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from tests.command_line import command
from tests.places import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str) -> Iterator[tuple[str, str]]:
    """Each code block of a language and the name of its page."""
    for page in PAGES:
        text = page.read_text("utf-8")
        for code in re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.M | re.S):
            yield page.name, code


def command_lines() -> Iterator[tuple[str, str]]:
    """Each call of fedhw in a shell block; what follows a comment, a pipe or a `>` is left out."""
    for page, code in blocks("sh"):
        for line in code.replace("\\\n", " ").splitlines():
            for call in re.findall(r"(?:^|do |&& )\s*fedhw ([^#;|>&]+)", line):
                yield page, re.sub(r"\$\w+", "0", call).strip()


def understood(words: list[str]) -> None:
    """Raise what click says where the program has no such command or option."""
    name, *words = words
    asked = command(name)
    while isinstance(asked, click.Group) and words and not words[0].startswith("-"):
        name, *words = words
        assert name in asked.commands, name
        asked = asked.commands[name]
    asked.make_context(name, words).close()


@pytest.mark.parametrize(("page", "call"), sorted(set(command_lines())))
def test_the_program_understands(page: str, call: str):
    understood(shlex.split(call))


@pytest.mark.parametrize("call", ["simulate --engines ray", "server rollbak 3", "simulat"])
def test_a_command_that_there_is_not_would_be_noticed(call: str):
    with pytest.raises((click.ClickException, AssertionError)):
        understood(shlex.split(call))


@pytest.mark.parametrize(("page", "code"), list(blocks("python")))
def test_what_is_imported_exists(page: str, code: str):
    """Examples in doctest form are run, too."""
    if ">>>" in code:
        test = doctest.DocTestParser().get_doctest(code, {}, page, None, None)
        assert doctest.DocTestRunner().run(test).failed == 0
        return
    parsed = ast.parse(code)
    imports = [node for node in parsed.body if isinstance(node, ast.Import | ast.ImportFrom)]
    exec(compile(ast.Module(imports, type_ignores=[]), page, "exec"), {})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path):
    text = page.read_text("utf-8")
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    missing = {link for link in links if not (page.parent / link).exists()}
    missing |= {
        name
        for name in re.findall(r"\b(?:benchmarks|tests|docs|protos)/[\w/.-]+\.\w+", text)
        if not (ROOT / name).exists()
    }
    assert not missing
