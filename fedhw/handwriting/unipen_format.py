"""The UNIPEN 1.0 format of pen recordings (I. Guyon et al., ICPR 1994).

A file is a sequence of statements: a keyword that begins with a dot, then its arguments until the
next keyword. Each `.PEN_DOWN` and `.PEN_UP` holds the coordinates of one component, counted from 0
through everything included; each `.SEGMENT` says what some components, or points of them, spell.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedhw.errors import InputError
from fedhw.handwriting.strokes import MAX_COORDINATE

Points = NDArray[np.float64]
"""Where the pen went, [P, 2], y up, in the tablet's units."""

_STATEMENT = re.compile(r"^[^\S\n]*(\.[^\W\d_]\S*)", re.MULTILINE)
_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?([eE][-+]?\d+)?")
_CHARACTER = re.compile(r'CHARACTER\s+(\S+)\s+(?:\S+\s+)?"((?:[^"\\]|\\.)*)"')
_SPAN = re.compile(r"(\d{1,9})(?::(\d{1,9}))?(?:-(\d{1,9})(?::(\d{1,9}))?)?")
_RECENT_FILES = 64  # the same ink serves digits, upper case and lower case


class Span(NamedTuple):
    """Components `first` to `last`; of these two, points from `start` on and up to `stop`."""

    first: int
    start: int
    last: int
    stop: int | None


class Character(NamedTuple):
    """The text that some spans of ink spell, and the file and line that says so."""

    text: str
    spans: tuple[Span, ...]
    place: str


@dataclass
class Recording:
    """A file together with everything that it includes.

    A component is None while the pen was up. `date` is the year without its century, the month and
    the day; `line` the height of the lowest guide line; `ink` the file of the first component.
    """

    coordinates: tuple[str, ...] = ("X", "Y")
    components: list[Points | None] = field(default_factory=list)
    characters: list[Character] = field(default_factory=list)
    writer: str | None = None
    writer_info: str = ""
    date: tuple[int, int, int] | None = None
    line: float | None = None
    ink: Path | None = None

    def append(self, included: "Recording") -> None:
        """Append an included file."""
        self.coordinates = included.coordinates
        self.components += included.components
        self.characters += included.characters
        self.writer = included.writer or self.writer
        self.writer_info = included.writer_info or self.writer_info
        self.date = included.date or self.date
        self.line = self.line if included.line is None else included.line
        self.ink = self.ink or included.ink


class UnipenReader:
    """Reads the files of one archive; included files are in its folder `include`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: list[Path] = []
        self._parsed = lru_cache(maxsize=_RECENT_FILES)(self._parse)

    def read(self, path: Path) -> Recording:
        """Read a file; raises InputError, with file and line, for one that is not in the format.

        Documentation (.doc) may quote anything: its ink and segments are not read, and its included
        files may be missing. In other files only lexicons may be missing.
        """
        return self._parsed(path, Recording().coordinates)

    def _parse(self, path: Path, coordinates: tuple[str, ...]) -> Recording:
        self._open.append(path)
        recording = Recording(coordinates)
        is_documentation = path.suffix == ".doc"
        for keyword, text, place in _statements(path):
            words = text.split()
            match keyword:
                case ".INCLUDE":
                    for name in words:
                        self._include(recording, name.strip('"<>'), path, place)
                case ".PEN_DOWN" | ".PEN_UP" if len(words) >= len(recording.coordinates):
                    if not is_documentation:
                        down = keyword == ".PEN_DOWN"
                        recording.components.append(
                            _points(words, recording.coordinates, place) if down else None
                        )
                        recording.ink = recording.ink or path
                case ".SEGMENT" if words[:1] == ["CHARACTER"] and not is_documentation:
                    recording.characters.append(_character(text, place))
                case ".COORD" if words:
                    recording.coordinates = _coordinates(words, place)
                case ".WRITER_ID" if words:
                    recording.writer = words[0]
                case ".WRITER_INFO":
                    recording.writer_info = text
                case ".DATE" if len(words) >= 3:
                    month, day, year = (
                        int(word) if re.fullmatch(r"\d{1,4}", word) else 0 for word in words[:3]
                    )
                    recording.date = (year % 100, month, day)
                case ".H_LINE":
                    lines = [float(word) for word in words if _NUMBER.fullmatch(word)]
                    recording.line = min(lines, default=recording.line)
        self._open.pop()
        return recording

    def _include(self, recording: Recording, name: str, path: Path, place: str) -> None:
        bases = (self._folder / "include", path.parent, self._folder)
        files = (base / spelling for base in bases for spelling in (name, name.lower()))
        found = next((f for f in files if f.is_relative_to(self._folder) and f.is_file()), None)
        if found is not None and found not in self._open:
            recording.append(self._parsed(found, recording.coordinates))
        elif path.suffix != ".doc" and (found is not None or name.endswith(".dat")):
            problem = f"not in {bases[0]}" if found is None else "this file itself or includes it"
            raise InputError(f"{place}: .INCLUDE {name}: it is {problem}; unpack the whole archive")


def _statements(path: Path) -> Iterator[tuple[str, str, str]]:
    """Keyword, arguments and place of every statement of a file."""
    try:
        # Latin-1 accepts every byte; outside names and comments the format is ASCII.
        text = path.read_bytes().decode("latin-1").replace("\r\n", "\n").replace("\r", "\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be read; unpack the archive again") from error
    found = list(_STATEMENT.finditer(text))
    line, counted = 1, 0
    for statement, following in zip(found, [*found[1:], None], strict=True):
        line += text.count("\n", counted, statement.start())
        counted = statement.start()
        end = following.start() if following else len(text)
        yield statement[1], text[statement.end() : end].strip(), f"{path}:{line}"


def _points(words: list[str], coordinates: tuple[str, ...], place: str) -> Points:
    try:
        numbers = np.array(words, np.float64)
    except ValueError:
        numbers = np.array([np.nan])
    # One comparison finds NaN, infinity and the absurd alike.
    if not np.all(np.abs(numbers) <= MAX_COORDINATE):
        raise InputError(
            f"{place}: .PEN_DOWN: not all coordinates are numbers within {MAX_COORDINATE:g}; "
            "unpack the archive again or mend the file"
        )
    if len(numbers) % len(coordinates):
        raise InputError(
            f"{place}: .PEN_DOWN: {len(numbers)} numbers are no whole points of "
            f"{' '.join(coordinates)}; unpack the archive again or mend the file"
        )
    points: Points = numbers.reshape(-1, len(coordinates))
    return points[:, [coordinates.index("X"), coordinates.index("Y")]]


def _character(text: str, place: str) -> Character:
    segment = _CHARACTER.fullmatch(" ".join(text.split()))
    parts = [part for part in re.split("[,+]", segment[1]) if part] if segment else []
    spans = [_SPAN.fullmatch(part) for part in parts]
    if segment is None or not spans or None in spans:
        raise InputError(
            f"{place}: .SEGMENT CHARACTER does not give components and a label in quotes, "
            'as in CHARACTER 3:0-4:12 OK "a"; mend the line'
        )
    label = re.sub(r"\\(.)", r"\1", segment[2])
    return Character(label, tuple(_span(span) for span in spans if span), place)


def _span(found: re.Match[str]) -> Span:
    first, last = int(found[1]), int(found[3] or found[1])
    stop = found[4] if found[3] else found[2]
    return Span(first, int(found[2] or 0), last, None if stop is None else int(stop))


def _coordinates(words: list[str], place: str) -> tuple[str, ...]:
    coordinates = tuple(word.strip(",").upper() for word in words)
    if not {"X", "Y"} <= set(coordinates):
        raise InputError(f"{place}: .COORD {' '.join(words)}: there is no X and Y; name both")
    return coordinates
