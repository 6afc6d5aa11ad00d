"""How much does correcting it character by character help, and which rehearsal helps most?

Shows each unseen writer's characters, in the order of writing, to `Personalizer`: every character
is recognised, then corrected. Compares ways of rehearsal on the same streams.

    python benchmarks/streaming.py --drift 0.5
    python benchmarks/streaming.py --data FILE.npz --release DIR

Without a release a quick global expert is trained first. A few minutes on one core.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch.nn import functional as F

from fedhw.data.npz import load_npz
from fedhw.data.synthetic import synthetic_writers
from fedhw.data.writers import WriterSet
from fedhw.errors import InputError
from fedhw.experts.global_expert import GlobalExpert, as_ink, build
from fedhw.experts.training import Training, train_expert
from fedhw.personalization.replay import NoRehearsal, Policy, PowerLaw, recent, uniform
from fedhw.personalization.stream import Personalizer
from fedhw.release.release import Release
from fedhw.release.sketch import Sketch

POLICIES: dict[str, Policy] = {
    "power law": PowerLaw(),
    "uniform": uniform,
    "recent": recent,
    "no rehearsal": NoRehearsal(),
}
UNSEEN = 1_000_000  # the number of the first synthetic writer to test on; none is trained on
ENOUGH = 100  # characters, for a writer of a file to take part
SKETCH = 2000  # glyphs in the sketch of a quick global expert


class Public(NamedTuple):
    """The part of a release that a device personalises, and the names of who it was trained on."""

    expert: GlobalExpert
    sketch: Sketch
    alphabet: str
    trained_on: frozenset[str]


def released(directory: Path) -> Public:
    release = Release.load(directory)
    return Public(release.expert, release.sketch, release.alphabet, release.trained_on)


def quick(writers: WriterSet, epochs: int) -> Public:
    """Train a global expert on three of four writers."""
    rows = np.flatnonzero(writers.writer % 4)
    torch.manual_seed(0)
    expert = build("lenet5", len(writers.alphabet))
    train_expert(expert, writers.images[rows], writers.labels[rows], Training(epochs=epochs))
    shown = np.random.default_rng(0).permutation(rows)[:SKETCH]
    with torch.no_grad():
        sketch = Sketch.of(expert.features(as_ink(writers.images[shown])))
    names = frozenset(writers.names[index] for index in np.unique(writers.writer[rows]))
    return Public(expert, sketch, writers.alphabet, names)


def scene(arguments: argparse.Namespace) -> tuple[Public, WriterSet]:
    """The global expert, and the characters of writers that it was not trained on."""
    data = None if arguments.data is None else load_npz(arguments.data)
    public = (
        released(arguments.release)
        if arguments.release is not None
        else quick(synthetic_writers(400, 62) if data is None else data, arguments.epochs)
    )
    if data is None:
        numbers = range(UNSEEN, UNSEEN + arguments.writers)
        return public, synthetic_writers(
            numbers, arguments.characters, arguments.seed, arguments.drift
        )
    able = [
        index
        for index, name in enumerate(data.names)
        if name not in public.trained_on and data.counts()[index] >= ENOUGH
    ]
    if not able:
        raise InputError(
            f"data: {arguments.data} has no unseen writer of {ENOUGH} or more characters; "
            "give the file that the release was trained on"
        )
    rng = np.random.default_rng(arguments.seed)
    chosen = np.sort(rng.permutation(able)[: arguments.writers])
    rows = [data.rows_of(index)[: arguments.characters] for index in chosen]
    images = [drifting(data.images[own], arguments.drift, rng) for own in rows]
    return public, replace(data.take(np.concatenate(rows)), images=np.concatenate(images))


def drifting(
    images: NDArray[np.uint8], drift: float, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Change the slant and the scales of glyphs [N, 28, 28] more and more, in a random direction.

    At drift 1 the last glyph is slanted by up to 0.6 and scaled by up to a third.
    """
    grown = drift * torch.linspace(0, 1, len(images))
    slant, width, height = rng.uniform(-1, 1, 3) * [0.6, 0.3, 0.3]
    affine = torch.zeros(len(images), 2, 3)
    affine[:, 0, 0], affine[:, 1, 1] = (grown * width).exp(), (grown * height).exp()
    affine[:, 0, 1] = grown * slant
    ink = as_ink(images)[:, None]
    grid = F.affine_grid(affine, list(ink.shape), align_corners=False)
    moved = F.grid_sample(ink, grid, align_corners=False)[:, 0]
    return (moved * 255).round().to(torch.uint8).numpy()


def rights(person: Personalizer, images: NDArray[np.uint8], text: str) -> NDArray[np.bool_]:
    """Whether the global expert and the mixture were right, [N, 2], before each correction."""
    right = []
    for glyph, character in zip(images, text, strict=True):
        guess = person.store(glyph, character)
        if person.due:
            person.relearn()
        right.append((guess.ge_label == character, guess.label == character))
    return np.array(right)


def mean_and_error(values: list[float]) -> str:
    """Mean and its standard error over writers, of shares, in percent."""
    error = np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.nan
    return f"{100 * np.mean(values):.1f} ± {100 * error:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="npz of writers; synthetic ones if left out")
    parser.add_argument("--release", type=Path, help="folder of the release to personalise")
    parser.add_argument("--writers", type=int, default=20)
    parser.add_argument("--characters", type=int, default=620, help="at most, of each writer")
    parser.add_argument("--drift", type=float, default=0.0, help="how far styles move, 0..1")
    parser.add_argument("--epochs", type=int, default=8, help="of a quick global expert")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    try:
        public, writers = scene(arguments)
    except InputError as error:
        parser.error(str(error))

    streams = [writers.rows_of(index) for index in np.unique(writers.writer)]
    table = Table(title=f"{len(streams)} writers, {len(writers)} characters, test then train")
    for column in ("rehearsal", "right %", "gain over GE", "gain, last third", "ms a character"):
        table.add_column(column, justify="left" if column == "rehearsal" else "right")
    for name, policy in POLICIES.items():
        begin = time.perf_counter()
        runs = []
        for rows in track(streams, name, console=Console(stderr=True), transient=True):
            person = Personalizer(
                public.expert, public.sketch, public.alphabet, policy=policy, seed=arguments.seed
            )
            text = "".join(writers.alphabet[label] for label in writers.labels[rows])
            runs.append(rights(person, writers.images[rows], text).astype(float))
        milliseconds = 1e3 * (time.perf_counter() - begin) / len(writers)
        if not table.rows:
            alone = [run[:, 0].mean() for run in runs]
            table.add_row("GE alone", mean_and_error(alone), "", "", "")
        gains = [run[:, 1] - run[:, 0] for run in runs]
        table.add_row(
            name,
            mean_and_error([run[:, 1].mean() for run in runs]),
            mean_and_error([gain.mean() for gain in gains]),
            mean_and_error([gain[-len(gain) // 3 :].mean() for gain in gains]),
            f"{milliseconds:.1f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
