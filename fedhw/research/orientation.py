"""Whether data are inverted or turned: evidence from what a global expert reads."""

from collections.abc import Callable

import numpy as np

from fedhw.data.encoders import find_encoder
from fedhw.data.writers import WriterSet
from fedhw.errors import InputError
from fedhw.experts.evaluation import accuracy
from fedhw.experts.global_expert import GlobalExpert
from fedhw.experts.orientation import FAR_BETTER
from fedhw.observation import Observations

MOST_READ = 500
"""Observations that are read in each way."""


def _inverted(some: Observations) -> Observations:
    inverted: Observations = some.max() - (some - some.min())
    return inverted


WAYS: dict[str, Callable[[Observations], Observations]] = {
    "inverted": _inverted,
    "transposed": lambda some: some.swapaxes(1, 2),
    "upside down": lambda some: some[:, ::-1],
    "mirrored": lambda some: some[:, :, ::-1],
    "turned by 180 degrees": lambda some: some[:, ::-1, ::-1],
    "turned to the left": lambda some: np.rot90(some, 1, (1, 2)),
    "turned to the right": lambda some: np.rot90(some, -1, (1, 2)),
}
WAYS |= {
    f"inverted and {name}": lambda some, turn=turn: _inverted(turn(some))  # type: ignore[misc]
    for name, turn in WAYS.items()
    if turn is not _inverted
}


def warn_if_turned(expert: GlobalExpert, data: WriterSet) -> str | None:
    """Return a warning where an expert reads pictures [H, W] far better in another way."""
    if len(data.observation.shape) != 2:
        return None
    rows = np.linspace(0, len(data) - 1, min(len(data), MOST_READ)).astype(int)
    some, labels = data.observations[rows], data.labels[rows]
    turned = {name: np.ascontiguousarray(way(some)) for name, way in WAYS.items()}
    read = {
        name: accuracy(expert, other, labels)
        for name, other in turned.items()
        if other.shape == some.shape
    }
    best, plain = max(read, key=read.__getitem__), accuracy(expert, some, labels)
    if read[best] < plain + FAR_BETTER:
        return None
    return (
        f"data: the global expert reads {plain:.0%} of the observations as they are and "
        f"{read[best]:.0%} of them {best}; give them that way"
    )


def warn_if_inverted(data: WriterSet) -> str | None:
    """Return a warning where the edge of most pictures [H, W] is not the paper of an encoder.

    This needs no expert. The encoder for strokes of this type tells how bright paper is.
    """
    if len(data.observation.shape) != 2 or data.observation.dtype != "uint8":
        return None
    try:
        drawn = find_encoder("strokes", data.observation).encode([np.array([[0, 0], [1, 1]])])
    except InputError:
        return None
    paper, seen = (float(np.median(_edges(each))) for each in (drawn[None], data.observations))
    if abs(paper - seen) <= data.observation.largest / 2:
        return None
    return (
        f"data: the edges of most observations are {seen:.0f}, while those of pen strokes are "
        f"{paper:.0f}; invert the observations, since devices will read pen strokes"
    )


def _edges(some: Observations) -> Observations:
    return np.concatenate([some[:, 0], some[:, -1], some[:, :, 0], some[:, :, -1]], axis=1)
