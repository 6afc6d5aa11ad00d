"""An observation as a small picture, for pages that show people what was recognised."""

import base64
import io

import numpy as np
from PIL import Image

from fedhw.observation import Observations


def png_url(observation: Observations) -> str:
    """Return a data URL; the last axis goes across, all others down.

    The largest value is black on transparent paper, so that a dark page can invert it; uint8 is
    taken as it is, other values from the least to the largest.

    >>> png_url(np.eye(3, dtype=np.float32))[:22]
    'data:image/png;base64,'
    """
    ink = observation.reshape(-1, observation.shape[-1])
    if ink.dtype != np.uint8:
        above = ink - ink.min().astype(np.float64)
        ink = np.rint(255 * above / (above.max() or 1)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(np.stack([np.zeros_like(ink), ink], -1)).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
