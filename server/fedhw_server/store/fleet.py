"""What the coordinator knows of its fleet, in one SQLite file that all its processes share.

The statistics service, the ServerApp and the operator's commands meet here and nowhere else.
"""

from pathlib import Path

from fedhw.system.clock import Clock, SystemClock
from fedhw.system.sqlite import Database
from fedhw_server.store.attempts import Attempts
from fedhw_server.store.members import Members
from fedhw_server.store.offer_log import OfferLog
from fedhw_server.store.reports import Reports
from fedhw_server.store.schema import MIGRATIONS
from fedhw_server.store.settings import FleetSettings, ReportPolicy


class Fleet:
    """The database of one coordinator; threads and processes may share it."""

    def __init__(self, path: Path, clock: Clock = SystemClock()) -> None:
        self.path = path
        self.clock = clock
        self.database = Database(
            path,
            MIGRATIONS,
            name="home",
            mend="restore it from a copy",
            pragmas={"journal_mode": "WAL", "synchronous": "FULL"},
            timeout_seconds=10.0,
        )
        self.settings = FleetSettings(self.database, path)
        self.members = Members(self.database, clock)
        self.offer_log = OfferLog(self.database, clock)
        self.reports = Reports(self.database, self.settings, clock)
        self.attempts = Attempts(self.database, self.settings, self.members, clock)

    @property
    def policy(self) -> ReportPolicy:
        """What every report is like."""
        return self.settings.policy

    def close(self) -> None:
        """Let go of the file."""
        self.database.close()
