"""Files that only their owner may read, and how a private key is written into one."""

import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat


def write_private(path: Path, content: bytes) -> None:
    """Make a file that only its owner may read; it is on the disk, whole, when this returns.

    Raises FileExistsError where there is something at `path`, OSError where the disk refuses; then
    there is nothing new.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
    except BaseException:
        path.unlink()
        raise


def pem(key: PrivateKeyTypes) -> bytes:
    """Return a private key as PEM of PKCS #8, not encrypted."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
