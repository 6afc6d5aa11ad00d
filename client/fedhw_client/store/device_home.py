"""The home of an agent: one directory of files that only their owner may read."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import platformdirs

from fedhw.errors import InputError
from fedhw.system.atomic import recover, replacing
from fedhw.system.process_lock import occupied

SOCKET_PATH_LIMIT = 107
"""Bytes that Linux allows for the path of a unix socket (unix(7)); other systems allow fewer."""


@dataclass(frozen=True)
class Home:
    """The files of one agent."""

    directory: Path

    @classmethod
    def default(cls) -> "Home":
        """Return the home in `$FEDHW_HOME`, or in this system's place for user data."""
        chosen = os.environ.get("FEDHW_HOME")
        return cls(Path(chosen) if chosen else platformdirs.user_data_path("fedhw"))

    @property
    def database(self) -> Path:
        """Corrections, counters and the personal mixture."""
        return self.directory / "device.db"

    @property
    def release(self) -> Path:
        """The global expert in use."""
        return self.directory / "release"

    @property
    def incoming(self) -> Path:
        """A received release that is not in use yet."""
        return self.directory / "incoming"

    @property
    def held_back(self) -> Path:
        """An empty file for each newer release that was worse for this person, by its digest."""
        return self.directory / "held-back"

    @property
    def decided(self) -> Path:
        """An empty file whose modification time is that of the last decision about a release."""
        return self.directory / "decided"

    @property
    def enrolment(self) -> Path:
        """The invitation that the device accepted and its own keys."""
        return self.directory / "enrolment"

    @property
    def ledger(self) -> Path:
        """The reports that were made, and what they cost."""
        return self.directory / "ledger.db"

    @property
    def socket(self) -> Path:
        """The agent's unix socket; raises InputError when its path is too long."""
        path = self.directory.resolve() / "agent.sock"
        if len(os.fsencode(path)) > SOCKET_PATH_LIMIT:
            raise InputError(
                f"home: {self.directory} is too long a path for a socket; give a shorter one, or "
                "listen on loopback with --port"
            )
        return path

    @property
    def address(self) -> str:
        """The socket as gRPC writes it (RFC 3986: a path may hold % and #)."""
        return f"unix:{quote(os.fsencode(self.socket))}"

    @property
    def token(self) -> Path:
        """The secret of callers on loopback TCP, where any user of the machine can connect."""
        return self.directory / "token"

    @contextmanager
    def occupied(self) -> Iterator[None]:
        """Make the directory and lock it against other agents.

        Installations that a crash interrupted are completed or undone. Raises InputError when
        another agent has the lock or nothing can be written there.
        """
        with occupied(self.directory, "agent"):
            recover(self.release)
            recover(self.incoming)
            yield

    def install(self, release: Path) -> None:
        """Copy a release into the home atomically.

        After a crash the next `occupied` finds the old release or the new one.
        """
        with replacing(self.release, durable=True) as unfinished:
            shutil.copytree(release, unfinished)
