"""Encodes pen strokes as observations without blocking the event loop."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from fedhw.data.encoders import find_encoder
from fedhw.observation import Observations, ObservationType

FEW_POINTS = 100
"""Points that are encoded faster than they are handed to another thread."""

# A pool of its own: threads of the default one may be waiting for a learning.
_ENCODING = ThreadPoolExecutor(1, "encoding")


async def encode(strokes: Sequence[NDArray[np.number]], takes: ObservationType) -> Observations:
    """Encode strokes, each [P, 2], as one observation.

    Raises InputError for strokes that cannot be used, and for a type without an encoder for them.
    """
    encoder = find_encoder("strokes", takes)
    if sum(map(len, strokes)) <= FEW_POINTS:
        return encoder.encode(strokes)
    return await asyncio.get_running_loop().run_in_executor(_ENCODING, encoder.encode, strokes)
