"""Stored reports: sums only, and a digest of each report so that none counts twice."""

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from fedhw.privacy.estimate import Estimate, Sums, estimate
from fedhw.privacy.statistics import SHADOW, Report
from fedhw.privacy.window_estimates import WindowEstimates
from fedhw.system.clock import Clock
from fedhw.system.sqlite import Database
from fedhw_server.store.settings import LATE_SECONDS, LATE_WINDOWS, FleetSettings

REMEMBERED_WINDOWS = 30
"""Windows for which digests are kept, beyond those for which reports may still come."""

FILLING_SHARE = 0.15
"""Share of a window in which most reports about the one before arrive."""


class Accepted(NamedTuple):
    """A report that passed all checks, and the digest of its bytes."""

    report: Report
    digest: str


class Reports:
    """The reports of one fleet: about windows and, in shadow evaluations, about candidates."""

    def __init__(self, db: Database, settings: FleetSettings, clock: Clock) -> None:
        self._db = db
        self._settings = settings
        self._clock = clock

    def count(self, accepted: Sequence[Accepted]) -> list[bool]:
        """Count reports that were not counted before; they are durable when this returns.

        Returns for each whether it is the device's only report about its window or candidate: the
        same bytes again are, other ones are not.
        """
        with self._db.transaction() as db:
            fresh = self._remember(accepted)
            agree = []
            groups = defaultdict(list)
            for report, digest in accepted:
                key = (report.device, report.about)
                if key in fresh:
                    fresh.remove(key)
                    groups[report.about, report.release].append(report)
                    agree.append(True)
                else:
                    [known] = db.execute(
                        "SELECT digest FROM reports WHERE device = ? AND about = ?", key
                    ).fetchone()
                    agree.append(known == digest)
            for group, reports in groups.items():
                whole = Sums.of(*reports)
                for (content,) in db.execute(
                    "SELECT content FROM sums WHERE about = ? AND release = ?", group
                ).fetchall():
                    whole += Sums.from_bytes(content)
                db.execute(
                    "INSERT OR REPLACE INTO sums VALUES (?, ?, ?, ?)",
                    (*group, whole.count, whole.to_bytes()),
                )
        return agree

    def _remember(self, accepted: Sequence[Accepted]) -> set[tuple[str, int | str]]:
        """Store the digests of reports; returns device and subject of the new ones.

        It is one statement, since each of many small ones would release and take the GIL.
        """
        rows = [(report.device, report.about, digest) for report, digest in accepted]
        return set(
            self._db.read(
                "INSERT OR IGNORE INTO reports SELECT json_extract(value, '$[0]'), "
                "json_extract(value, '$[1]'), json_extract(value, '$[2]') FROM json_each(?) "
                "RETURNING device, about",
                (json.dumps(rows),),
            )
        )

    def prune(self, now: float) -> None:
        """Delete the digests of windows that are long over."""
        length = self._settings.policy.window
        late = max(LATE_WINDOWS, LATE_SECONDS / length)
        oldest = now / length - late - REMEMBERED_WINDOWS
        with self._db.transaction() as db:
            # Candidates are text, which SQLite orders after every window number.
            db.execute("DELETE FROM reports WHERE about < ?", (int(oldest),))

    def windows(self) -> list[tuple[int, int]]:
        """Return the recent windows with their numbers of reports, the newest first."""
        return self._db.read(
            "SELECT about, sum(reports) FROM sums WHERE typeof(about) = 'integer' "
            "AND about >= (SELECT min(about) FROM reports) GROUP BY about ORDER BY about DESC"
        )

    def sums(self, window: int) -> dict[str, Sums]:
        """Return the sums of a window by release."""
        return self._sums(window)

    def shadow_sums(self, candidate: str) -> Sums | None:
        """Return the sums of a candidate's shadow evaluation, None before the first report."""
        return self._sums(candidate).get(candidate)

    def estimates(self, classes: int, window: int | None = None) -> WindowEstimates | None:
        """Return the estimates of a window, or of the newest that has the minimum cohort.

        A window whose reports are still arriving comes after older ones. Returns None where too few
        devices have reported, without their number.
        """
        policy = self._settings.policy
        settled = self._clock.wall() - FILLING_SHARE * policy.window
        shown = [
            number
            for number, devices in self.windows()
            if window in (None, number) and devices >= policy.minimum_cohort
        ]
        shown.sort(key=lambda number: (number + 1) * policy.window > settled)
        for number in shown:
            found = WindowEstimates.of(
                number, policy.window, self.sums(number), classes, policy.minimum_cohort
            )
            if found is not None:
                return found
        return None

    def shadow_estimates(self, candidate: str) -> list[Estimate] | None:
        """Return the estimates about a candidate; None under the minimum cohort."""
        sums = self.shadow_sums(candidate)
        if sums is None:
            return None
        # None of these statistics is by class.
        return estimate(sums, 0, self._settings.policy.minimum_cohort, SHADOW)

    def _sums(self, about: int | str) -> dict[str, Sums]:
        found = self._db.read("SELECT release, content FROM sums WHERE about = ?", (about,))
        return {release: Sums.from_bytes(content) for release, content in found}
