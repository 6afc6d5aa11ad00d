"""One encrypted file that moves a person to a new device."""

import base64
import io
import json
import math
import os
import struct
import unicodedata
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from fedhw.errors import InputError
from fedhw_client.store.stored_sample import GLYPH_BYTES, StoredSample

MAGIC, VERSION = b"fedhw-profile", 1

SHORTEST_PASSPHRASE = 8
"""Characters."""

LONGEST_ID, LONGEST_ALPHABET = 64, 256
"""Characters; a release knows no more than 256 classes."""

MOST = 8 * 2**20
"""Most bytes of a profile, sealed or opened; some 6,500 samples, where a device keeps 2,000."""

# Magic, version, salt, log2 n, r and p of scrypt, nonce of AES-GCM.
_HEADER = struct.Struct(">13sB16s3B12s")
_LOG_N, _R, _P = 15, 8, 1
# What a file may ask for: no less than was ever sealed with, no more than 64 MiB.
_MOST_LOG_N, _MOST_P = 16, 4
# More than the line of any sample takes.
_LONGEST_LINE = 4096


@dataclass(frozen=True)
class Profile:
    """Everything a person wrote, in the order it was written, and the alphabet it is labelled in.

    Raises InputError for an alphabet that is not 1 to 256 different characters, and for rows that
    no store takes: an id that is not 1 to 64 characters or occurs twice, a time that is not
    finite, a glyph that is not 784 bytes, a label that is not a character of the alphabet.
    """

    rows: Sequence[StoredSample] = field(repr=False)
    alphabet: str

    def __post_init__(self) -> None:
        characters = frozenset(self.alphabet)
        if (
            not 1 <= len(self.alphabet) <= LONGEST_ALPHABET
            or len(characters) < len(self.alphabet)
            or not _is_text(self.alphabet)
        ):
            raise InputError(
                f"alphabet: {self.alphabet!r} is not 1 to {LONGEST_ALPHABET} different "
                "characters; take the alphabet of the release"
            )
        ids: set[str] = set()
        for number, row in enumerate(self.rows, 1):
            fault = _fault(row, characters, ids)
            if fault:
                raise InputError(
                    f"profile: sample {number} has {fault}; seal the profile again on the old "
                    "device, without that sample"
                )
            ids.add(row.id)

    def seal(self, passphrase: str) -> bytes:
        """Return the profile as an encrypted file.

        The file is a header, b"fedhw-profile", a byte for the version, a salt of 16 bytes, a byte
        each for log2 n, r and p of scrypt (RFC 7914), a nonce of 12 bytes, and then AES-256-GCM
        (NIST SP 800-38D), with the header as associated data, of the zlib-compressed content:
        lines of JSON, first the alphabet, then a sample each. Positions are not kept, the order
        is. The key is scrypt's of the passphrase in Unicode's form NFC as UTF-8.

        Raises InputError for a passphrase of fewer than 8 characters, and for more than 8 MiB.
        """
        secret = _secret(passphrase)
        content = b"".join(_lines(self))
        if len(content) > MOST:
            raise InputError(
                f"profile: {len(self.rows)} samples take {len(content)} bytes and a profile holds "
                f"{MOST}; forget the oldest samples"
            )
        salt, nonce = os.urandom(16), os.urandom(12)
        header = _HEADER.pack(MAGIC, VERSION, salt, _LOG_N, _R, _P, nonce)
        key = Scrypt(salt, 32, 2**_LOG_N, _R, _P).derive(secret)
        return header + AESGCM(key).encrypt(nonce, zlib.compress(content), header)

    @classmethod
    def unseal(cls, content: bytes, passphrase: str) -> "Profile":
        """Return the profile in an encrypted file; rows are numbered from 1.

        Raises InputError for a passphrase that is too short or wrong, and for content that is not
        a profile, of another version, too big, altered, or not valid. A file that asks for more
        than 64 MiB of memory is refused before it gets any.
        """
        secret = _secret(passphrase)
        if not content.startswith(MAGIC):
            raise InputError("profile: this is not a profile; give a file that was sealed by fedhw")
        if content[len(MAGIC) : len(MAGIC) + 1] > bytes([VERSION]):
            raise InputError(
                f"profile: version {content[len(MAGIC)]} is newer than {VERSION}; update fedhw"
            )
        if len(content) > MOST:
            raise InputError(
                f"profile: {len(content)} bytes are more than {MOST}; give a file that was sealed "
                "by fedhw"
            )
        compressed = _decrypted(content, secret)
        try:
            rows, alphabet = _parsed(_inflated(compressed))
        except InputError:
            raise
        except (ValueError, RecursionError, zlib.error):
            raise InputError(
                "profile: the content is not what fedhw seals; seal the profile again on the old "
                "device"
            ) from None
        return cls(rows, alphabet)


def _secret(passphrase: str) -> bytes:
    normal = unicodedata.normalize("NFC", passphrase)
    if len(normal) < SHORTEST_PASSPHRASE:
        raise InputError(
            f"passphrase: {len(normal)} characters are too few; give at least {SHORTEST_PASSPHRASE}"
        )
    if not _is_text(normal):
        raise InputError("passphrase: it is not Unicode text; give one in UTF-8")
    return normal.encode()


def _is_text(text: str) -> bool:
    """Whether text has no lone surrogates, which UTF-8 cannot say."""
    return text.encode(errors="ignore").decode() == text


def _fault(row: StoredSample, characters: frozenset[str], ids: set[str]) -> str | None:
    """What is wrong with a row, without telling what was written."""
    if not (1 <= len(row.id) <= LONGEST_ID and _is_text(row.id)):
        return f"an id that is not 1 to {LONGEST_ID} characters"
    if row.id in ids:
        return f"the id {row.id!r} of an earlier one"
    if not math.isfinite(row.at):
        return f"the time {row.at}"
    if len(row.glyph) != GLYPH_BYTES:
        return f"a glyph of {len(row.glyph)} bytes in place of {GLYPH_BYTES}"
    if row.label not in characters:
        return "a label that is not a character of the alphabet"
    return None


def _lines(profile: Profile) -> Iterator[bytes]:
    yield _line({"alphabet": profile.alphabet})
    for row in profile.rows:
        yield _line(
            {
                "id": row.id,
                # A time or an answer that came as an integer would not be read back.
                "at": float(row.at),
                "label": row.label,
                "ge_right": bool(row.ge_right),
                "right": bool(row.right),
                "glyph": base64.b64encode(row.glyph).decode(),
            }
        )


def _line(record: dict[str, object]) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode() + b"\n"


def _decrypted(content: bytes, secret: bytes) -> bytes:
    header, sealed = content[: _HEADER.size], content[_HEADER.size :]
    if len(header) < _HEADER.size:
        raise InputError(
            f"profile: {len(content)} bytes are less than a header; copy the file again"
        )
    _, _, salt, log_n, r, p, nonce = _HEADER.unpack(header)
    if not (_LOG_N <= log_n <= _MOST_LOG_N and r == _R and 1 <= p <= _MOST_P):
        raise InputError(
            f"profile: scrypt with log2 n = {log_n}, r = {r}, p = {p} was not asked for by fedhw; "
            "copy the file again"
        )
    key = Scrypt(salt, 32, 2**log_n, r, p).derive(secret)
    try:
        return AESGCM(key).decrypt(nonce, sealed, header)
    except InvalidTag:
        raise InputError(
            "profile: cannot be opened; the passphrase is wrong or the file was altered, give the "
            "passphrase it was sealed with or copy the file again"
        ) from None


def _inflated(compressed: bytes) -> bytes:
    inflate = zlib.decompressobj()
    content = inflate.decompress(compressed, MOST + 1)
    if len(content) > MOST:
        raise InputError(
            f"profile: the content is more than {MOST} bytes; give a file that was sealed by fedhw"
        )
    if not inflate.eof:
        raise ValueError("the compressed content is cut short")
    return content


def _parsed(content: bytes) -> tuple[list[StoredSample], str]:
    """Rows and alphabet of lines of JSON; a line at a time, so that little is held unchecked."""
    file = io.BytesIO(content)
    lines = iter(lambda: file.readline(_LONGEST_LINE), b"")
    match json.loads(next(lines, b"")):
        case {"alphabet": str(alphabet)}:
            return [_row(position, line) for position, line in enumerate(lines, 1)], alphabet
    raise ValueError("the first line has no alphabet")


def _row(position: int, line: bytes) -> StoredSample:
    match json.loads(line):
        case {"id": str(id_), "at": float(at), "label": str(label), "ge_right": bool(ge_right),
              "right": bool(right), "glyph": str(text)}:  # fmt: skip
            glyph = base64.b64decode(text, validate=True)
            return StoredSample(position, id_, at, glyph, label, ge_right, right)
    raise ValueError(f"line {position} is no sample")
