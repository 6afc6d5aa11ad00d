"""A lock on a home, a directory that only its owner may read and one process may use."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedhw.errors import InputError


@contextmanager
def occupied(directory: Path, program: str) -> Iterator[None]:
    """Create the directory and lock it against other processes of this program.

    Raises InputError when another process uses it or it is not writable.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(directory / f"{program}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise InputError(
            f"home: {directory} cannot be written ({error.strerror}); make it writable or give "
            "another with --home"
        ) from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"home: {directory} is in use by another {program}; stop that one or give another "
                "with --home"
            ) from None
        yield
    finally:
        os.close(lock)
