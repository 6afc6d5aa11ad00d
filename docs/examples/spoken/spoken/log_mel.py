"""Log-mel frames: what of a recording a small network hears."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from fedhw.observation import ObservationType

RATE_HERTZ = 8000
FRAMES, BANDS = 49, 32
WINDOW, HOP = 256, 128
"""Samples: a frame is 32 ms long and begins 16 ms after the one before."""

TRANSFORM = 512
"""Samples of a Fourier transform; a window is padded, so that no band lies between two bins."""

LOWEST_HERTZ = 60
FLOOR = 1e-3
"""Added to each power, as a share of the recording's mean: silence is not minus infinity."""

# --8<-- [start:observation]
LOG_MEL = ObservationType((FRAMES, BANDS), "float32")
"""Frames in order of time, bands in order of pitch; mean 0 and standard deviation 1."""


def log_mel(samples: NDArray[np.int16]) -> NDArray[np.float32]:
    """Return the log-mel frames [49, 32] of a recording [S] of 8,000 samples a second.

    What is longer than 0.8 s loses both ends, what is shorter is centred in silence. The frames
    are standardised for each recording, so that loudness does not matter.

    >>> tone = 1000 * np.sin(2 * np.pi * 440 / RATE_HERTZ * np.arange(4000))
    >>> frames = log_mel(tone.astype(np.int16))
    >>> frames.shape, frames.dtype.name, int(frames[24].argmax())
    ((49, 32), 'float32', 6)
    """
    length = (FRAMES - 1) * HOP + WINDOW
    samples = samples[max(0, len(samples) - length) // 2 :][:length].astype(np.float64)
    before = (length - len(samples)) // 2
    samples = np.pad(samples, (before, length - len(samples) - before))
    windows = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP] * np.hanning(WINDOW)
    power = np.abs(np.fft.rfft(windows, TRANSFORM)) ** 2
    bands = power @ mel_filters().T
    logarithms = np.log(bands + FLOOR * bands.mean() + 1e-9)
    spread = logarithms.std() or 1.0  # of silence
    return ((logarithms - logarithms.mean()) / spread).astype(np.float32)


# --8<-- [end:observation]


@cache
def mel_filters() -> NDArray[np.float64]:
    """Return triangular filters [32, 257] at even distances in mel (Davis, Mermelstein 1980).

    The mel of f hertz is 2595 log10(1 + f / 700) (O'Shaughnessy 1987).
    """
    lowest, highest = (2595 * np.log10(1 + f / 700) for f in (LOWEST_HERTZ, RATE_HERTZ / 2))
    edges = 700 * (10 ** (np.linspace(lowest, highest, BANDS + 2) / 2595) - 1)
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    hertz = np.linspace(0, RATE_HERTZ / 2, TRANSFORM // 2 + 1)
    rising, falling = (hertz - left) / (centre - left), (right - hertz) / (right - centre)
    return np.maximum(0, np.minimum(rising, falling))
