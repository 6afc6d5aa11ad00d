"""Atomic outputs: they are written beside their destination, then renamed to it."""

import errno
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_REPLACED = "replaced"


@contextmanager
def replacing(path: Path, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`, which replaces `path` on success.

    The caller writes a file or makes a directory at the temporary path. If the block raises, that
    is removed and `path` does not change. A file is replaced in one step (`rename(2)`), a directory
    in two: a crash between them leaves the old one under a temporary name, and `recover` restores
    it. If `durable`, the result also survives a power cut (`fsync(2)`). Raises IsADirectoryError
    where a file would replace a directory.

    >>> target = Path(tempfile.mkdtemp()) / "answer.txt"
    >>> with replacing(target) as unfinished:
    ...     _ = unfinished.write_text("42")
    >>> target.read_text()
    '42'
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    workplace = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        unfinished = workplace / path.name
        try:
            yield unfinished
        except OSError as error:
            # A write that fails for want of space does not say to which file.
            error.filename = error.filename or str(path)
            raise
        if durable:
            _sync(unfinished)
        replaced = workplace / _REPLACED
        if path.is_dir():
            if unfinished.is_file():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
            path.rename(replaced)
        try:
            unfinished.replace(path)
        except BaseException:
            if replaced.exists():
                replaced.rename(path)
            raise
        if durable:
            sync_entry(path.parent)
    finally:
        shutil.rmtree(workplace, ignore_errors=True)


def recover(path: Path) -> None:
    """Restore a directory after a crash in `replacing`, and remove unfinished files.

    No other process may be replacing `path` at the same time.
    """
    for workplace in path.parent.glob(f".{glob.escape(path.name)}.????????"):
        if (workplace / _REPLACED).is_dir() and not path.exists():
            (workplace / _REPLACED).rename(path)
        shutil.rmtree(workplace, ignore_errors=True)


def _sync(path: Path) -> None:
    for part in path.iterdir() if path.is_dir() else ():
        _sync(part)
    sync_entry(path)


def sync_entry(path: Path) -> None:
    """Flush a file, or the entries of a directory, to the disk (`fsync(2)`)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
