"""A correction as it is given, and as it is kept."""

from typing import NamedTuple

from fedhw.observation import Observations, ObservationType
from fedhw_client.store.stored_sample import StoredSample


class Correction(NamedTuple):
    """An observation, the label that was meant, and the name of the correction."""

    observation: Observations
    label: str
    id: str = ""


class Kept(NamedTuple):
    """A correction that is kept, its time in Unix seconds, and whether it had been recognised."""

    position: int
    id: str
    at: float
    observation: Observations
    label: str
    ge_right: bool
    right: bool

    @classmethod
    def of(cls, row: StoredSample, takes: ObservationType) -> "Kept":
        """Return a row of the store with its observation as an array."""
        return cls(**row._asdict() | {"observation": takes.from_bytes(row.observation)})
