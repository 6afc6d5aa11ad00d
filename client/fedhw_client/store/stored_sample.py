"""A correction as it is stored, salvaged and exported."""

import struct
import zlib
from typing import NamedTuple


class StoredSample(NamedTuple):
    """An observation, its true label, and whether it was recognised.

    `position` counts samples in order; `at` is in Unix seconds; `observation` has the bytes of
    `ObservationType.to_bytes`; `ge_right` says whether the global expert alone was right, `right`
    whether the mixture was.

    >>> StoredSample(1, "a", 0.5, bytes(784), "7", True, True).checksum
    80052520
    """

    position: int
    id: str
    at: float
    observation: bytes
    label: str
    ge_right: bool
    right: bool

    @property
    def checksum(self) -> int:
        """CRC-32 of all fields, 0 to 2**32 - 1: it detects damage, not forgery.

        It covers the fixed fields, little-endian, then the lengths of id, observation and label in
        bytes, then these three, text as UTF-8. Raises struct.error for a position beyond 64 bits.
        """
        parts = (self.id.encode(), self.observation, self.label.encode())
        # SQLite drops the sign of zero, so the checksum does, too: -0.0 + 0.0 is 0.0.
        at = self.at + 0.0
        lengths = map(len, parts)
        fixed = struct.pack("<qd??3I", self.position, at, self.ge_right, self.right, *lengths)
        return zlib.crc32(b"".join((fixed, *parts)))
