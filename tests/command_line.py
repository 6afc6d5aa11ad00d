"""The command line as a user gives it, in this process."""

import re
import sys

import click
import typer

from fedhw.cli import app, main


def run(*arguments: object) -> int:
    """Return the exit code of `fedhw arguments`."""
    argv, sys.argv = sys.argv, ["fedhw", *map(str, arguments)]
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    finally:
        sys.argv = argv
    return 0


def command(name: str) -> click.Command:
    """Return the command of this name, as click knows it."""
    root = typer.main.get_command(app)
    assert isinstance(root, click.Group)
    found = root.get_command(click.Context(root), name)
    assert found is not None, name
    return found


def is_one_sentence(text: str) -> bool:
    """Whether a text is what a user is told of a mistake: a field, its value and the mend."""
    return re.fullmatch(r"[a-z][^\n]{20,}[^\n.]", text) is not None and "Traceback" not in text
