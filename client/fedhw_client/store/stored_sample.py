"""One sample as the device keeps it: the row that is stored, salvaged and moved."""

import struct
import zlib
from typing import NamedTuple


class StoredSample(NamedTuple):
    """An observation, what was meant by it, and whether it was recognised.

    `position` counts samples in the order they were made; `at` is in seconds since 1970;
    `observation` is what `ObservationType.to_bytes` makes of it; `ge_right` says whether the global
    expert alone was right, `right` whether the person was shown the right label.

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
        """CRC-32 of all fields, 0 to 2**32 - 1: it tells damage from data, not friend from foe.

        It covers the fixed fields, little-endian, then the lengths of id, observation and label in
        bytes, then these three, text as UTF-8. Raises struct.error for a position beyond 64 bits.
        """
        parts = (self.id.encode(), self.observation, self.label.encode())
        # SQLite keeps no sign of zero, so neither does the sum: -0.0 + 0.0 is 0.0.
        at = self.at + 0.0
        lengths = map(len, parts)
        fixed = struct.pack("<qd??3I", self.position, at, self.ge_right, self.right, *lengths)
        return zlib.crc32(b"".join((fixed, *parts)))
