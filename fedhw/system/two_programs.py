"""One command for two programs, each a function with its own options."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import click
import typer
from click.core import ParameterSource

from fedhw.errors import InputError


@dataclass(frozen=True)
class TwoPrograms:
    """Runs the `first` program, or the `second` where the option `switch` is given.

    `kind` describes the second one in messages, as in 'is not for a fleet'.
    """

    first: click.Command
    second: click.Command
    switch: str
    kind: str

    @classmethod
    def of(
        cls, first: Callable[..., Any], second: Callable[..., Any], switch: str, kind: str
    ) -> "TwoPrograms":
        """Build both from functions whose parameters are annotated for Typer."""
        both = typer.Typer()
        both.command("first")(first)
        both.command("second")(second)
        commands = typer.main.get_group(both).commands
        return cls(commands["first"], commands["second"], switch, kind)

    @property
    def options(self) -> list[click.Parameter]:
        """The options of both, without duplicates."""
        options = (*self.first.params, *self.second.params)
        return list({option.name: option for option in options}.values())

    def run(self, context: click.Context, given: Mapping[str, Any]) -> Any:
        """Run the chosen program; raises InputError for an option that only the other one has."""
        is_second = bool(given[self.switch])
        chosen = self.second if is_second else self.first
        own = {str(option.name): given[str(option.name)] for option in chosen.params}
        for option in self.options:
            name = str(option.name)
            source = context.get_parameter_source(name)
            if name not in {*own, self.switch} and source is ParameterSource.COMMANDLINE:
                wrong = (
                    "not for {}; leave one of both out" if is_second else "for {}; give --{}, too"
                )
                raise InputError(
                    f"{option.opts[0].lstrip('-')}: {given[name]} is "
                    + wrong.format(self.kind, self.switch)
                )
        return context.invoke(chosen, **own)
