"""Signatures by the release key (Ed25519, RFC 8032), whose owner alone may publish."""

from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from fedhw.errors import InputError
from fedhw.system.private_files import pem, write_private

DOMAIN = b"fedhw release 1:"
"""Prefix of a signed manifest, so that no other signature passes for that of a release."""

CANDIDATE_DOMAIN = b"fedhw candidate 1:"
"""Prefix of a candidate's signed manifest, so that no device can be made to install it."""

DEVICE_DOMAIN = b"fedhw device 1:"
"""Prefix of a device's signed name and key, so that a certificate passes for nothing else."""


class SignatureError(InputError):
    """A signature that the release key did not make."""


@dataclass(frozen=True)
class ReleaseKey:
    """The private key that releases are signed with."""

    _private: Ed25519PrivateKey

    @classmethod
    def create(cls, path: Path) -> "ReleaseKey":
        """Create a key and store it in a file, PEM of PKCS #8, that only its owner may read.

        Raises InputError when there is something at `path` or it cannot be written.
        """
        key = Ed25519PrivateKey.generate()
        try:
            write_private(path, pem(key))
        except FileExistsError:
            raise InputError(
                f"release key: {path} exists and devices trust it; give a new path"
            ) from None
        except OSError as error:
            raise InputError(
                f"release key: {path} cannot be written ({error.strerror}); give another path"
            ) from None
        return cls(key)

    @classmethod
    def load(cls, path: Path) -> "ReleaseKey":
        """Read a key; raises InputError when there is none or it is of another kind."""
        try:
            key = load_pem_private_key(path.read_bytes(), password=None)
        except OSError as error:
            raise InputError(
                f"release key: {path} cannot be read ({error.strerror}); give the key's file"
            ) from None
        except (ValueError, TypeError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, Ed25519PrivateKey):
            raise InputError(f"release key: {path} is not an Ed25519 key; restore it from a copy")
        return cls(key)

    @property
    def public(self) -> str:
        """The public key in hexadecimal, 64 characters, with which devices verify."""
        return self._private.public_key().public_bytes_raw().hex()

    def sign(self, manifest: bytes) -> bytes:
        """Return the signature, 64 bytes, of a manifest's bytes."""
        return self._private.sign(DOMAIN + manifest)

    def sign_candidate(self, manifest: bytes) -> bytes:
        """Return the signature, 64 bytes, of a candidate's manifest."""
        return self._private.sign(CANDIDATE_DOMAIN + manifest)

    def certify(self, device: str, report_key: bytes) -> bytes:
        """Return the certificate, 64 bytes, that a device of this name has this report key."""
        return self._private.sign(_certified(device, report_key))


def verify(manifest: bytes, signature: bytes, public: str) -> None:
    """Raise SignatureError unless the key with this public half has signed these bytes."""
    problem = f"signature: is not that of the release key {public}; fetch a release that it signed"
    _verify(DOMAIN + manifest, signature, public, problem)


def verify_candidate(manifest: bytes, signature: bytes, public: str) -> None:
    """Raise SignatureError unless the key has signed these bytes as those of a candidate."""
    problem = f"signature: is not that of the release key {public} for a candidate; sign it as one"
    _verify(CANDIDATE_DOMAIN + manifest, signature, public, problem)


def verify_device(device: str, report_key: bytes, certificate: bytes, release_key: str) -> None:
    """Raise SignatureError unless the release key has certified that the device has this key."""
    problem = f"certificate: that of {device[:64]!r} is not by the release key {release_key}; enrol"
    _verify(_certified(device, report_key), certificate, release_key, f"{problem} the device anew")


def _certified(device: str, report_key: bytes) -> bytes:
    return DEVICE_DOMAIN + device.encode() + b"\0" + report_key


def _verify(content: bytes, signature: bytes, public: str, problem: str) -> None:
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
    except ValueError:
        raise InputError(
            f"release key: {public[:80]!r} is not an Ed25519 public key; give its 64 hex digits"
        ) from None
    try:
        key.verify(signature, content)
    except InvalidSignature:
        raise SignatureError(problem) from None
