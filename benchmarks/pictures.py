"""How well pictures of characters are read, over pen, light, specks and size.

Draws real pen strokes of writers whom a release has never seen as pictures, saves them as a camera
or a scanner would, and recognises them beside the strokes themselves.

    python benchmarks/pictures.py --data FILE.npz --strokes FILE.npz --release DIR
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from tables import show, spread

from fedhw.data.npz import load_npz
from fedhw.errors import InputError
from fedhw.experts.evaluation import accuracy
from fedhw.handwriting.glyph import SIDE
from fedhw.handwriting.pictures import load_picture
from fedhw.handwriting.stroke_file import StrokeFile
from fedhw.handwriting.strokes import Stroke, rasterise
from fedhw.release.release import Release

SEEDS = (0, 1, 2)
PAPER, INK = 235.0, 40.0
OVERSAMPLING = 3
FILLED = 0.6
"""Share of a picture's side that a character takes."""

NOISE = 3.0
"""Standard deviation of a pixel's brightness, of 255."""


@dataclass(frozen=True)
class Picture:
    """How a character is drawn and photographed.

    `pen` is the line's width as a fraction of the character's longer side, which has `letter`
    pixels and takes 60 % of the picture. `shade` is the share of light that one side
    lacks. `specks` are as dark as ink and up to a quarter of the pen wide. In a `negative` ink is
    light.
    """

    pen: float = 0.14
    letter: int = 180
    shade: float = 0.0
    specks: int = 0
    negative: bool = False


PICTURES = (
    *(Picture(pen=pen) for pen in (0.02, 0.04, 0.08, 0.14, 0.20, 0.25)),
    *(Picture(shade=shade) for shade in (0.15, 0.30, 0.45)),
    Picture(pen=0.04, shade=0.45),
    Picture(specks=50),
    *(Picture(letter=letter) for letter in (16, 32, 64)),
    Picture(negative=True),
)


def told(picture: Picture) -> str:
    """What differs from the usual picture."""
    plain = Picture()
    parts = [
        name
        if value is True
        else f"{name} {value:.0%}"
        if isinstance(value, float)
        else f"{name} {value}"
        for name, value in vars(picture).items()
        if value != getattr(plain, name)
    ]
    return ", ".join(parts) or "pen 14%"


def photographed(
    strokes: Sequence[Stroke], picture: Picture, random: np.random.Generator
) -> NDArray[np.uint8]:
    """Draw strokes as a grey picture [H, W]."""
    side = round(picture.letter / FILLED)
    points = np.concatenate(strokes).astype(float)
    low, high = points.min(axis=0), points.max(axis=0)
    scale = picture.letter * OVERSAMPLING / (float((high - low).max()) or 1)
    middle = side * OVERSAMPLING / 2
    radius = picture.pen * picture.letter * OVERSAMPLING / 2
    canvas = Image.new("L", (side * OVERSAMPLING, side * OVERSAMPLING))
    pen = ImageDraw.Draw(canvas)
    for stroke in strokes:
        path = [(x, y) for x, y in ((stroke - (low + high) / 2) * scale + middle).tolist()]
        if len(path) > 1:
            pen.line(path, fill=255, width=max(1, round(2 * radius)), joint="curve")
        for x, y in path:
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    covered = np.asarray(canvas.reduce(OVERSAMPLING), np.float64) / 255
    for _ in range(picture.specks):
        size = 1 + round(random.uniform() * picture.pen * picture.letter / 4)
        top, left = random.integers(0, side - size, 2)
        covered[top : top + size, left : left + size] = 1
    angle = random.uniform(0, 2 * np.pi)
    down, right = np.mgrid[0:side, 0:side] / side
    dark = np.cos(angle) * right + np.sin(angle) * down
    dark = (dark - dark.min()) / np.ptp(dark)
    light = (PAPER + (INK - PAPER) * covered) * (1 - picture.shade * dark)
    grey = np.clip(light + random.normal(0, NOISE, light.shape), 0, 255)
    return (255 - grey if picture.negative else grey).astype(np.uint8)


def read(grey: NDArray[np.uint8], place: Path) -> NDArray[np.uint8]:
    """The glyph of a picture; an empty one where it is refused."""
    Image.fromarray(grey).save(place, quality=80)
    try:
        return load_picture(place)
    except InputError:
        return np.zeros((SIDE, SIDE), np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--strokes", type=Path, required=True, help="of the same rows")
    parser.add_argument("--release", type=Path, required=True)
    parser.add_argument("--characters", type=int, default=60, help="for each seed")
    given = parser.parse_args()
    torch.set_num_threads(1)
    data, release = load_npz(given.data), Release.load(given.release)
    strokes = StrokeFile.read(given.strokes)
    unseen = [w for w, name in enumerate(data.names) if name not in release.trained_on]
    candidates = np.flatnonzero(np.isin(data.writer, unseen))
    samples = []
    for seed in SEEDS:
        random = np.random.default_rng(seed)
        rows = random.choice(candidates, given.characters, replace=False)
        labels = data.labels[rows]
        drawn = np.stack([rasterise(strokes[row]) for row in rows])
        samples.append((rows, labels, accuracy(release.expert, drawn, labels)))
    table = []
    with TemporaryDirectory() as folder:
        for picture in PICTURES:
            shares, apart = [], []
            for seed, (rows, labels, by_strokes) in zip(SEEDS, samples, strict=True):
                random = np.random.default_rng(seed)
                glyphs = [
                    read(photographed(strokes[row], picture, random), Path(folder) / "picture.jpg")
                    for row in rows
                ]
                shares.append(accuracy(release.expert, np.stack(glyphs), labels))
                apart.append(shares[-1] - by_strokes)
            table.append([told(picture), spread(shares), spread(apart, "+")])
    show(
        ["picture", "read %", "beside strokes"],
        [["strokes", spread([share for _, _, share in samples]), ""], *table],
    )


if __name__ == "__main__":
    main()
