"""What the coordinator knows of its fleet, in one SQLite file that all its processes share.

The statistics service, the ServerApp and the operator's commands meet here and nowhere else. Of the
reports only their sums are kept, and a digest of each so that none counts twice.
"""

import hashlib
import json
import secrets
import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from fedhw.errors import InputError
from fedhw.invitation import DEVICE_NAME
from fedhw.privacy.estimate import Sums
from fedhw.privacy.mechanism import GaussianMechanism
from fedhw.privacy.statistics import Report

SETTLED = ("running", "held back")
"""What a device may say of an offered release so that it need not be asked again."""

RENEWAL_REMINDER_SECONDS = 60.0
"""Seconds after which a device that refused a release, or put it off, is asked again."""

ONLINE = 15.0
"""Seconds for which a device that was seen counts as online."""

SKEW = 60.0
"""Seconds by which a device's clock may be ahead."""

LATE_WINDOWS, LATE_SECONDS = 7, 3600.0
"""How late a report may be: so many windows, or so long where windows are short."""

REMEMBERED = 30
"""Windows for which it is known who reported, beyond those for which reports may still come."""

KEPT_ROUNDS = 10_000
"""Rounds that are remembered."""

MIGRATIONS = [
    """
    CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
    CREATE TABLE devices (
      name TEXT PRIMARY KEY,
      token BLOB NOT NULL, -- its SHA-256
      invited_at REAL NOT NULL,
      report_key BLOB,
      node_key TEXT UNIQUE,
      node INTEGER UNIQUE, -- as Flower knows it, signed
      enrolled_at REAL,
      revoked_at REAL,
      running TEXT, -- what the device says it runs
      offered INTEGER, -- the version that `adoption` speaks of
      adoption TEXT,
      refusal TEXT,
      answered_at REAL,
      seen_at REAL
    ) STRICT;
    CREATE TABLE rounds (
      number INTEGER PRIMARY KEY,
      version INTEGER NOT NULL,
      began REAL NOT NULL,
      seconds REAL, -- NULL while it runs, and for one that was abandoned
      asked INTEGER NOT NULL,
      answered INTEGER
    ) STRICT;
    CREATE TABLE reports (
      device TEXT NOT NULL,
      window INTEGER NOT NULL,
      digest TEXT NOT NULL, -- SHA-256 in hexadecimal
      PRIMARY KEY (window, device)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE sums (
      window INTEGER NOT NULL,
      release TEXT NOT NULL,
      reports INTEGER NOT NULL,
      content BLOB NOT NULL,
      PRIMARY KEY (window, release)
    ) STRICT, WITHOUT ROWID;
    """,
    """
    CREATE TABLE told (
      device TEXT NOT NULL,
      about ANY NOT NULL, -- a window or, as text, a candidate
      digest TEXT NOT NULL, -- SHA-256 in hexadecimal
      PRIMARY KEY (about, device)
    ) STRICT, WITHOUT ROWID;
    INSERT INTO told SELECT device, window, digest FROM reports;
    DROP TABLE reports;
    ALTER TABLE told RENAME TO reports;
    CREATE TABLE summed (
      about ANY NOT NULL,
      release TEXT NOT NULL,
      reports INTEGER NOT NULL,
      content BLOB NOT NULL,
      PRIMARY KEY (about, release)
    ) STRICT, WITHOUT ROWID;
    INSERT INTO summed SELECT window, release, reports, content FROM sums;
    DROP TABLE sums;
    ALTER TABLE summed RENAME TO sums;
    """,
    """
    CREATE TABLE attempts (
      number INTEGER PRIMARY KEY,
      parent INTEGER NOT NULL, -- the version that is to be improved
      plan TEXT NOT NULL, -- JSON
      stage TEXT NOT NULL,
      since REAL NOT NULL, -- when the stage began
      stopping INTEGER NOT NULL DEFAULT 0,
      candidate TEXT, -- its name
      version INTEGER, -- what it was published as
      step INTEGER NOT NULL DEFAULT 0, -- of the roll-out
      windows INTEGER NOT NULL DEFAULT 0, -- that the step was judged by
      window INTEGER NOT NULL DEFAULT 0 -- up to which there is nothing to judge it by
    ) STRICT;
    CREATE TABLE training_rounds (
      number INTEGER PRIMARY KEY,
      attempt INTEGER NOT NULL,
      began REAL NOT NULL,
      seconds REAL, -- NULL while it runs, and for one that was cut off
      rho REAL NOT NULL,
      devices TEXT NOT NULL, -- JSON: whom it has cost rho
      summed INTEGER, -- NULL for one that was abandoned
      within REAL
    ) STRICT;
    CREATE TABLE canaries (
      attempt INTEGER NOT NULL,
      device TEXT NOT NULL,
      state TEXT NOT NULL,
      PRIMARY KEY (attempt, device)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE decisions (
      number INTEGER PRIMARY KEY,
      attempt INTEGER, -- NULL where none was begun
      moment REAL NOT NULL,
      decision TEXT NOT NULL,
      reason TEXT NOT NULL
    ) STRICT;
    """,
    """
    ALTER TABLE attempts
      ADD COLUMN baseline TEXT NOT NULL DEFAULT '[]'; -- JSON: the fleet's figures before it
    """,
]
"""What makes each schema version of the one before, from an empty file on; never edit one."""


@dataclass(frozen=True)
class Policy:
    """What every report of the fleet is like; it never changes, for devices have agreed to it.

    A report covers `window` seconds and costs (`epsilon`, `delta`); nothing is shown of fewer than
    `minimum_cohort` devices. Raises InputError for a value that cannot be.
    """

    window: int = 86_400
    epsilon: float = 2.0
    delta: float = 1e-6
    minimum_cohort: int = 10

    def __post_init__(self) -> None:
        GaussianMechanism(self.epsilon, self.delta)
        for name, least in (("window", 1), ("minimum_cohort", 2)):
            value = getattr(self, name)
            if value < least:
                raise InputError(f"{name.replace('_', '-')}: {value} is below {least}; give more")

    def is_over(self, window: int, now: float) -> bool:
        """Whether a window is over, by a clock that may be a little ahead of this one."""
        return (window + 1) * self.window <= now + SKEW

    def is_open(self, window: int, now: float) -> bool:
        """Whether a report of this window may come now: the window is over, and not for long."""
        late = max(LATE_WINDOWS * self.window, LATE_SECONDS)
        return self.is_over(window, now) and (window + 1) * self.window >= now - late


class Device(NamedTuple):
    """One that was invited; times in Unix seconds."""

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

    @property
    def is_online(self) -> bool:
        """Whether Flower heard of it just now."""
        return self.revoked_at is None and time.time() - (self.seen_at or 0) < ONLINE

    @property
    def state(self) -> str:
        """Invited, enrolled or revoked."""
        if self.revoked_at is not None:
            return "revoked"
        return "invited" if self.enrolled_at is None else "enrolled"

    def wants(self, version: int, now: float) -> bool:
        """Whether it should be asked about this version."""
        if self.offered != version:
            return True
        if self.adoption in ("refused", "deferred"):
            return now - (self.answered_at or 0) > RENEWAL_REMINDER_SECONDS
        return self.adoption not in SETTLED


class Round(NamedTuple):
    """One asking of all devices that are online and not settled; times in seconds."""

    number: int
    version: int
    began: float
    seconds: float | None
    asked: int
    answered: int | None


class Accepted(NamedTuple):
    """A report that was checked and may be counted, and the digest of its bytes."""

    report: Report
    digest: str


class EnrolmentError(InputError):
    """A token that is unknown, used up or revoked."""


class Fleet:
    """The database of one coordinator; threads and processes may share it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._turn = threading.RLock()
        path.touch(mode=0o600)
        self._db = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
        try:
            for pragma in ("journal_mode = WAL", "synchronous = FULL"):
                self._db.execute(f"PRAGMA {pragma}").fetchall()
            self._migrate(path)
        except sqlite3.DatabaseError as error:
            self._db.close()
            if isinstance(error, sqlite3.OperationalError):
                raise
            raise InputError(f"home: {path} is damaged; restore it from a copy") from None

    def close(self) -> None:
        """Let go of the file."""
        with self._turn:
            self._db.close()

    # What was agreed

    def agree(self, **given: Any) -> Policy:
        """Return the policy, changed to what is given as long as nobody was invited under it.

        Raises InputError for a value that differs from what devices have agreed to, or cannot be.
        """
        wanted = {name: value for name, value in given.items() if value is not None}
        with self.transaction() as db:
            known = Policy() if self._setting("window") is None else self.policy
            policy = replace(known, **wanted)
            if policy != known and self.read("SELECT 1 FROM devices LIMIT 1"):
                name = next(name for name in wanted if wanted[name] != getattr(known, name))
                raise InputError(
                    f"{name.replace('_', '-')}: {wanted[name]:g} is not the "
                    f"{getattr(known, name):g} that devices have agreed to; leave it out"
                )
            for name, value in vars(policy).items():
                db.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (name, repr(value)))
        return policy

    @property
    def policy(self) -> Policy:
        """What every report is like."""
        return Policy(
            window=int(self.setting("window")),
            epsilon=float(self.setting("epsilon")),
            delta=float(self.setting("delta")),
            minimum_cohort=int(self.setting("minimum_cohort")),
        )

    def setting(self, name: str) -> str:
        """Return what was set last; raises InputError before a coordinator was ready."""
        found = self._setting(name)
        if found is None:
            raise InputError(
                f"home: no coordinator was ever ready in {self.path.parent}; run `fedhw server` "
                "first"
            )
        return found

    def keep(self, name: str, value: str) -> None:
        """Keep a setting."""
        with self.transaction() as db:
            db.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (name, value))

    @property
    def is_paused(self) -> bool:
        """Whether the operator has stopped offering releases."""
        return self._setting("paused") == "yes"

    def pause(self, paused: bool) -> None:
        """Stop offering releases, or go on."""
        self.keep("paused", "yes" if paused else "no")

    # Devices

    def invite(self, name: str) -> str:
        """Make room for a device and return its one-time token.

        Raises InputError for a name that cannot be used or is taken. Who was invited and has not
        come yet may be invited again; the earlier token is void then.
        """
        if DEVICE_NAME.fullmatch(name) is None:
            raise InputError(
                f"name: {name!r} cannot name a device; use up to 64 letters, digits, '.', '_', '-'"
            )
        token = secrets.token_urlsafe(24)
        with self.transaction() as db:
            known = self._device(name)
            if known is not None and known.state != "invited":
                raise InputError(f"name: {name} is {known.state} already; give another name")
            db.execute(
                "INSERT OR REPLACE INTO devices (name, token, invited_at) VALUES (?, ?, ?)",
                (name, _sha256(token.encode()), time.time()),
            )
        return token

    def enrol(self, name: str, token: str, report_key: bytes, node_key: str) -> Device:
        """Note the keys of an invited device; the same once more changes nothing.

        Raises EnrolmentError for a token that is wrong, was used with other keys, or is revoked.
        """
        self._check_token(name, token)  # a stranger must not take the turn of who writes
        with self.transaction() as db:
            device = self._check_token(name, token)
            if device.enrolled_at is not None:
                if (device.report_key, device.node_key) != (report_key, node_key):
                    raise EnrolmentError(
                        "token: it was used by another device; ask the operator for an invitation"
                    )
                return device
            if self.read("SELECT 1 FROM devices WHERE node_key = ?", (node_key,)):
                raise EnrolmentError("node_key: it is another device's; make a new one")
            db.execute(
                "UPDATE devices SET report_key = ?, node_key = ?, enrolled_at = ? WHERE name = ?",
                (report_key, node_key, time.time(), name),
            )
        return self.device(name)

    def _check_token(self, name: str, token: str) -> Device:
        found = self.read("SELECT token FROM devices WHERE name = ?", (name,))
        device = self._device(name)
        right = found != [] and secrets.compare_digest(found[0][0], _sha256(token.encode()))
        if device is None or not right or device.revoked_at is not None:
            raise EnrolmentError("token: it is not valid; ask the operator for an invitation")
        return device

    def revoke(self, name: str) -> None:
        """Keep a device out for good; raises InputError when there is none of that name."""
        self.device(name)
        with self.transaction() as db:
            db.execute(
                "UPDATE devices SET revoked_at = coalesce(revoked_at, ?) WHERE name = ?",
                (time.time(), name),
            )

    def device(self, name: str) -> Device:
        """Return a device; raises InputError when there is none of that name."""
        found = self._device(name)
        if found is None:
            raise InputError(f"name: {name} is not known; `fedhw server devices` lists them all")
        return found

    def reporter(self, name: str) -> tuple[bytes, bool] | None:
        """Return a device's report key and whether it is revoked, None before it has enrolled."""
        for key, revoked_at in self.read(
            "SELECT report_key, revoked_at FROM devices WHERE name = ?", (name,)
        ):
            if key is not None:
                return key, revoked_at is not None
        return None

    @property
    def enrolled(self) -> int:
        """How many devices may take part."""
        return sum(device.state == "enrolled" for device in self.devices())

    def devices(self) -> list[Device]:
        """Return all devices by name."""
        return [Device(*row) for row in self.read(f"{_SELECT_DEVICE} ORDER BY name")]

    def set_node(self, name: str, node: int | None) -> None:
        """Note as which node Flower knows a device, None for no longer."""
        with self.transaction() as db:
            signed = None if node is None else _signed(node)
            db.execute("UPDATE devices SET node = ? WHERE name = ?", (signed, name))

    def seen(self, nodes: Iterable[int]) -> None:
        """Note that these nodes are online now."""
        with self.transaction() as db:
            db.executemany(
                "UPDATE devices SET seen_at = ? WHERE node = ?",
                [(time.time(), _signed(node)) for node in nodes],
            )

    def differing(self) -> set[str]:
        """Return who has enrolled or was revoked and Flower has to be told."""
        found = self.read(
            "SELECT name FROM devices WHERE node_key IS NOT NULL "
            "AND (node IS NULL) = (revoked_at IS NULL)"
        )
        return {name for (name,) in found}

    def by_node(self) -> dict[int, Device]:
        """Return the devices that are enrolled and that Flower knows, by node."""
        return {
            _unsigned(device.node): device
            for device in self.devices()
            if device.node is not None and device.revoked_at is None
        }

    def note_answer(
        self, name: str, version: int, running: str, adoption: str, refusal: str | None
    ) -> None:
        """Keep what a device said about an offered version."""
        with self.transaction() as db:
            db.execute(
                "UPDATE devices SET running = ?, offered = ?, adoption = ?, refusal = ?, "
                "answered_at = ? WHERE name = ?",
                (running or None, version, adoption, refusal, time.time(), name),
            )

    # Rounds

    def begin_round(self, version: int, asked: int) -> int:
        """Note that a round has begun and return its number."""
        with self.transaction() as db:
            begun = db.execute(
                "INSERT INTO rounds (version, began, asked) VALUES (?, ?, ?)",
                (version, time.time(), asked),
            )
            number = int(begun.lastrowid or 0)
            db.execute("DELETE FROM rounds WHERE number <= ?", (number - KEPT_ROUNDS,))
            return number

    def end_round(self, number: int, answered: int, seconds: float) -> None:
        """Note how a round went."""
        with self.transaction() as db:
            db.execute(
                "UPDATE rounds SET answered = ?, seconds = ? WHERE number = ?",
                (answered, seconds, number),
            )

    def rounds(self, after: int = 0) -> list[Round]:
        """Return the rounds with higher numbers, the oldest first."""
        return [
            Round(*row)
            for row in self.read(
                "SELECT number, version, began, seconds, asked, answered FROM rounds "
                "WHERE number > ? ORDER BY number",
                (after,),
            )
        ]

    # Reports

    def count(self, accepted: Sequence[Accepted]) -> list[bool]:
        """Count reports that were not counted before, all of it durable when this returns.

        Returns for each whether it agrees with what its device has said of the same window or
        candidate: the same report again does, another one does not.
        """
        with self.transaction() as db:
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
        """Note who has reported of what; returns what of it is new.

        In one statement: many small ones would hand Python's lock back and forth for each.
        """
        rows = [(report.device, report.about, digest) for report, digest in accepted]
        return set(
            self.read(
                "INSERT OR IGNORE INTO reports SELECT json_extract(value, '$[0]'), "
                "json_extract(value, '$[1]'), json_extract(value, '$[2]') FROM json_each(?) "
                "RETURNING device, about",
                (json.dumps(rows),),
            )
        )

    def prune(self, now: float) -> None:
        """Forget who reported in windows that are long over."""
        policy = self.policy
        late = max(LATE_WINDOWS, LATE_SECONDS / policy.window)
        oldest = now / policy.window - late - REMEMBERED
        with self.transaction() as db:
            # SQLite orders candidates, being text, behind every window.
            db.execute("DELETE FROM reports WHERE about < ?", (int(oldest),))

    def windows(self) -> list[tuple[int, int]]:
        """Return the windows of late and how many devices reported each, the newest first."""
        return self.read(
            "SELECT about, sum(reports) FROM sums WHERE typeof(about) = 'integer' "
            "AND about >= (SELECT min(about) FROM reports) GROUP BY about ORDER BY about DESC"
        )

    def sums(self, window: int) -> dict[str, Sums]:
        """Return the sums of a window by release."""
        return self._sums(window)

    def shadow_sums(self, candidate: str) -> Sums | None:
        """Return the sums of what devices said of a candidate, None before any has."""
        return self._sums(candidate).get(candidate)

    def _sums(self, about: int | str) -> dict[str, Sums]:
        found = self.read("SELECT release, content FROM sums WHERE about = ?", (about,))
        return {release: Sums.from_bytes(content) for release, content in found}

    def _setting(self, name: str) -> str | None:
        for (value,) in self.read("SELECT value FROM settings WHERE name = ?", (name,)):
            return str(value)
        return None

    def _device(self, name: str) -> Device | None:
        for row in self.read(f"{_SELECT_DEVICE} WHERE name = ?", (name,)):
            return Device(*row)
        return None

    def read(self, query: str, values: Sequence[object] = ()) -> list[Any]:
        """Return the rows that a statement gives."""
        with self._turn:
            return self._db.execute(query, values).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Yield the database to write to: all of it or nothing, and nobody else meanwhile."""
        with self._turn:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    def _migrate(self, path: Path) -> None:
        with self.transaction() as db:
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version > len(MIGRATIONS):
                raise InputError(
                    f"home: the schema {version} of {path} is newer than {len(MIGRATIONS)}, the "
                    "newest this program knows; update fedhw"
                )
            for number, migration in enumerate(MIGRATIONS[version:], version + 1):
                for statement in filter(str.strip, migration.split(";\n")):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {number}")


_SELECT_DEVICE = f"SELECT {', '.join(Device._fields)} FROM devices"


def _sha256(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _signed(node: int) -> int:
    """Flower's node numbers have 64 bits without a sign, SQLite's integers have one."""
    return node - 2**64 if node >= 2**63 else node


def _unsigned(node: int) -> int:
    return node % 2**64
