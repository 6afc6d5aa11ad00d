"""Locks between processes: on a home, which one process may use, and on an output, in turn."""

import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fedhw.errors import InputError


@contextmanager
def occupied(directory: Path, program: str) -> Iterator[None]:
    """Create the directory, close it to other users and lock it against other processes.

    Raises InputError when another process of this program uses it, it is not writable, or another
    user can change what is in it.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _close_to_others(directory)
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


def is_occupied(directory: Path, program: str) -> bool:
    """Whether a process of this program uses the directory."""
    try:
        lock = os.open(directory / f"{program}.lock", os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


@contextmanager
def in_turn(output: Path, wait: Callable[[], None]) -> Iterator[None]:
    """Keep other processes that write `output` waiting until the block ends.

    `wait` is called before this one waits. The lock is a hidden file beside `output`; it
    is removed in the end, and one that a killed process has left keeps nobody waiting.
    """
    output = output.resolve()
    if not output.name:
        raise InputError(f"out: {output} cannot be replaced; give a directory in it")
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
            if _is_at(lock, file):
                try:
                    yield
                finally:
                    file.unlink(missing_ok=True)
                return
        finally:
            os.close(lock)


def _is_at(descriptor: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except FileNotFoundError:
        return False


def _close_to_others(directory: Path) -> None:
    found = directory.stat()
    if found.st_uid == os.geteuid():
        if found.st_mode & 0o077:
            directory.chmod(0o700)
    # Root can change everything anyway, and owns the volumes of containers, open to one group.
    elif found.st_uid != 0 or found.st_mode & stat.S_IWOTH:
        raise InputError(
            f"home: {directory} is another user's, who could change what is in it; give one of "
            "your own with --home"
        )
