"""Letters of a few straight lines, drawn as pictures with Pillow."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from fedhw.handwriting.pictures import load_picture
from fedhw.handwriting.strokes import Stroke, rasterise

LETTERS: dict[str, list[Stroke]] = {
    "4": [np.array([[45, 0], [0, 65], [70, 65]]), np.array([[50, 35], [50, 100]])],
    "R": [np.array([[0, 100], [0, 0], [45, 5], [55, 25], [45, 45], [0, 50], [60, 100]])],
    "i": [np.array([[0, 30], [0, 100]]), np.array([[0, 0], [0, 0]])],
}


def drawn(
    letter: str = "R", pen: float = 0.12, side: int = 200, paper: int = 255, ink: int = 0
) -> Image.Image:
    """A letter of 60 % of the side of a grey picture; `pen` is a fraction of the letter."""
    points = np.concatenate(LETTERS[letter])
    middle, scale = (points.min(0) + points.max(0)) / 2, 0.6 * side * 3 / 100
    page = Image.new("L", (3 * side, 3 * side), paper)
    pencil, radius = ImageDraw.Draw(page), pen * 100 * scale / 2
    for stroke in LETTERS[letter]:
        path = [(x, y) for x, y in ((stroke - middle) * scale + 1.5 * side).tolist()]
        pencil.line(path, fill=ink, width=round(2 * radius), joint="curve")
        for x, y in path:
            pencil.ellipse((x - radius, y - radius, x + radius, y + radius), fill=ink)
    return page.reduce(3)


def difference(path: Path, letter: str = "R") -> float:
    """How far the glyph of a picture is from that of the letter's strokes, from 0 to 1."""
    ours = load_picture(path).astype(float)
    return float(np.abs(ours - rasterise(LETTERS[letter])).mean() / 255)
