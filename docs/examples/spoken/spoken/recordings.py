"""Recordings of spoken digits in one npz file, as the source `spoken:FILE`."""

import zipfile
from itertools import pairwise

import numpy as np

from fedhw.data.writers import WriterSet
from fedhw.errors import InputError
from fedhw.observation import Labels
from spoken.log_mel import LOG_MEL, RATE_HERTZ, log_mel

WORDS = Labels(("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"))


# --8<-- [start:source]
def load_recordings(where: str, seed: int) -> WriterSet:
    """Read recordings from an npz file of the layout below; `seed` changes nothing.

    Arrays: audio int16 [S], all recordings one after the other; offsets [N + 1], where each begins
    and ends; labels [N], 0..9; speaker [N], an index into `speakers`; speakers str [W]; order [N],
    ascending in time within a speaker; rate, 8000. Raises InputError where a file is not so.
    """
    try:
        with np.load(where) as file:
            arrays = dict(file)
        offsets, rate = arrays["offsets"].astype(int), int(arrays["rate"])
        if rate != RATE_HERTZ:
            raise InputError(f"rate: {rate} is not {RATE_HERTZ}; resample {where}")
        recordings = [arrays["audio"][a:b] for a, b in pairwise(offsets)]
        return WriterSet.of(
            LOG_MEL.stack([log_mel(samples) for samples in recordings]),
            arrays["labels"],
            writer=arrays["speaker"],
            names=[str(name) for name in arrays["speakers"]],
            classes=WORDS,
            order=arrays["order"],
        )
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(
            f"data: {where!r} is no file of recordings ({error}); give spoken:FILE.npz"
        ) from error


# --8<-- [end:source]
