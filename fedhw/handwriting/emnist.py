"""EMNIST (Cohen et al. 2017, arXiv 1702.05373) from the idx files that NIST distributes."""

import gzip
import math
import re
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedhw.data.writers import WriterSet
from fedhw.errors import InputError
from fedhw.handwriting.alphabet import BALANCED, BYCLASS, DIGITS, LETTERS
from fedhw.handwriting.glyph import GLYPH

ALPHABETS = {
    "byclass": BYCLASS,
    "bymerge": BALANCED,
    "balanced": BALANCED,
    "letters": LETTERS,
    "digits": DIGITS,
    "mnist": DIGITS,
}
"""The labels of the six splits."""


def load_emnist(folder: Path, split: str, part: Literal["train", "test"]) -> WriterSet:
    """Read one part of one split, upright, as the characters of a single writer named "emnist".

    EMNIST does not tell who wrote a character nor when: it is generic data, in the order of the
    file. Reads `emnist-{split}-{part}-images-idx3-ubyte` and `...-labels-idx1-ubyte`, plain or
    gzipped, in `folder`. Raises InputError for an unknown split or part and for files that are
    missing, damaged or of different lengths.
    """
    _check_choice("split", split, tuple(ALPHABETS))
    _check_choice("part", part, ("train", "test"))
    stem = f"emnist-{split}-{part}"
    images = _read_idx(folder / f"{stem}-images-idx3-ubyte", dimensions=3)
    labels = _read_idx(folder / f"{stem}-labels-idx1-ubyte", dimensions=1).astype(np.int64)
    if len(images) != len(labels):
        raise InputError(
            f"{stem}: {len(images)} images do not fit {len(labels)} labels; download both again"
        )
    try:
        GLYPH.check_batch(images)
        return WriterSet.of(
            # The files store each glyph column by column.
            observations=np.ascontiguousarray(images.transpose(0, 2, 1)),
            # The letters alone are numbered from 1.
            labels=labels - 1 if split == "letters" else labels,
            writer=np.zeros(len(labels), np.uint8),
            names=["emnist"],
            classes=ALPHABETS[split],
        )
    except InputError as error:
        raise InputError(f"{folder / stem}: {error}") from error


def split_in(folder: Path) -> str:
    """Return the split whose training part is in a folder, byclass if that is there.

    Without any it is byclass, too. Raises InputError where there are several others.
    """
    pattern = re.compile(r"emnist-(\w+)-train-images-idx3-ubyte(\.gz)?")
    found = {
        match[1] for file in folder.glob("emnist-*") if (match := pattern.fullmatch(file.name))
    }
    if not found or "byclass" in found:
        return "byclass"
    if len(found) > 1:
        raise InputError(
            f"{folder}: holds the splits {', '.join(sorted(found))}; give a folder with one of them"
        )
    return found.pop()


def _check_choice(field: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{field}: {value!r} is unknown; choose one of {', '.join(choices)}")


def _read_idx(path: Path, dimensions: int) -> NDArray[Any]:
    """The uint8 array of an idx file: magic, a big-endian uint32 for each dimension, the bytes."""
    data = _read_plain_or_gzip(path)
    magic = bytes([0, 0, 8, dimensions])
    header = 4 + 4 * dimensions
    if data[:4] != magic:
        raise InputError(f"{path}: starts with {data[:4]!r}, not {magic!r}; give the idx file")
    if len(data) < header:
        raise InputError(f"{path}: ends within its header; download it again")
    shape = np.frombuffer(data, ">u4", dimensions, offset=4).tolist()
    if len(data) - header != math.prod(shape):
        raise InputError(
            f"{path}: has {len(data) - header} bytes where shape {shape} needs {math.prod(shape)};"
            " download it again"
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def _read_plain_or_gzip(path: Path) -> bytes:
    packed = path.with_name(f"{path.name}.gz")
    try:
        return path.read_bytes() if path.exists() else gzip.decompress(packed.read_bytes())
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: there is no such file, plain or .gz; give the folder of EMNIST's idx files"
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read; download it again") from error
