"""A correction as it is given, and as it is kept."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedhw.data.writers import SIDE
from fedhw_client.store.stored_sample import StoredSample


class Correction(NamedTuple):
    """A glyph uint8 [28, 28], ink 255 on paper 0, the character that was meant, and its name."""

    glyph: NDArray[np.uint8]
    label: str
    id: str = ""


class Kept(NamedTuple):
    """A correction that is kept, its time in Unix seconds, and whether it had been recognised."""

    position: int
    id: str
    at: float
    glyph: NDArray[np.uint8]
    label: str
    ge_right: bool
    right: bool

    @classmethod
    def of(cls, row: StoredSample) -> "Kept":
        """Return a row of the store with its glyph as an array."""
        glyph = np.frombuffer(row.glyph, np.uint8).reshape(SIDE, SIDE)
        return cls(**row._asdict() | {"glyph": glyph})
