"""Pen strokes to observations, without keeping the event loop from anybody."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from fedhw.data.encoders import find_encoder
from fedhw.observation import Observations, ObservationType

FEW_POINTS = 100
"""Points that are drawn in less time than another thread takes to start."""

# Of its own: where changes are made a thread may have to wait for learning.
_ENCODING = ThreadPoolExecutor(1, "encoding")


async def encode(strokes: Sequence[NDArray[np.number]], takes: ObservationType) -> Observations:
    """Return the observation that strokes [P, 2] make.

    Raises InputError for strokes that cannot be used and a type that nothing makes of strokes.
    """
    encoder = find_encoder("strokes", takes)
    if sum(map(len, strokes)) <= FEW_POINTS:
        return encoder.encode(strokes)
    return await asyncio.get_running_loop().run_in_executor(_ENCODING, encoder.encode, strokes)
