"""Encoders: they turn a file or pen strokes into an observation of a release's type."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from fedhw.errors import InputError
from fedhw.observation import Observations, ObservationType
from fedhw.system.plugins import ENCODERS, load_all

MAX_POINTS = 10_000
"""The most points of a character, more than any hand makes."""


@dataclass(frozen=True)
class Encoder:
    """Makes observations of one type.

    `encode` takes the `Path` of a file, or strokes, each [P, 2], x to the right and y down in any
    unit; it raises InputError for what it cannot use.
    """

    observation: ObservationType
    encode: Callable[[Any], Observations]


def check_points(strokes: Iterable[int]) -> None:
    """Raise InputError for strokes of too many points in all; one without points counts as one."""
    total = sum(max(points, 1) for points in strokes)
    if total > MAX_POINTS:
        raise InputError(f"strokes: {total} points are over {MAX_POINTS}; thin them out")


@cache
def find_encoder(of: Literal["file", "strokes"], observation: ObservationType) -> Encoder:
    """Return the encoder for this type; raises InputError where none is installed.

    >>> find_encoder("strokes", ObservationType((49, 32), "float32"))
    Traceback (most recent call last):
    fedhw.errors.InputError: strokes: nothing installed makes float32 [49, 32] of them; install a \
package that does, or give the observation itself
    """
    for encoder in load_all(ENCODERS, of):
        if isinstance(encoder, Encoder) and encoder.observation == observation:
            return encoder
    raise InputError(
        f"{of}: nothing installed makes {observation} of {'it' if of == 'file' else 'them'}; "
        "install a package that does, or give the observation itself"
    )
