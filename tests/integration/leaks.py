"""What must never leave a device, and the search for it in bytes of any kind."""

import base64
import binascii
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from tests.integration.conftest import Character

FLOATS = ("<f4", ">f4", "<f2", ">f2")
RUN = 6
"""Characters in a row that somebody wrote; so many do not come about by chance."""


class Secrets:
    """By kind, pieces of which none may be found anywhere.

    `mixtures` are as they are stored, and `sentences` what somebody was told of a mistake.
    """

    def __init__(
        self,
        written: Sequence[Character],
        mixtures: Iterable[bytes],
        alphabet: str,
        sentences: Iterable[str],
    ) -> None:
        labels = [character.label for character in written]
        numbers = bytes(alphabet.index(label) for label in labels)
        runs = range(len(labels) - RUN + 1)
        self.pieces: dict[str, set[bytes]] = {
            "glyph": {row for character in written for row in _rows(character.glyph)},
            "weights": {
                piece
                for mixture in mixtures
                for tensor in safetensors.numpy.load(mixture).values()
                for piece in _pieces(tensor)
            },
            "text": {"".join(labels[i : i + RUN]).encode() for i in runs}
            | {numbers[i : i + RUN] for i in runs},
            "exception": {sentence[:30].encode() for sentence in sentences},
        }
        assert all(self.pieces.values())

    def found(self, *contents: bytes) -> set[str]:
        """The kinds of which there is something in one of these, however it is packed."""
        looked = [form for content in contents for form in forms(content)]
        return {
            kind
            for kind, pieces in self.pieces.items()
            if any(piece in form for form in looked for piece in pieces)
        }


def forms(content: bytes) -> Iterator[bytes]:
    """The bytes as they are, and what of them was compressed or written as text."""
    yield content
    for match in re.finditer(rb"\x1f\x8b\x08|\x78[\x01\x5e\x9c\xda]", content):
        with suppress(zlib.error):
            yield zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(content[match.start() :])
    for match in re.finditer(rb"[0-9a-fA-F]{16,}", content):
        for shift in (0, 1):
            run = match[0][shift:]
            yield binascii.unhexlify(run[: len(run) // 2 * 2])
    for match in re.finditer(rb"[0-9A-Za-z+/_-]{16,}", content):
        for shift in range(4):
            run = match[0][shift:].replace(b"-", b"+").replace(b"_", b"/")
            yield base64.b64decode(run[: len(run) // 4 * 4])


def _rows(glyph: NDArray[np.uint8]) -> Iterator[bytes]:
    """One row, and two, wherever there is ink."""
    for number in range(len(glyph)):
        for some in (glyph[number], glyph[number : number + 2]):
            if np.count_nonzero(some) > 1:
                yield some.tobytes()


def _pieces(tensor: NDArray[np.float32]) -> Iterator[bytes]:
    """Four numbers in a row."""
    flat = tensor.ravel()
    for kind in FLOATS:
        for start in range(0, len(flat) - 3, 4):
            piece = flat[start : start + 4].astype(kind)
            if np.count_nonzero(piece) > 1:
                yield piece.tobytes()
