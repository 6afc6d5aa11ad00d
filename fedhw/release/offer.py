"""An offered release: the checks of a device before it takes it, and its answer."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from typing import NamedTuple

from fedhw.errors import InputError
from fedhw.release.manifest import Manifest
from fedhw.release.release import check_architecture, open_files, sha256
from fedhw.release.signing import verify
from fedhw.release.trial import try_out

MAX_RELEASE_BYTES = 64 * 1024 * 1024
"""Bytes of all files together; those of a LeNet-5 have 600 kB."""


class State(StrEnum):
    """The state of an offer on a device, by the names in `release.proto`."""

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
    """A device's answer to an offer; `running` is the name of the release in use."""

    state: State
    running: str
    refusal: Refusal | None = None


class RefusedError(InputError):
    """A device refuses an offer; the coordinator is told the reason."""

    def __init__(self, reason: Refusal, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


def verify_offer(
    manifest: bytes, signature: bytes, release_key: str, in_hand: Manifest | None
) -> Manifest:
    """Return the manifest of an offer that a device may take instead of the one in hand, if any.

    The release in hand may be offered again. Nothing is read unless `release_key`, a public key in
    hexadecimal, has signed it. Raises RefusedError. A signed manifest that cannot be read was made
    for another program, so the reason is the same as for an unknown architecture.
    """
    with _refusing(Refusal.SIGNATURE):
        verify(manifest, signature, release_key)
    with _refusing(Refusal.ARCHITECTURE):
        offered = Manifest.parse(manifest, "the offer")
    if in_hand is not None:
        _check_follows(in_hand, offered)
    with _refusing(Refusal.ARCHITECTURE):
        check_architecture(offered)
    return offered


def verify_files(manifest: Manifest, files: Mapping[str, bytes]) -> None:
    """Raise RefusedError unless these are the manifest's files for devices, fit it, and work."""
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
    with _refusing(Refusal.FILES):
        try_out(manifest.name, *open_files(manifest, files))


@contextmanager
def _refusing(reason: Refusal) -> Iterator[None]:
    """Turn an InputError into a refusal for this reason."""
    try:
        yield
    except InputError as error:
        raise RefusedError(reason, str(error)) from None


def _check_follows(in_hand: Manifest, offered: Manifest) -> None:
    if offered.digest == in_hand.digest:
        return
    # Releases of format 1 were made without a registry, so their version means nothing.
    version = in_hand.version if in_hand.format > 1 else 0
    if offered.version <= version:
        raise RefusedError(
            Refusal.VERSION,
            f"version: {offered.version} is not above {version}, the one in use; offer a newer one",
        )
    for field in ("labels", "observation"):
        given, wanted = getattr(offered, field), getattr(in_hand, field)
        if given != wanted:
            raise RefusedError(
                Refusal.ALPHABET,
                f"{field}: {given} is not {wanted}, as in the corrections; offer a release of the "
                "same",
            )
