"""A correction as it is given to the agent."""

from typing import NamedTuple

from fedhw.observation import Observations


class Correction(NamedTuple):
    """An observation, its true label, and the name of the correction, which may be left out."""

    observation: Observations
    label: str
    id: str = ""
