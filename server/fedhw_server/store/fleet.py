"""The database of a fleet, one SQLite file that all the coordinator's processes share.

The statistics service, the ServerApp and the operator's commands share no other state.
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
    """The database of one coordinator; safe for threads and processes."""

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
        """The policy of all reports."""
        return self.settings.policy

    def close(self) -> None:
        """Close the file."""
        self.database.close()
