"""`fedhw recognize`: recognises files with a release or with the agent of this device."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from fedhw.errors import InputError
from fedhw.system.console import out
from fedhw_client.commands.agent_options import (
    DeviceOption,
    HomeOption,
    PortOption,
    connected,
    encoded,
)

Ranked = list[list[tuple[str, float]]]
"""For each file the likeliest labels with their probabilities, best first."""


def recognize(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="[RELEASE] FILES...",
            help="Release directory, not with --device; files of one observation each, such as "
            "pictures of characters.",
        ),
    ],
    device: DeviceOption = False,
    home: HomeOption = None,
    port: PortOption = None,
) -> None:
    """Recognise files with a release's global expert or with your agent.

    For example: fedhw recognize release letter.png
    """
    files = paths if device else paths[1:]
    if not files:
        raise InputError(f"files: there is none after {paths[0]}; give files to recognise")
    ranked = _by_agent(files, home, port) if device else _by_release(files, paths[0])
    shown = Table("label", "probability", "or", "file")
    for path, ((best, p), *others) in zip(files, ranked, strict=True):
        rest = ", ".join(f"{label} {q:.0%}" for label, q in others)
        shown.add_row(*map(Text, (best, f"{p:.0%}", rest, path.name)))
    out.print(shown)


def _by_release(files: list[Path], release: Path) -> Ranked:
    from fedhw.data.encoders import find_encoder
    from fedhw.personalization.method import extract_features
    from fedhw.release.release import Release

    known = Release.load(release)
    encoder = find_encoder("file", known.observation)
    observations = known.observation.stack([encoder.encode(file) for file in files])
    probabilities = extract_features(known.expert, observations[None]).scores[0].softmax(-1)
    return [
        [(known.labels[i], p[i].item()) for i in p.argsort(descending=True)[:3].tolist()]
        for p in probabilities
    ]


def _by_agent(files: list[Path], home: Path | None, port: int | None) -> Ranked:
    with connected(home, port) as agent:
        answers = [agent.recognize(one, top_k=3) for one in encoded(agent, files)]
    return [[(c.label, c.probability) for c in answer.candidates] for answer in answers]
