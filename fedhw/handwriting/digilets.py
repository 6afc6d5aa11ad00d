"""DigiLeTs: digits and letters of 77 people on a graphics tablet, five of each class.

https://github.com/CognitiveModeling/DigiLeTs (S. Fabi, S. Otte and others, University of Tübingen,
2022).
"""

import string
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedhw.data.writers import WriterSet
from fedhw.errors import InputError
from fedhw.handwriting.alphabet import BYCLASS
from fedhw.handwriting.strokes import rasterise

ONE_HOT = string.digits + string.ascii_lowercase + string.ascii_uppercase
"""What the columns of a label line stand for."""

POINT = ("x", "y", "pressure", "pen_down", "time")
"""The numbers of each point; x to the right, y up, pen_down 1 on a stroke's first point."""


def load_digilets(folder: Path) -> WriterSet:
    """Read the complete writers in the repository's `data/preprocessed`, in the order of writing.

    Everybody wrote the digits first, then lower case, then upper case, so the later half of a
    writer has other classes than the earlier half. A writer's name is the number at the beginning
    of the file's name. Raises InputError for a folder without such files and, with file and line,
    for a file in another format.
    """
    files = sorted((folder / "complete").glob("[0-9][0-9][0-9]-*_preprocessed"))
    if not files:
        raise InputError(
            f"{folder}: holds no file complete/NNN-*_preprocessed; "
            "give the folder data/preprocessed of the repository"
        )
    images: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    counts = []
    for file in files:
        lines = _lines(file)
        images += [_drawn(line, f"{file}:{n + 1}") for n, line in lines[::2]]
        labels += [_label(line, f"{file}:{n + 1}") for n, line in lines[1::2]]
        counts.append(len(lines) // 2)
    return WriterSet.of(
        np.stack(images),
        labels,
        writer=np.repeat(np.arange(len(files)), counts),
        names=[file.name[:3] for file in files],
        classes=BYCLASS,
    )


def _lines(file: Path) -> list[tuple[int, str]]:
    try:
        lines = file.read_text("ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read as text; download it again") from error
    if len(lines) % 2 or not lines:
        raise InputError(f"{file}: {len(lines)} lines are not pairs; download it again")
    return list(enumerate(lines))


def _drawn(line: str, place: str) -> NDArray[np.uint8]:
    """The glyph of a line of points."""
    numbers = _numbers(line, place)
    if len(numbers) == 0 or len(numbers) % len(POINT):
        raise InputError(
            f"{place}: {len(numbers)} numbers are not whole points of {', '.join(POINT)}; "
            "download the file again"
        )
    points = numbers.reshape(-1, len(POINT))
    beginnings = np.flatnonzero(points[1:, POINT.index("pen_down")] == 1) + 1
    try:
        return rasterise(np.split(points[:, :2] * [1, -1], beginnings))
    except InputError as error:
        raise InputError(f"{place}: {error}") from error


def _label(line: str, place: str) -> int:
    one_hot = _numbers(line, place)
    if len(one_hot) != len(ONE_HOT) or sorted(one_hot)[-2:] != [0, 1] or one_hot.min() != 0:
        raise InputError(
            f"{place}: is not a row of {len(ONE_HOT)} numbers, one of them 1 and the others 0; "
            "download the file again"
        )
    return BYCLASS.index(ONE_HOT[int(one_hot.argmax())])


def _numbers(line: str, place: str) -> NDArray[np.float64]:
    try:
        return np.array(line.split(), np.float64)
    except ValueError:
        raise InputError(f"{place}: not all are numbers; download the file again") from None
