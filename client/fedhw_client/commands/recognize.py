"""`fedhw recognize`: what pictures show, by a release or by the agent of this device."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from fedhw.errors import InputError
from fedhw.system.console import out
from fedhw_client.commands.agent_options import DeviceOption, HomeOption, PortOption, connected

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Ranked = list[list[tuple[str, float]]]
"""For each glyph the likeliest characters and their probabilities, the best first."""


def recognize(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="[RELEASE] IMAGES...",
            help="Release directory, not with --device; pictures of one character each.",
        ),
    ],
    device: DeviceOption = False,
    home: HomeOption = None,
    port: PortOption = None,
) -> None:
    """Recognise characters in pictures, with a release's global expert or with your agent."""
    from fedhw.handwriting.pictures import load_picture

    images = paths if device else paths[1:]
    if not images:
        raise InputError(f"images: there is none after {paths[0]}; give pictures to recognise")
    glyphs = [load_picture(path) for path in images]
    if device:
        ranked = _ranked_by_agent(glyphs, home, port)
    else:
        ranked = _ranked_by_release(glyphs, paths[0])
    shown = Table("character", "probability", "or", "picture")
    for path, ((best, p), *others) in zip(images, ranked, strict=True):
        rest = ", ".join(f"{label} {q:.0%}" for label, q in others)
        shown.add_row(*map(Text, (best, f"{p:.0%}", rest, path.name)))
    out.print(shown)


def _ranked_by_release(glyphs: "list[NDArray[np.uint8]]", release: Path) -> Ranked:
    import numpy as np

    from fedhw.personalization.method import extract_features
    from fedhw.release.release import Release

    known = Release.load(release)
    probabilities = extract_features(known.expert, np.stack(glyphs)[None]).scores[0].softmax(-1)
    return [
        [(known.labels[i], p[i].item()) for i in p.argsort(descending=True)[:3].tolist()]
        for p in probabilities
    ]


def _ranked_by_agent(
    glyphs: "list[NDArray[np.uint8]]", home: Path | None, port: int | None
) -> Ranked:
    with connected(home, port) as agent:
        answers = [agent.recognize(glyph, top_k=3) for glyph in glyphs]
    return [[(c.label, c.probability) for c in answer.candidates] for answer in answers]
