"""Outputs appear whole or not at all: written beside their place, then renamed into it."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it takes the place of `path`.

    The caller writes a file or makes a directory at the temporary path. If the block raises,
    whatever was written is removed and `path` is as it was. A file is
    replaced in one step (`rename(2)`); a directory in two, so a crash between them leaves the old
    one under its temporary name, never a mixture of both. Raises IsADirectoryError where a file
    would replace a directory.

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
        yield unfinished
        replaced = workplace / "replaced"
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
    finally:
        shutil.rmtree(workplace, ignore_errors=True)
