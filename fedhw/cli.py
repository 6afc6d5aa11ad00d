"""`fedhw ...`: puts together the commands of the packages that are installed.

A command is an entry point of the group `fedhw.commands`: its name, and a Typer app, a click
command or a function. Ours join in the same way as a stranger's.
"""

import sys
from typing import Annotated, Any

import click
import typer
from typer.core import TyperGroup

from fedhw import __version__
from fedhw.errors import InputError
from fedhw.system.console import err, out
from fedhw.system.plugins import COMMANDS, installed, load


class InstalledCommands(TyperGroup):
    """The commands that are installed; each is loaded when it is asked for.

    So one that is slow or broken does no harm to the others.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all."""
        return installed(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load a command; where there is none of this name all are loaded, to suggest one."""
        names = self.list_commands(ctx)
        for name in [cmd_name] if cmd_name in names else names:
            self.commands[name] = self.commands.get(name) or _load(name)
        return super().get_command(ctx, cmd_name)


def _load(name: str) -> click.Command:
    """The command of this name, or one that refuses to run and says why."""
    try:
        return _as_click(name, load(COMMANDS, name))
    except InputError as error:
        return _refusing(name, str(error))
    except Exception as error:  # Typer's words for what is no command
        return _refusing(name, f"{name}: is no command ({error}); remove the package that has it")


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
        raise InputError(reason)

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
