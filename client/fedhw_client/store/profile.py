"""Profiles: encrypted files that move a person's corrections to a new device."""

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
from fedhw.observation import MAX_OBSERVATION_BYTES, Labels, ObservationType
from fedhw.release.release import Release
from fedhw_client.store.stored_sample import StoredSample

MAGIC, VERSION = b"fedhw-profile", 2

MIN_PASSPHRASE_LENGTH, MAX_ID_LENGTH = 8, 64
"""In characters."""

MAX_PROFILE_BYTES = 200 * 2**20
"""Most bytes of a profile, sealed or opened: 2,000 samples of the largest size."""

# Magic, version, salt, log2 n, r and p of scrypt, nonce of AES-GCM.
_HEADER = struct.Struct(">13sB16s3B12s")
_LOG_N, _R, _P = 15, 8, 1
# Bounds on a file's scrypt parameters: no weaker than fedhw's own, no more than 64 MiB.
_MOST_LOG_N, _MOST_P = 16, 4
# Upper bounds: the first line has up to 65,536 labels, any other has one sample.
_LONGEST_FIRST_LINE, _LONGEST_LINE = 20 * 2**20, 2 * MAX_OBSERVATION_BYTES

# Version 1 had no type of observation.
_SINCE_2 = ObservationType((28, 28), "uint8")


def most_bytes(observation: ObservationType, labels: Labels) -> int:
    """Return how many bytes a profile of such observations and labels has at most."""
    sample = observation.nbytes * 3 // 2 + 300
    return min(MAX_PROFILE_BYTES, max(8 * 2**20, 2_000 * sample + 300 * len(labels)))


@dataclass(frozen=True)
class Profile:
    """A person's corrections in order, their type of observation, and the release's labels.

    Raises InputError for a row that no store takes: an id that is not 1 to 64 characters or occurs
    twice, a time that is not finite, an observation of another type, an unknown label.
    """

    rows: Sequence[StoredSample] = field(repr=False)
    observation: ObservationType
    labels: Labels

    def __post_init__(self) -> None:
        ids: set[str] = set()
        for number, row in enumerate(self.rows, 1):
            fault = self._fault(row, ids)
            if fault:
                raise InputError(
                    f"profile: sample {number} has {fault}; seal the profile again on the old "
                    "device, without that sample"
                )
            ids.add(row.id)

    def check_fits(self, release: Release) -> None:
        """Raise InputError unless a release takes these observations and knows the rows' labels."""
        if self.observation != release.observation:
            raise InputError(
                f"profile: its observations are {self.observation} and {release.manifest.name} "
                f"takes {release.observation}; use a release that takes them"
            )
        unknown = sum(row.label not in release.labels for row in self.rows)
        if unknown:
            raise InputError(
                f"profile: the labels of {unknown} corrections are not known to "
                f"{release.manifest.name}; use a release that has them"
            )

    def seal(self, passphrase: str) -> bytes:
        """Return the profile as an encrypted file.

        The file is a header, b"fedhw-profile", a byte for the version, a salt of 16 bytes, a byte
        each for log2 n, r and p of scrypt (RFC 7914), a nonce of 12 bytes, and then AES-256-GCM
        (NIST SP 800-38D), with the header as associated data, of the zlib-compressed content:
        lines of JSON, first the type of an observation and the labels, then a sample each. Version
        1 had an alphabet, one character a class, and glyphs uint8 [28, 28]. Positions are not kept,
        the order is. The key is scrypt's of the passphrase in Unicode's form NFC as UTF-8.

        Raises InputError for a passphrase of fewer than 8 characters, and for more
        bytes than `most_bytes`.
        """
        secret = _secret(passphrase)
        content = b"".join(_lines(self))
        most = most_bytes(self.observation, self.labels)
        if len(content) > most:
            raise InputError(
                f"profile: {len(self.rows)} samples take {len(content)} bytes and a profile holds "
                f"{most}; forget the oldest samples"
            )
        salt, nonce = os.urandom(16), os.urandom(12)
        header = _HEADER.pack(MAGIC, VERSION, salt, _LOG_N, _R, _P, nonce)
        key = Scrypt(salt, 32, 2**_LOG_N, _R, _P).derive(secret)
        return header + AESGCM(key).encrypt(nonce, zlib.compress(content), header)

    @classmethod
    def unseal(cls, content: bytes, passphrase: str, most: int = MAX_PROFILE_BYTES) -> "Profile":
        """Return the profile in an encrypted file of at most `most` bytes; rows count from 1.

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
        if len(content) > most:
            raise InputError(
                f"profile: {len(content)} bytes are more than {most}; give a file that was sealed "
                "by fedhw"
            )
        compressed = _decrypted(content, secret)
        try:
            return cls(*_parsed(_inflated(compressed, most), content[len(MAGIC)]))
        except InputError:
            raise
        except (ValueError, TypeError, KeyError, RecursionError, zlib.error):
            raise InputError(
                "profile: the content is not what fedhw seals; seal the profile again on the old "
                "device"
            ) from None

    def _fault(self, row: StoredSample, ids: set[str]) -> str | None:
        """What is wrong with a row, without telling what was written."""
        if not (1 <= len(row.id) <= MAX_ID_LENGTH and _is_text(row.id)):
            return f"an id that is not 1 to {MAX_ID_LENGTH} characters"
        if row.id in ids:
            return f"the id {row.id!r} of an earlier one"
        if not math.isfinite(row.at):
            return f"the time {row.at}"
        try:
            self.observation.from_bytes(row.observation)
        except InputError:
            return f"an observation that is not {self.observation} of finite numbers"
        if row.label not in self.labels:
            return "a label that is not known"
        return None


def _secret(passphrase: str) -> bytes:
    normal = unicodedata.normalize("NFC", passphrase)
    if len(normal) < MIN_PASSPHRASE_LENGTH:
        raise InputError(
            f"passphrase: {len(normal)} characters are too few; give at least "
            f"{MIN_PASSPHRASE_LENGTH}"
        )
    if not _is_text(normal):
        raise InputError("passphrase: it is not Unicode text; give one in UTF-8")
    return normal.encode()


def _is_text(text: str) -> bool:
    """Whether text has no lone surrogates, which UTF-8 cannot encode."""
    return text.encode(errors="ignore").decode() == text


def _lines(profile: Profile) -> Iterator[bytes]:
    takes = {"shape": list(profile.observation.shape), "dtype": profile.observation.dtype}
    yield _line({"observation": takes, "labels": list(profile.labels)})
    for row in profile.rows:
        yield _line(
            {
                "id": row.id,
                # Converted, since numbers of another type would not be read back.
                "at": float(row.at),
                "label": row.label,
                "ge_right": bool(row.ge_right),
                "right": bool(row.right),
                "observation": base64.b64encode(row.observation).decode(),
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


def _inflated(compressed: bytes, most: int) -> bytes:
    inflate = zlib.decompressobj()
    content = inflate.decompress(compressed, most + 1)
    if len(content) > most:
        raise InputError(
            f"profile: the content is more than {most} bytes; give a file that was sealed by fedhw"
        )
    if not inflate.eof:
        raise ValueError("the compressed content is cut short")
    return content


def _parsed(content: bytes, version: int) -> tuple[list[StoredSample], ObservationType, Labels]:
    """Parse the lines of JSON one at a time, which bounds the memory for unchecked content."""
    file = io.BytesIO(content)
    first = json.loads(file.readline(_LONGEST_FIRST_LINE))
    lines = enumerate(iter(lambda: file.readline(_LONGEST_LINE), b""), 1)
    match version, first:
        case 1, {"alphabet": str(alphabet)}:
            rows = [_row(position, line, "glyph") for position, line in lines]
            return rows, _SINCE_2, Labels.characters(alphabet)
        case 2, {"observation": {"shape": list(shape), "dtype": str(dtype)}, "labels": list(texts)}:
            takes = ObservationType(tuple(shape), dtype)
            rows = [_row(position, line, "observation") for position, line in lines]
            return rows, takes, Labels(tuple(texts))
    raise ValueError("the first line has no labels")


def _row(position: int, line: bytes, form: str) -> StoredSample:
    found = json.loads(line)
    match found:
        case {"id": str(id_), "at": float(at), "label": str(label), "ge_right": bool(ge_right),
              "right": bool(right)}:  # fmt: skip
            content = base64.b64decode(found[form], validate=True)
            return StoredSample(position, id_, at, content, label, ge_right, right)
    raise ValueError(f"line {position} is no sample")
