"""Two functions behind one command."""

from collections.abc import Callable
from typing import Annotated

import click
import pytest
import typer
from typer.core import TyperCommand

from fedhw.errors import InputError
from fedhw.system.two_programs import TwoPrograms

Typed = Callable[..., object]


def walk(shoes: str = "boots", miles: int = 1) -> str:
    return f"walked {miles} in {shoes}"


def sail(
    boat: Annotated[str | None, typer.Option()] = None,
    miles: int = 1,
    mast_height: float = 2.0,
) -> str:
    return f"sailed {miles} on {boat} under {mast_height}"


@pytest.fixture
def typed() -> Typed:
    """What the program that is asked for returns."""
    programs = TwoPrograms.of(walk, sail, "boat", "a voyage")

    @click.pass_context
    def run(context: click.Context, /, **given: object) -> object:
        return programs.run(context, given)

    command = TyperCommand("travel", callback=run, params=programs.options)
    return lambda *words: command.main([*words], standalone_mode=False)


def test_the_switch_tells_which_of_the_two_runs(typed: Typed) -> None:
    assert typed() == "walked 1 in boots"
    assert typed("--miles", "3", "--shoes", "socks") == "walked 3 in socks"
    assert typed("--boat", "ark", "--miles", "3") == "sailed 3 on ark under 2.0"
    assert typed("--mast-height", "7", "--boat", "ark") == "sailed 1 on ark under 7.0"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--mast-height", "7"], "mast-height: 7.0 is for a voyage; give --boat, too"),
        (
            ["--boat", "ark", "--shoes", "boots"],
            "shoes: boots is not for a voyage; leave one of both out",
        ),
    ],
)
def test_an_option_of_the_other_one_is_refused(
    words: list[str], sentence: str, typed: Typed
) -> None:
    with pytest.raises(InputError) as refused:
        typed(*words)
    assert str(refused.value) == sentence


def test_an_option_that_there_is_not_is_refused(typed: Typed) -> None:
    with pytest.raises(click.NoSuchOption):
        typed("--wings", "2")
