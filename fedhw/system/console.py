"""The output of all commands: terminal, progress bars and JSON files."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
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

DATA_HELP = f"FILE.npz, or NAME or NAME:WHERE of a source: {', '.join(installed(SOURCES))}"
MAX_SEED = 2**63 - 1

out = Console()
err = Console(stderr=True)


def say(sentence: str) -> None:
    """Print a sentence at once and without wrapping."""
    print(sentence, flush=True)


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
