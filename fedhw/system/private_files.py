"""Files that only their owner may read, and private keys as PEM."""

import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from fedhw.system.atomic import sync_entry


def write_private(path: Path, content: bytes) -> None:
    """Create a file that only its owner may read; it is complete and on the disk on return.

    Raises FileExistsError where `path` exists, OSError where the disk fails; then nothing is left.
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


def overwrite(path: Path, content: bytes) -> None:
    """Write content over the beginning of a file, in place; it is on the disk on return.

    The old content is gone where the file system writes to the same blocks again. A missing file is
    created, readable to its owner only. Raises OSError where the disk fails.
    """
    is_new = not path.exists()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    if is_new:
        sync_entry(path.parent)


def pem(key: PrivateKeyTypes) -> bytes:
    """Return a private key as PEM of PKCS #8, not encrypted."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
