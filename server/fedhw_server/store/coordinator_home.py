"""Where a coordinator keeps everything: one directory, open to its operator only."""

import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from fedhw.errors import InputError
from fedhw.release.registry import Registry
from fedhw.release.signing import ReleaseKey
from fedhw.system.process_lock import occupied

PROGRAM = "coordinator"


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
    def registry(self) -> Registry:
        """What was published, signed with the coordinator's key."""
        return Registry(self.releases, ReleaseKey.load(self.release_key))

    @property
    def release_key(self) -> Path:
        """The private key that releases are signed with."""
        return self.directory / "release.key"

    @property
    def public(self) -> Path:
        """Public characters to rehearse, and to judge candidates by."""
        return self.directory / "public"

    @property
    def improvement(self) -> Path:
        """Where the attempt in flight stands, and every candidate there was."""
        return self.directory / "improvement"

    def candidate(self, attempt: int) -> Path:
        """What an attempt has made, a release without a version."""
        return self.improvement / "candidates" / str(attempt)

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
            with occupied(self.directory, PROGRAM):
                return False
        except InputError:
            return True
