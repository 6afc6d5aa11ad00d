"""A correction as it is stored, salvaged and exported."""

import struct
import zlib
from typing import NamedTuple

from fedhw_client.store.sample_keys import SampleKeys

_FIXED = struct.Struct("<d??2I")


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

    def seal(self, keys: SampleKeys) -> tuple[int, int, bytes]:
        """Return the position, and the number of the key under which all the rest is encrypted.

        These are the fixed fields, little-endian, then the lengths of id and label in bytes, then
        id, label and observation, text as UTF-8.
        """
        id_, label = self.id.encode(), self.label.encode()
        fixed = _FIXED.pack(self.at, self.ge_right, self.right, len(id_), len(label))
        record = b"".join((fixed, id_, label, self.observation))
        return self.position, *keys.seal(record, self.position.to_bytes(8))

    @classmethod
    def unseal(
        cls, position: int, key: int, sealed: bytes, keys: SampleKeys
    ) -> "StoredSample | None":
        """Return the sample that `seal` encrypted, None when its key does not open it."""
        record = keys.unseal(key, sealed, position.to_bytes(8))
        if record is None:
            return None
        at, ge_right, right, id_bytes, label_bytes = _FIXED.unpack_from(record)
        label = _FIXED.size + id_bytes
        observation = label + label_bytes
        return cls(
            position,
            record[_FIXED.size : label].decode(),
            at,
            record[observation:],
            record[label:observation].decode(),
            ge_right,
            right,
        )

    @property
    def checksum(self) -> int:
        """CRC-32 of all fields, 0 to 2**32 - 1, which stores had before they were encrypted.

        It covers the fixed fields, little-endian, then the lengths of id, observation and label in
        bytes, then these three, text as UTF-8. Raises struct.error for a position beyond 64 bits.
        """
        parts = (self.id.encode(), self.observation, self.label.encode())
        # SQLite drops the sign of zero, so the checksum does, too: -0.0 + 0.0 is 0.0.
        at = self.at + 0.0
        lengths = map(len, parts)
        fixed = struct.pack("<qd??3I", self.position, at, self.ge_right, self.right, *lengths)
        return zlib.crc32(b"".join((fixed, *parts)))
