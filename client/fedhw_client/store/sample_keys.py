"""The keys of what a store keeps: every record is encrypted under a key of its own.

Who destroys a key has erased its record, wherever the disk still has the ciphertext. So two small
files lie beside the database: the sample keys, each wrapped by a master key, and the master key.
Both are overwritten in place and never moved, since a file that is replaced or shortened leaves its
old blocks on the disk. Both exist twice and are written one after the other, so a torn write leaves
one of them whole.

Keys are made before they are needed: to store a record costs no write here.
"""

import os
import zlib
from collections.abc import Set as AbstractSet
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fedhw.system.private_files import overwrite

SPARE = 256
"""Fresh keys that are made in advance."""

_KEY_BITS, _NONCE_BYTES = 256, 12
_WRAPPED_BYTES = _NONCE_BYTES + _KEY_BITS // 8 + 16
_MASTER_HEAD = b"fedhw-master\x01"


class SampleKeys:
    """The keys beside a database, by number, in files of the database's name and a suffix.

    Records and keys are encrypted with AES-256-GCM (NIST SP 800-38D) under random nonces. The
    caller lets threads and processes take turns. Raises OSError when a file cannot be read.
    """

    def __init__(self, database: Path) -> None:
        self._master_files, self._key_files = (
            [database.with_name(f"{database.name}-{what}{copy}") for copy in ("", "2")]
            for what in ("master", "keys")
        )
        self._fresh: list[int] = []
        self._master = self._whole_master()
        self._wrapped = [] if self._master is None else self._whole_keys()

    @property
    def files(self) -> list[Path]:
        """All files, which need not exist yet."""
        return [*self._master_files, *self._key_files]

    @property
    def are_missing(self) -> bool:
        """Whether there are none yet, or neither copy of the master key is whole."""
        return self._master is None

    @property
    def fresh(self) -> int:
        """How many records can be sealed before keys must be added or destroyed."""
        return len(self._fresh)

    def seal(self, record: bytes, about: bytes) -> tuple[int, bytes]:
        """Encrypt a record under a fresh key; returns the key's number and the ciphertext.

        `about` is authenticated with it. Raises IndexError when no key is fresh.
        """
        number = self._fresh.pop()
        return number, _encrypted(AESGCM(self._key(number)), record, about)

    def unseal(self, number: int, sealed: bytes, about: bytes) -> bytes | None:
        """Return a record, None when its key was destroyed or one of them is damaged."""
        if not 0 <= number < len(self._wrapped):
            return None
        try:
            return _decrypted(AESGCM(self._key(number)), sealed, about)
        except InvalidTag:
            return None

    def add(self, n: int) -> None:
        """Make n more fresh keys and destroy none. Raises OSError when the disk fails."""
        if self._master is None:
            self._replace_master()
        first = len(self._wrapped)
        added = range(first, first + n)
        self._write([*self._wrapped, *map(self._new, added)])
        self._fresh += added

    def destroy_all_but(self, used: AbstractSet[int]) -> None:
        """Overwrite every other key with a fresh one, and the master key when none is in use.

        On return they are destroyed on the disk. Raises OSError when it fails.
        """
        self._fresh = []
        if not used:
            self._replace_master()
        numbers = range(len(self._wrapped))
        self._write([self._wrapped[i] if i in used else self._new(i) for i in numbers])
        self._fresh = [i for i in numbers if i not in used]

    def _key(self, number: int) -> bytes:
        assert self._master is not None
        return _decrypted(self._master, self._wrapped[number], _about(number))

    def _new(self, number: int) -> bytes:
        assert self._master is not None
        return _encrypted(self._master, AESGCM.generate_key(_KEY_BITS), _about(number))

    def _replace_master(self) -> None:
        content = _MASTER_HEAD + AESGCM.generate_key(_KEY_BITS)
        for file in self._master_files:
            overwrite(file, content + zlib.crc32(content).to_bytes(4))
        self._master = self._whole_master()

    def _write(self, wrapped: list[bytes]) -> None:
        for file in self._key_files:
            overwrite(file, b"".join(wrapped))
        self._wrapped = wrapped

    def _whole_master(self) -> AESGCM | None:
        """Return the master key from the first whole copy, which is also the newer one."""
        for content in map(_content, self._master_files):
            head, checksum = content[:-4], content[-4:]
            if head.startswith(_MASTER_HEAD) and zlib.crc32(head).to_bytes(4) == checksum:
                return AESGCM(head.removeprefix(_MASTER_HEAD))
        return None

    def _whole_keys(self) -> list[bytes]:
        """Return every wrapped key from the first copy in which it is whole, else zeros."""
        copies = [_content(file) for file in self._key_files]
        starts = range(0, max(map(len, copies)) - _WRAPPED_BYTES + 1, _WRAPPED_BYTES)
        places = [[copy[start : start + _WRAPPED_BYTES] for copy in copies] for start in starts]
        return [
            next((key for key in place if self._is_whole(number, key)), bytes(_WRAPPED_BYTES))
            for number, place in enumerate(places)
        ]

    def _is_whole(self, number: int, wrapped: bytes) -> bool:
        assert self._master is not None
        try:
            return bool(_decrypted(self._master, wrapped, _about(number)))
        except InvalidTag:
            return False


def _encrypted(key: AESGCM, content: bytes, about: bytes) -> bytes:
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + key.encrypt(nonce, content, about)


def _decrypted(key: AESGCM, sealed: bytes, about: bytes) -> bytes:
    if len(sealed) < _NONCE_BYTES:
        raise InvalidTag
    return key.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], about)


def _about(number: int) -> bytes:
    return number.to_bytes(8)


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return b""
