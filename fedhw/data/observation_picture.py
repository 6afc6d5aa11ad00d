"""An observation as a small picture, for web pages."""

import base64
import io

import numpy as np
from PIL import Image

from fedhw.observation import Observations


def png_url(observation: Observations) -> str:
    """Return a PNG as a data URL; the last axis goes across, all others go down.

    The largest value is black on a transparent background, so that a dark page can invert it. uint8
    is taken as it is; other types are scaled from their least to their largest value.

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
