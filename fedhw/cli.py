"""`fedhw ...`: the commands of all installed packages.

A command is an entry point of the group `fedhw.commands`: a name, and a Typer app, a click command
or a function. Our own commands join in the same way.
"""

import errno
import io
import sys
import warnings
from typing import Annotated, Any

import click
import typer
from typer.core import TyperGroup

from fedhw import __version__
from fedhw.errors import InputError
from fedhw.system.console import err, out
from fedhw.system.plugins import COMMANDS, installed, load, module_of
from fedhw.system.printable import sentence

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""What a write fails with where there is no more room."""

PANELS = {
    "fedhw_client": "Commands of a device",
    "fedhw_server": "Commands of an operator",
    "fedhw": "Commands of a researcher",
}
"""Where help shows the commands of each of our packages; others are shown under their own name."""


class InstalledCommands(TyperGroup):
    """The installed commands; each is loaded on first use, so a broken one does not harm others."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return installed(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load a command; for an unknown name load all, so that click can suggest one."""
        names = self.list_commands(ctx)
        for name in [cmd_name] if cmd_name in names else names:
            if name not in self.commands:
                self.commands[name] = _load(name)
                # Typer's help shows the commands of a panel together.
                self.commands[name].rich_help_panel = _panel(name)  # type: ignore[attr-defined]
        return super().get_command(ctx, cmd_name)


def _load(name: str) -> click.Command:
    """Return the command of this name, or one that fails with the reason why it cannot be used."""
    try:
        return _as_click(name, load(COMMANDS, name))
    except InputError as error:
        return _refusing(name, str(error))
    except Exception as error:  # Typer's message for an object that is no command
        return _refusing(
            name, f"{name}: is not a command ({error}); remove the package that has it"
        )


def _panel(name: str) -> str:
    package = module_of(COMMANDS, name).partition(".")[0]
    return PANELS.get(package, f"Commands of {package}")


def _as_click(name: str, command: Any) -> click.Command:
    if isinstance(command, click.Command):
        return command
    holder = typer.Typer(pretty_exceptions_enable=False, suggest_commands=False)
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
    suggest_commands=False,  # click does, too
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Personalise a handwriting recogniser to each writer, on the writer's own device.\n\n"
    "For example: fedhw simulate --out out/first",
)


@app.callback(invoke_without_command=True)
def fedhw(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Print the version, or run a command."""
    if version:
        out.print(f"fedhw {__version__}", highlight=False)
        raise typer.Exit


def main() -> None:
    """Run the command line; on an InputError print one sentence and exit with code 2."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # those of libraries mean nothing to a user
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal may lack a character of a name
    try:
        app()
    except (InputError, ConnectionError) as error:
        message = str(error)
    except OSError as error:
        mend = "free some space" if error.errno in _FULL else "give a path that can be used"
        message = f"{error.filename or 'disk'}: {error.strerror or error}; {mend}"
    else:
        return
    err.print(f"fedhw: {sentence(message)}", markup=False, highlight=False, soft_wrap=True)
    sys.exit(2)
