"""Locks between processes: on a home, which one process may use, and on an output, in turn."""

import fcntl
import os
from collections.abc import Callable, Iterator
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


@contextmanager
def in_turn(output: Path, wait: Callable[[], None]) -> Iterator[None]:
    """Keep other processes that write `output` waiting until the block ends.

    `wait` is called before this one waits. The lock is a hidden file beside `output`; it
    is removed in the end, and one that a killed process has left keeps nobody waiting.
    """
    output = output.resolve()
    output.parent.mkdir(parents=True, exist_ok=True)
    file = output.with_name(f".{output.name}.lock")
    while True:
        lock = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                wait()
                fcntl.flock(lock, fcntl.LOCK_EX)
            # The one before may have removed the file while this process waited for it.
            if file.exists() and os.path.samestat(os.fstat(lock), file.stat()):
                try:
                    yield
                finally:
                    file.unlink(missing_ok=True)
                return
        finally:
            os.close(lock)
