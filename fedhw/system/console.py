"""The output of all commands: terminal, progress bars and JSON files."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from fedhw.errors import InputError
from fedhw.system.atomic import replacing
from fedhw.system.plugins import SOURCES, installed
from fedhw.system.printable import printable, sentence

DATA_HELP = f"FILE.npz, or NAME or NAME:WHERE of a source: {', '.join(installed(SOURCES))}"
MAX_SEED = 2**63 - 1


class Printable(RenderHook):
    """Makes all text of a console printable; the layout and the colours stay."""

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Return renderables that escape what these show."""
        return [_Escaped(each) for each in renderables]


@dataclass(frozen=True)
class _Escaped:
    shown: ConsoleRenderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self.shown, options):
            is_text = segment.control is None
            yield segment._replace(text=printable(segment.text)) if is_text else segment


def _console(stderr: bool = False) -> Console:
    console = Console(stderr=stderr)
    console.push_render_hook(Printable())
    return console


out, err = _console(), _console(stderr=True)


def say(told: str) -> None:
    """Print a sentence at once and without wrapping."""
    print(sentence(told), flush=True)


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Turn a missing optional package into an InputError that names the extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise InputError(
            f"{error.name}: is not installed; pip install 'fedhw[{extra}]' brings it"
        ) from None


class Rate(ProgressColumn):
    """The number of steps per second."""

    def render(self, task: Task) -> Text:
        """Return the rate, empty before it is known."""
        return Text("" if task.speed is None else f"{task.speed:.3g}/s")


def progress() -> Progress:
    """Return progress bars with the rate, the elapsed and the remaining time."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=err,
    )


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file, completely or not at all."""
    with replacing(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
