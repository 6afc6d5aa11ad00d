"""One program at a time in a home: a directory whose files only their owner may read."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedhw.errors import InputError


@contextmanager
def occupied(directory: Path, program: str) -> Iterator[None]:
    """Make the directory, and keep every other process of this program out of it meanwhile.

    Raises InputError when another one is in it or nothing can be written there.
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
