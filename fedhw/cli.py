"""`fedhw ...`: puts together the commands of the packages that are installed.

A command is an entry point of the group `fedhw.commands`: its name, and a Typer app, a click
command or a function. Ours join in the same way as a stranger's.
"""

import sys
from importlib.metadata import entry_points
from typing import Annotated, Any

import click
import typer
from typer.core import TyperGroup

from fedhw import __version__
from fedhw.errors import InputError
from fedhw.system.console import err, out

COMMANDS = "fedhw.commands"
"""The group of entry points."""


class InstalledCommands(TyperGroup):
    """The commands that are installed; each is loaded when it is asked for.

    So one that is slow or broken does no harm to the others.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all."""
        return sorted(entry_points(group=COMMANDS).names)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load a command; where there is none of this name all are loaded, to suggest one."""
        names = self.list_commands(ctx)
        for name in [cmd_name] if cmd_name in names else names:
            self.commands[name] = self.commands.get(name) or _load(name)
        return super().get_command(ctx, cmd_name)


def _load(name: str) -> click.Command:
    """The command of this name, or one that refuses to run and says why."""
    found = tuple(entry_points(group=COMMANDS, name=name))
    if len(found) > 1:
        brought = " and ".join(sorted(each.value for each in found))
        return _refusing(name, f"there are two of it, {brought}; uninstall one of the packages")
    try:
        return _as_click(name, found[0].load())
    except Exception as error:  # whatever a stranger's module raises
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return _refusing(
            name,
            f"{found[0].value} cannot be loaded ({reason}); install its package anew, or remove it",
        )


def _as_click(name: str, command: Any) -> click.Command:
    if isinstance(command, click.Command):
        return command
    holder = typer.Typer(pretty_exceptions_enable=False)
    if isinstance(command, typer.Typer):
        holder.add_typer(command, name=name)
    else:
        holder.command(name)(command)
    return typer.main.get_group(holder).commands[name]


def _refusing(name: str, reason: str) -> click.Command:
    def refuse() -> None:
        raise InputError(f"{name}: {reason}")

    return click.Command(
        name,
        callback=refuse,
        help=f"Cannot be used: {reason}",
        add_help_option=False,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )


app = typer.Typer(
    cls=InstalledCommands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Personalise a handwriting recogniser to each writer, on the writer's own device.",
)


@app.callback(invoke_without_command=True)
def fedhw(
    version: Annotated[bool, typer.Option(help="Print the version and exit.")] = False,
) -> None:
    """Say the version, or leave it to a command."""
    if version:
        out.print(f"fedhw {__version__}", highlight=False)
        raise typer.Exit


def main() -> None:
    """Run the command line; input that cannot be used ends it with one sentence and exit code 2."""
    try:
        app()
    except (InputError, ConnectionError) as error:
        err.print(f"fedhw: {error}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)
    except OSError as error:
        where = error.filename or "input or output"
        message = f"fedhw: {where}: {error.strerror or error}; give a path that can be used"
        err.print(message, markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)
