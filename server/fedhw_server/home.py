"""Where a coordinator keeps everything: one directory, open to its operator only."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from fedhw.errors import InputError


@dataclass(frozen=True)
class Home:
    """The files of one coordinator."""

    directory: Path

    @classmethod
    def default(cls) -> "Home":
        """`$FEDHW_SERVER_HOME`, or the place that this system has for a user's data."""
        chosen = os.environ.get("FEDHW_SERVER_HOME")
        return cls(Path(chosen) if chosen else platformdirs.user_data_path("fedhw-server"))

    @property
    def database(self) -> Path:
        """Devices, rounds and sums of reports."""
        return self.directory / "fleet.db"

    @property
    def releases(self) -> Path:
        """Every release that was published."""
        return self.directory / "releases"

    @property
    def release_key(self) -> Path:
        """The private key that releases are signed with."""
        return self.directory / "release.key"

    @property
    def certificates(self) -> Path:
        """The certificate authority and the server's certificate."""
        return self.directory / "tls"

    @property
    def flower(self) -> Path:
        """What Flower keeps: its database and its own home."""
        return self.directory / "flower"

    def exists(self) -> bool:
        """Whether a coordinator was ever started here."""
        return self.database.exists()

    def is_occupied(self) -> bool:
        """Whether a coordinator runs here now."""
        try:
            with self.occupied():
                return False
        except InputError:
            return True

    @contextmanager
    def occupied(self) -> Iterator[None]:
        """Make the directory, and keep every other coordinator out of it meanwhile.

        Raises InputError when another one is in it or nothing can be written there.
        """
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(self.directory / "server.lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise InputError(
                f"home: {self.directory} cannot be written ({error.strerror}); make it writable "
                "or give another with --home"
            ) from None
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(
                    f"home: {self.directory} is in use by another coordinator; stop that one or "
                    "give another with --home"
                ) from None
            yield
        finally:
            os.close(lock)
