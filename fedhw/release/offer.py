"""An offered release: what a device believes of it before it takes it, and what it answers."""

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

from fedhw.errors import InputError
from fedhw.release.manifest import Manifest
from fedhw.release.release import check_architecture, open_files, sha256
from fedhw.release.signing import SignatureError, verify

MAX_RELEASE_BYTES = 64 * 1024 * 1024
"""Bytes of all files together; those of a LeNet-5 have 600 kB."""


class State(StrEnum):
    """How a device stands to an offer, by the names in `release.proto`."""

    WANTED = "wanted"
    LEARNING = "learning"
    RUNNING = "running"
    HELD_BACK = "held back"
    REFUSED = "refused"
    DEFERRED = "deferred"


class Refusal(StrEnum):
    """Why a device refuses an offer, by the names in `release.proto`."""

    SIGNATURE = "signature"
    VERSION = "version"
    ALPHABET = "alphabet"
    ARCHITECTURE = "architecture"
    FILES = "files"
    STORE = "store"


class Answer(NamedTuple):
    """What a device says to an offer; `running` is the name of the release in use."""

    state: State
    running: str
    refusal: Refusal | None = None


class RefusedError(InputError):
    """An offer that a device refuses, with the reason as a word for the coordinator."""

    def __init__(self, reason: Refusal, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


def verify_offer(
    manifest: bytes, signature: bytes, release_key: str, in_hand: Manifest | None
) -> Manifest:
    """Return the manifest of an offer that a device may take in place of the one in hand, if any.

    The one in hand itself may be offered, too. Nothing is read of what `release_key`, a public key
    in hexadecimal, has not signed. Raises RefusedError; a manifest that is signed and cannot be
    read was made for another program, as an unknown architecture was.
    """
    try:
        verify(manifest, signature, release_key)
    except SignatureError as error:
        raise RefusedError(Refusal.SIGNATURE, str(error)) from None
    try:
        offered = Manifest.parse(manifest, "the offer")
    except InputError as error:
        raise RefusedError(Refusal.ARCHITECTURE, str(error)) from None
    if in_hand is not None:
        _check_follows(in_hand, offered)
    try:
        check_architecture(offered)
    except InputError as error:
        raise RefusedError(Refusal.ARCHITECTURE, str(error)) from None
    return offered


def verify_files(manifest: Manifest, files: Mapping[str, bytes]) -> None:
    """Raise RefusedError unless these are the files of the manifest that devices need, and fit."""
    size = sum(map(len, files.values()))
    if size > MAX_RELEASE_BYTES:
        raise RefusedError(
            Refusal.FILES,
            f"files: {size} bytes are over {MAX_RELEASE_BYTES}; offer a smaller release",
        )
    if {name: sha256(content) for name, content in files.items()} != {
        name: manifest.files[name] for name in manifest.for_devices
    }:
        raise RefusedError(
            Refusal.FILES,
            f"files: are not those of {manifest.name} that devices need; send "
            f"{manifest.for_devices}",
        )
    try:
        open_files(manifest, files)
    except InputError as error:
        raise RefusedError(Refusal.FILES, str(error)) from None


def _check_follows(in_hand: Manifest, offered: Manifest) -> None:
    if offered.digest == in_hand.digest:
        return
    # What was made before there were registries has no version that counts.
    version = in_hand.version if in_hand.format > 1 else 0
    if offered.version <= version:
        raise RefusedError(
            Refusal.VERSION,
            f"version: {offered.version} is not above {version}, the one in use; offer a newer one",
        )
    if offered.labels != in_hand.labels:
        raise RefusedError(
            Refusal.ALPHABET,
            f"labels: {offered.labels} are not {in_hand.labels}, those of the corrections; offer a "
            "release of the same labels",
        )
    if offered.observation != in_hand.observation:
        raise RefusedError(
            Refusal.ALPHABET,
            f"observation: {offered.observation} is not {in_hand.observation}, that of the "
            "corrections; offer a release of the same type",
        )
