"""The log of offers: when a release was offered to devices, and how many answered.

On disk the table is called `rounds`, from before a round meant a step of an improvement.
"""

from typing import NamedTuple

from fedhw.system.clock import Clock
from fedhw.system.sqlite import Database

KEPT_OFFERS = 10_000
"""Offers that are kept."""


class OfferRecord(NamedTuple):
    """One offer of a version to all devices that were online and had not settled on it.

    `began` is in Unix seconds; `seconds` and `answered` are None until it has ended, and for good
    where it was interrupted.
    """

    number: int
    version: int
    began: float
    seconds: float | None
    asked: int
    answered: int | None


class OfferLog:
    """The offers of one fleet."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock

    def begin(self, version: int, asked: int) -> int:
        """Store that so many devices are asked now, and return the offer's number."""
        with self._db.transaction() as db:
            begun = db.execute(
                "INSERT INTO rounds (version, began, asked) VALUES (?, ?, ?)",
                (version, self._clock.wall(), asked),
            )
            number = int(begun.lastrowid or 0)
            db.execute("DELETE FROM rounds WHERE number <= ?", (number - KEPT_OFFERS,))
            return number

    def end(self, number: int, answered: int, seconds: float) -> None:
        """Store how many have answered, and how long it took."""
        with self._db.transaction() as db:
            db.execute(
                "UPDATE rounds SET answered = ?, seconds = ? WHERE number = ?",
                (answered, seconds, number),
            )

    def all(self, after: int = 0) -> list[OfferRecord]:
        """Return the offers with higher numbers, the oldest first."""
        found = self._db.read(
            f"SELECT {', '.join(OfferRecord._fields)} FROM rounds WHERE number > ? ORDER BY number",
            (after,),
        )
        return [OfferRecord(*row) for row in found]
