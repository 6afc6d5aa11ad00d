"""Pen strokes of many characters in one npz archive."""

import zlib
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from fedhw.errors import InputError
from fedhw.handwriting.strokes import Stroke


@dataclass(frozen=True)
class StrokeFile:
    """Strokes of many characters, flat as in an npz archive; index it to get one's strokes.

    Shapes: points [P, 2], y down; pen_up [P], 1 on the last point of each stroke; offsets [N + 1],
    where each character's points begin.

    Raises InputError when an array is not so.

    >>> file = StrokeFile(np.zeros((5, 2)), np.array([0, 1, 1, 0, 1]), np.array([0, 3, 5]))
    >>> len(file), [len(stroke) for stroke in file[0]]
    (2, [2, 1])
    """

    points: Stroke
    pen_up: NDArray[np.integer]
    offsets: NDArray[np.integer]

    def __post_init__(self) -> None:
        total = len(self.points)
        if self.points.ndim != 2 or self.points.shape[1] != 2:
            raise InputError(f"points: shape {self.points.shape} is not [P, 2]; give (x, y) a row")
        if self.pen_up.shape != (total,):
            raise InputError(
                f"pen_up: shape {self.pen_up.shape} does not fit {total} points; give one a point"
            )
        offsets = self.offsets.astype(np.int64)
        ascending = offsets.ndim == 1 and len(offsets) >= 2 and bool(np.all(np.diff(offsets) > 0))
        if not ascending or offsets[0] != 0 or offsets[-1] != total:
            raise InputError(
                f"offsets: they do not ascend from 0 to the {total} points; recompute them"
            )

    @classmethod
    def read(cls, path: Path) -> "StrokeFile":
        """Read an npz archive; raises InputError for one that lacks an array or holds objects."""
        try:
            with np.load(path, allow_pickle=False) as archive:
                return cls(archive["points"], archive["pen_up"], archive["offsets"])
        except InputError:
            raise
        except (OSError, EOFError, KeyError, ValueError, BadZipFile, zlib.error) as error:
            raise InputError(
                f"{path}: no npz archive of points, pen_up and offsets ({error}); write it anew"
            ) from error

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, character: int) -> list[Stroke]:
        begin, end = int(self.offsets[character]), int(self.offsets[character + 1])
        breaks = np.flatnonzero(self.pen_up[begin : end - 1]) + 1
        return np.split(self.points[begin:end], breaks)
