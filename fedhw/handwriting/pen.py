"""What a pen tells of a character beside its picture."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedhw.data.writers import WriterSet
from fedhw.handwriting.stroke_file import StrokeFile


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
