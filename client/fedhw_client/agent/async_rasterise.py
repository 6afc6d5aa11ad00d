"""Pen strokes to glyphs, without keeping the event loop from anybody."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from fedhw.handwriting.strokes import Stroke, rasterise

FEW_POINTS = 100
"""Points that are drawn in less time than another thread takes to start."""

# Of its own: where changes are made a thread may have to wait for learning.
_DRAWING = ThreadPoolExecutor(1, "drawing")


async def draw(strokes: Sequence[Stroke]) -> NDArray[np.uint8]:
    """Return the glyph [28, 28] of strokes [P, 2]; raises InputError for strokes that are none."""
    if sum(map(len, strokes)) <= FEW_POINTS:
        return rasterise(strokes)
    return await asyncio.get_running_loop().run_in_executor(_DRAWING, rasterise, strokes)
