"""UNIPEN train_r01_v07: isolated characters, written with a pen by some 260 people.

International Unipen Foundation, 1999, CC BY 4.0, doi 10.5281/zenodo.1195803. Cite I. Guyon,
L. Schomaker, R. Plamondon, M. Liberman and S. Janet, "UNIPEN project of on-line data exchange and
recognizer benchmarks", ICPR 1994.
"""

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain, groupby, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedhw.data.writers import WriterSet
from fedhw.errors import InputError
from fedhw.handwriting import canvas
from fedhw.handwriting.alphabet import BYCLASS
from fedhw.handwriting.stroke_file import StrokeFile
from fedhw.handwriting.unipen_format import Character, Points, Recording, Span, UnipenReader

CATEGORIES = ("1a", "1b", "1c")
"""Isolated digits, upper case and lower case."""

_DRAWN_TOLERANCE = 1.5  # of strokes as they are drawn, in a box of 1000
_STORED_TOLERANCE = 6.0  # of strokes as they are handed over
_FAR_FROM_AXES = 50  # tablet units: a jump from there to 0 0 is an error of the tablet
_SMALLEST_SIZE = 1e-6  # tablet units

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class PenNumbers:
    """Numbers that scaling to a glyph loses, in the tablet's own units: compare within a writer.

    Shapes: size float32 [N], the longer side of the strokes; strokes uint8 [N], how many, 255 for
    more; bottom float32 [N], the height of the lowest point; line float32 [N], the height of the
    line that was written on, NaN where the recording names none.
    """

    size: NDArray[np.float32]
    strokes: NDArray[np.uint8]
    bottom: NDArray[np.float32]
    line: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class PenWriters:
    """Writers and, row by row, the pen's numbers and strokes (in a box of 0..1000, y down)."""

    writers: WriterSet
    numbers: PenNumbers
    strokes: StrokeFile


def load_unipen(folder: Path) -> WriterSet:
    """Read the isolated digits and letters under `data` and `include` of UNIPEN's folder.

    The same ink is read once. Characters are in the order of writing as far as dates and files tell
    it. A writer is named contributor/identity; recordings of several people under one identity are
    left out. Drawing takes some milliseconds a character: `save_npz` keeps the result.
    Raises InputError, with file and line, for anything missing or not in the format.
    """
    return read_unipen(folder).writers


def read_unipen(folder: Path) -> PenWriters:
    """Read what `load_unipen` reads, with the strokes and the numbers that a glyph loses."""
    distinct: dict[tuple[str, bytes], _Sample] = {}
    for sample in sorted(_samples(folder), key=lambda sample: (sample.writer, sample.when)):
        distinct.setdefault((sample.writer.partition("/")[0], sample.digest), sample)
    samples = list(distinct.values())
    if not samples:
        raise InputError(
            f"{folder}: there is no digit or letter under data/1a, data/1b and data/1c; "
            "give the folder of train_r01_v07 that holds data and include"
        )
    images: list[NDArray[np.uint8]] = []
    strokes: list[canvas.Polyline] = []
    counts = []
    for _, group in groupby(samples, key=lambda sample: sample.writer):
        written = [sample.strokes for sample in group]
        drawn = _simplified([map(canvas.smooth, one) for one in written], _DRAWN_TOLERANCE)
        images += map(canvas.draw, drawn)
        strokes += chain.from_iterable(_simplified(drawn, _STORED_TOLERANCE))
        counts.append(len(written))
    writers = WriterSet.of(
        np.stack(images),
        labels=[sample.label for sample in samples],
        writer=np.repeat(np.arange(len(counts)), counts),
        names=list(dict.fromkeys(sample.writer for sample in samples)),
        classes=BYCLASS,
        order=np.concatenate([np.arange(count) for count in counts]),
    )
    numbers = PenNumbers(
        size=np.array([sample.size for sample in samples], np.float32),
        strokes=np.array([min(len(sample.strokes), 255) for sample in samples], np.uint8),
        bottom=np.array([sample.bottom for sample in samples], np.float32),
        line=np.array([sample.line for sample in samples], np.float32),
    )
    kept = _stroke_file(strokes, [len(sample.strokes) for sample in samples])
    return PenWriters(writers, numbers, kept)


class _Sample(NamedTuple):
    """A character; strokes in a box of 1000 with y down.

    `when` orders a writer's characters: date, file by its numbers, component, point.
    """

    writer: str
    when: tuple[tuple[int, int, int], list[str | int], int, int]
    label: int
    strokes: list[canvas.Polyline]
    digest: bytes
    size: float
    bottom: float
    line: float


def _samples(folder: Path) -> Iterator[_Sample]:
    for part in ("data", "include"):
        if not (folder / part).is_dir():
            raise InputError(
                f"{folder}: holds no folder {part}; give the folder of train_r01_v07 that holds "
                "data and include"
            )
    reader = UnipenReader(folder)
    beyond: list[str] = []
    for contributor, path in _files(folder):
        recording = reader.read(path)
        writer = _writer(contributor, recording.writer or path.stem, recording.writer_info)
        if writer is None:
            continue
        for character in recording.characters:
            if len(character.text) != 1 or character.text not in BYCLASS:
                continue
            if any(span.last >= len(recording.components) for span in character.spans):
                beyond.append(character.place)
                continue
            ink = _ink(recording.components, character.spans, partly=contributor == "ibm")
            sample = None if ink is None else _sample(folder, writer, recording, character, ink)
            if sample is not None:
                yield sample
    if beyond:
        _log.warning(
            "%d characters are beyond the ink of their files and left out; the first: %s",
            len(beyond),
            beyond[0],
        )


def _files(folder: Path) -> list[tuple[str, Path]]:
    """Contributor and path of every file of isolated characters, in order of file name."""
    found = [
        (path.relative_to(folder / "data").parts[1], path.name, category, path)
        for category in CATEGORIES
        for path in (folder / "data" / category).rglob("*")
        if path.is_file()
    ]
    return [(contributor, path) for contributor, _, _, path in sorted(found)]


def _writer(contributor: str, identity: str, info: str) -> str | None:
    """The name of the person of a file; None if there are several people."""
    name = identity.lower()
    match contributor:
        case "apa" | "apb" | "app":  # one collection of Apple's in three parts
            plain = re.sub("^text(.*)Split$", r"\1", identity.replace("_", ""))
            return f"apple/{plain.lower()}"
        case "cea" | "ceb" | "ced":
            return f"cedar/{name}"
        case "ibm" if session := re.fullmatch(r"r\d\d-(\d\d)", identity):
            return f"ibm/w{session[1]}"
        case "imp" if first_name := re.search(r"Other Names:\s*(\w)", info):
            return f"imp/{name}_{first_name[1].lower()}"  # two people are called Xiao
        case "gmd" if identity == "kast":
            return None
    return f"{contributor}/{name}"


def _ink(
    components: Sequence[Points | None], spans: Iterable[Span], partly: bool
) -> list[Points] | None:
    """Strokes of the spans; None if there are none, or some are withheld.

    The archive has a lone 0 0 where ink is withheld. With `partly` that is a stray sample.
    """
    strokes, withheld = [], False
    for span in spans:
        for number in range(span.first, span.last + 1):
            points = components[number]
            if points is None:
                continue
            start = span.start if number == span.first else 0
            stop = span.stop if number == span.last else None
            points = points[start : None if stop is None else stop + 1]
            if points.any():
                strokes.append(points)
            elif len(points):
                withheld = True
    return strokes if strokes and (partly or not withheld) else None


def _sample(
    folder: Path, writer: str, recording: Recording, character: Character, ink: list[Points]
) -> _Sample | None:
    """The character, or None for a dot, which has no size."""
    cleaned = [_cleaned(stroke) for stroke in ink]
    points = np.concatenate(cleaned)
    low, high = points.min(axis=0), points.max(axis=0)
    size = float((high - low).max())
    if size < _SMALLEST_SIZE:
        return None
    scale = canvas.BOX / size
    file = re.split(r"(\d+)", str(recording.ink.relative_to(folder) if recording.ink else ""))
    natural = [int(part) if part.isdecimal() else part for part in file]
    date, first = recording.date or (0, 0, 0), character.spans[0]
    return _Sample(
        writer,
        (date, natural, first.first, first.start),
        BYCLASS.index(character.text),
        [np.stack([s[:, 0] - low[0], high[1] - s[:, 1]], axis=1) * scale for s in cleaned],
        blake2b(b"|".join(s.astype(np.int64).tobytes() for s in ink), digest_size=16).digest(),
        size,
        float(low[1]),
        np.nan if recording.line is None else recording.line,
    )


def _cleaned(stroke: Points) -> Points:
    """A stroke without points that repeat the one before, or that jump to the origin."""
    kept = np.ones(len(stroke), bool)
    kept[1:] = (stroke[1:] != stroke[:-1]).any(axis=1)
    at_origin = ~stroke.any(axis=1)
    if np.abs(stroke[~at_origin]).min() > _FAR_FROM_AXES:
        kept &= ~at_origin
    return stroke[kept] if kept.any() else stroke[:1]


def _simplified(
    characters: Sequence[Iterable[canvas.Polyline]], tolerance: float
) -> list[list[canvas.Polyline]]:
    """The strokes of every character with fewer points, all characters at once."""
    strokes = [list(character) for character in characters]
    simple = iter(canvas.simplify(list(chain.from_iterable(strokes)), tolerance))
    return [list(islice(simple, len(character))) for character in strokes]


def _stroke_file(strokes: Sequence[canvas.Polyline], counts: Sequence[int]) -> StrokeFile:
    """Strokes of characters of so many strokes each, in whole units of the box."""
    lengths = np.array([len(stroke) for stroke in strokes], np.int64)
    pen_up = np.zeros(lengths.sum(), np.uint8)
    pen_up[np.cumsum(lengths) - 1] = 1
    first = np.cumsum(counts) - np.array(counts)
    return StrokeFile(
        np.clip(np.rint(np.concatenate(strokes)), 0, canvas.BOX).astype(np.int16),
        pen_up,
        np.concatenate([[0], np.cumsum(np.add.reduceat(lengths, first))]).astype(np.uint32),
    )
