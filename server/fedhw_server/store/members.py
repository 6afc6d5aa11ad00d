"""The devices of a fleet: invited, enrolled or revoked, and the release that each runs."""

import hashlib
import secrets
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from fedhw.errors import InputError
from fedhw.invitation import DEVICE_NAME
from fedhw.release.manifest import Manifest
from fedhw.system.clock import Clock
from fedhw.system.sqlite import Database

SETTLED = ("running", "held back")
"""Answers after which a device is not offered the same release again."""

RENEWAL_REMINDER_SECONDS = 60.0
"""Seconds after which a device that refused or deferred a release is asked again."""

ONLINE_SECONDS = 15.0
"""Seconds for which a device counts as online after it was seen."""


class Member(NamedTuple):
    """A device that was invited; times in Unix seconds."""

    name: str
    invited_at: float
    report_key: bytes | None
    node_key: str | None
    node: int | None
    enrolled_at: float | None
    revoked_at: float | None
    running: str | None
    offered: int | None
    adoption: str | None
    refusal: str | None
    answered_at: float | None
    seen_at: float | None

    def is_online(self, now: float) -> bool:
        """Whether it was seen in the last `ONLINE_SECONDS`."""
        return self.revoked_at is None and now - (self.seen_at or 0) < ONLINE_SECONDS

    @property
    def state(self) -> str:
        """Invited, enrolled or revoked."""
        if self.revoked_at is not None:
            return "revoked"
        return "invited" if self.enrolled_at is None else "enrolled"

    def wants(self, version: int, now: float) -> bool:
        """Whether it should be offered this version."""
        if self.offered != version:
            return True
        if self.adoption in ("refused", "deferred"):
            return now - (self.answered_at or 0) > RENEWAL_REMINDER_SECONDS
        return self.adoption not in SETTLED


class MemberCounts(NamedTuple):
    """Numbers of devices by their state, and by what enrolled ones do.

    `on_release` run the newest release. Of those that were offered it, `held_back` keep an older
    one, since the newest is worse for them, and `refused` could not take it.
    """

    invited: int
    enrolled: int
    online: int
    on_release: int
    held_back: int
    refused: int
    revoked: int

    @classmethod
    def of(cls, members: Sequence[Member], newest: Manifest | None, now: float) -> "MemberCounts":
        """Count the devices at that Unix second."""
        enrolled = [member for member in members if member.state == "enrolled"]
        offered = [member for member in enrolled if newest and member.offered == newest.version]
        return cls(
            invited=sum(member.state == "invited" for member in members),
            enrolled=len(enrolled),
            online=sum(member.is_online(now) for member in enrolled),
            on_release=sum(newest is not None and m.running == newest.name for m in enrolled),
            held_back=sum(member.adoption == "held back" for member in offered),
            refused=sum(member.adoption == "refused" for member in offered),
            revoked=sum(member.state == "revoked" for member in members),
        )


class EnrolmentError(InputError):
    """A token that is unknown, used up or revoked."""


class Members:
    """The devices of one fleet."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock

    def invite(self, name: str) -> str:
        """Add a device and return its one-time token.

        Raises InputError for a name that is invalid or taken. A device that has not enrolled yet
        may be invited again; its earlier token is then void.
        """
        if DEVICE_NAME.fullmatch(name) is None:
            raise InputError(
                f"name: {name!r} cannot name a device; use up to 64 letters, digits, '.', '_', '-'"
            )
        token = secrets.token_urlsafe(24)
        with self._db.transaction() as db:
            known = self._find(name)
            if known is not None and known.state != "invited":
                raise InputError(f"name: {name} is {known.state} already; give another name")
            db.execute(
                "INSERT OR REPLACE INTO devices (name, token, invited_at) VALUES (?, ?, ?)",
                (name, _sha256(token.encode()), self._clock.wall()),
            )
        return token

    def enrol(self, name: str, token: str, report_key: bytes, node_key: str) -> Member:
        """Store the keys of an invited device; the same call again changes nothing.

        Raises EnrolmentError for a token that is wrong, was used with other keys, or is revoked.
        """
        self._check_token(name, token)  # before the write lock, which a stranger must not take
        with self._db.transaction() as db:
            device = self._check_token(name, token)
            if device.enrolled_at is not None:
                if (device.report_key, device.node_key) != (report_key, node_key):
                    raise EnrolmentError(
                        "token: it was used by another device; ask the operator for an invitation"
                    )
                return device
            if self._db.read("SELECT 1 FROM devices WHERE node_key = ?", (node_key,)):
                raise EnrolmentError("node_key: it is another device's; make a new one")
            db.execute(
                "UPDATE devices SET report_key = ?, node_key = ?, enrolled_at = ? WHERE name = ?",
                (report_key, node_key, self._clock.wall(), name),
            )
        return self.get(name)

    def _check_token(self, name: str, token: str) -> Member:
        found = self._db.read("SELECT token FROM devices WHERE name = ?", (name,))
        device = self._find(name)
        right = found != [] and secrets.compare_digest(found[0][0], _sha256(token.encode()))
        if device is None or not right or device.revoked_at is not None:
            raise EnrolmentError("token: it is not valid; ask the operator for an invitation")
        return device

    def revoke(self, name: str) -> None:
        """Revoke a device for good; raises InputError when there is none of that name."""
        self.get(name)
        with self._db.transaction() as db:
            db.execute(
                "UPDATE devices SET revoked_at = coalesce(revoked_at, ?) WHERE name = ?",
                (self._clock.wall(), name),
            )

    def get(self, name: str) -> Member:
        """Return a device; raises InputError when there is none of that name."""
        found = self._find(name)
        if found is None:
            raise InputError(f"name: {name} is not known; `fedhw server devices` lists them all")
        return found

    def reporter(self, name: str) -> tuple[bytes, bool] | None:
        """Return a device's report key and whether it is revoked, None before it has enrolled."""
        for key, revoked_at in self._db.read(
            "SELECT report_key, revoked_at FROM devices WHERE name = ?", (name,)
        ):
            if key is not None:
                return key, revoked_at is not None
        return None

    @property
    def enrolled(self) -> int:
        """The number of enrolled devices."""
        return sum(member.state == "enrolled" for member in self.all())

    def all(self) -> list[Member]:
        """Return all devices by name."""
        return [Member(*row) for row in self._db.read(f"{_SELECT} ORDER BY name")]

    def set_node(self, name: str, node: int | None) -> None:
        """Store a device's Flower node, None for none."""
        with self._db.transaction() as db:
            signed = None if node is None else _signed(node)
            db.execute("UPDATE devices SET node = ? WHERE name = ?", (signed, name))

    def seen(self, nodes: Iterable[int]) -> None:
        """Store that these nodes are online now."""
        with self._db.transaction() as db:
            db.executemany(
                "UPDATE devices SET seen_at = ? WHERE node = ?",
                [(self._clock.wall(), _signed(node)) for node in nodes],
            )

    def differing(self) -> set[str]:
        """Return the names of devices to register with Flower or to unregister."""
        found = self._db.read(
            "SELECT name FROM devices WHERE node_key IS NOT NULL "
            "AND (node IS NULL) = (revoked_at IS NULL)"
        )
        return {name for (name,) in found}

    def by_node(self) -> dict[int, Member]:
        """Return the enrolled devices that are registered with Flower, by node."""
        return {
            _unsigned(device.node): device
            for device in self.all()
            if device.node is not None and device.revoked_at is None
        }

    def note_answer(
        self, name: str, version: int, running: str, adoption: str, refusal: str | None
    ) -> None:
        """Store a device's answer to an offered version."""
        with self._db.transaction() as db:
            db.execute(
                "UPDATE devices SET running = ?, offered = ?, adoption = ?, refusal = ?, "
                "answered_at = ? WHERE name = ?",
                (running or None, version, adoption, refusal, self._clock.wall(), name),
            )

    def _find(self, name: str) -> Member | None:
        for row in self._db.read(f"{_SELECT} WHERE name = ?", (name,)):
            return Member(*row)
        return None


_SELECT = f"SELECT {', '.join(Member._fields)} FROM devices"


def _sha256(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _signed(node: int) -> int:
    """Convert Flower's node, an unsigned 64-bit integer, to SQLite's signed one."""
    return node - 2**64 if node >= 2**63 else node


def _unsigned(node: int) -> int:
    return node % 2**64
