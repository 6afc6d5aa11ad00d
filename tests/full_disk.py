"""A disk that fills up: no file may grow over a limit."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def disk_of(most_bytes: int) -> Iterator[None]:
    """Let every write of this process past so many bytes of a file fail."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
