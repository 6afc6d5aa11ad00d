"""The home of a coordinator: one directory, readable to its operator only."""

import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from fedhw.release.registry import Registry
from fedhw.release.signing import ReleaseKey
from fedhw.system.process_lock import is_occupied

PROGRAM = "coordinator"


@dataclass(frozen=True)
class Home:
    """The files of one coordinator."""

    directory: Path

    @classmethod
    def default(cls) -> "Home":
        """Return the home in `$FEDHW_SERVER_HOME`, or in this system's place for user data."""
        chosen = os.environ.get("FEDHW_SERVER_HOME")
        return cls(Path(chosen) if chosen else platformdirs.user_data_path("fedhw-server"))

    @property
    def database(self) -> Path:
        """Devices, rounds and sums of reports."""
        return self.directory / "fleet.db"

    @property
    def releases(self) -> Path:
        """The published releases."""
        return self.directory / "releases"

    @property
    def registry(self) -> Registry:
        """The registry of published releases, with the coordinator's signing key."""
        return Registry(self.releases, ReleaseKey.load(self.release_key))

    @property
    def release_key(self) -> Path:
        """The private key that releases are signed with."""
        return self.directory / "release.key"

    @property
    def public(self) -> Path:
        """Public observations for rehearsal and for the validation of candidates."""
        return self.directory / "public"

    @property
    def improvement(self) -> Path:
        """The state of the attempt in flight, and all candidates."""
        return self.directory / "improvement"

    def candidate(self, attempt: int) -> Path:
        """The candidate of an attempt, a release without a version."""
        return self.improvement / "candidates" / str(attempt)

    @property
    def certificates(self) -> Path:
        """The certificate authority and the server's certificate."""
        return self.directory / "tls"

    @property
    def flower(self) -> Path:
        """Flower's database and home."""
        return self.directory / "flower"

    def exists(self) -> bool:
        """Whether a coordinator was ever started here."""
        return self.database.exists()

    def is_occupied(self) -> bool:
        """Whether a coordinator runs here now."""
        return is_occupied(self.directory, PROGRAM)
