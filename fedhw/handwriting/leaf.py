"""FEMNIST as LEAF's own scripts write it (Caldas et al. 2018, arXiv 1812.01097): json files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedhw.data.writers import WriterSet
from fedhw.errors import InputError
from fedhw.handwriting.alphabet import BYCLASS
from fedhw.handwriting.glyph import SIDE

MALFORMED = (LookupError, ArithmeticError, ValueError, TypeError, AttributeError, RecursionError)
"""What reading a file of another shape raises."""


def load_leaf(folder: Path) -> WriterSet:
    """Read the json files in a folder such as `data/all_data`, in the order of their names.

    A writer who is in several files, as of `train` and `test`, is one writer. LEAF does not tell
    when a character was written: the order is that of the files. Raises InputError, with the file,
    for anything but FEMNIST.
    """
    images: list[NDArray[np.uint8]] = []
    labels: list[NDArray[np.integer]] = []
    writer: list[int] = []
    index: dict[str, int] = {}
    for file in sorted(folder.glob("*.json")):
        for name, (own, characters) in _writers(file).items():
            images.append(own)
            labels.append(characters)
            writer += [index.setdefault(name, len(index))] * len(own)
    if not images:
        raise InputError(
            f"{folder}: holds no writer in a .json file; give a folder of LEAF's files"
        )
    try:
        return WriterSet.of(
            np.concatenate(images), np.concatenate(labels), writer, tuple(index), BYCLASS
        )
    except InputError as error:
        raise InputError(f"{folder}: {error}") from error


def _writers(file: Path) -> dict[str, tuple[NDArray[np.uint8], NDArray[np.integer]]]:
    """The glyphs [N, 28, 28] and labels [N] of each writer in a file."""
    try:
        data: dict[str, Any] = json.loads(file.read_bytes())["user_data"]
        return {
            name: (_glyphs(own["x"]), _labels(own["y"], len(own["x"])))
            for name, own in data.items()
            if own["x"] or own["y"]  # LEAF keeps writers of whom it has drawn no sample
        }
    except MALFORMED as error:
        raise InputError(
            f"{file}: is not FEMNIST of LEAF ({type(error).__name__}); make it again with LEAF's "
            "preprocess.sh"
        ) from error


def _glyphs(rows: list[list[float]]) -> NDArray[np.uint8]:
    """Glyphs of rows of 784 numbers, 0 for dark ink and 1 for white paper."""
    grey = np.array(rows, np.float64).reshape(len(rows), SIDE, SIDE)
    if not ((grey >= 0) & (grey <= 1)).all():
        raise ValueError("x: not all numbers are 0 to 1")
    return np.rint(255 * (1 - grey)).astype(np.uint8)


def _labels(values: list[int], n: int) -> NDArray[np.integer]:
    labels = np.array(values)
    if labels.shape != (n,) or labels.dtype.kind not in "iu":
        raise ValueError("y: there is not one whole number for each x")
    return labels
