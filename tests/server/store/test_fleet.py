import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from functools import reduce
from operator import add
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fedhw.errors import InputError
from fedhw.privacy.estimate import Sums
from fedhw.privacy.statistics import SHADOW, WINDOW, Report
from fedhw_server.store.fleet import (
    KEPT_ROUNDS,
    MIGRATIONS,
    Accepted,
    EnrolmentError,
    Fleet,
    Policy,
)
from tests.server.conftest import POLICY, START, Pen, noise_free, past


def accepted(
    device: str, window: int, release: str, steps: int, schema: int = WINDOW.schema
) -> Accepted:
    report = Report(
        device, schema, window, release, POLICY.epsilon, POLICY.delta, noise_free(steps)
    )
    return Accepted(report, f"{device} {window} {release} {steps}")


RELEASES = ["v1-0123abcd", "v2-0123abcd"]
REPORTS = st.builds(
    accepted,
    st.sampled_from("abc"),
    st.integers(20_000, 20_001),
    st.sampled_from(RELEASES),
    st.integers(-5, 5),
    st.sampled_from([WINDOW.schema, SHADOW.schema]),
)


@given(st.lists(st.lists(REPORTS, max_size=6), max_size=6), st.randoms())
def test_each_device_counts_once_a_window_and_candidate_however_its_reports_come(
    tmp_path_factory, batches, rng
):
    path = tmp_path_factory.mktemp("fleet") / "fleet.db"
    one, other = Fleet(path), Fleet(path)
    first: dict[tuple[str, int | str], Accepted] = {}
    for batch in batches:
        agree = rng.choice((one, other)).count(batch)
        for accepted, agrees in zip(batch, agree, strict=True):
            known = first.setdefault((accepted.report.device, accepted.report.about), accepted)
            assert agrees == (known.digest == accepted.digest)
    counted = [each.report for each in first.values()]
    for candidate in RELEASES:
        judged = [Sums.of(report) for report in counted if report.about == candidate]
        assert one.shadow_sums(candidate) == (reduce(add, judged) if judged else None)
    counted = [report for report in counted if report.schema == WINDOW.schema]
    for window in (20_000, 20_001):
        groups = {report.release for report in counted if report.window == window}
        sums = {
            release: reduce(
                add,
                (Sums.of(r) for r in counted if (r.window, r.release) == (window, release)),
            )
            for release in groups
        }
        assert one.sums(window) == other.sums(window) == sums
    cohorts = Counter(report.window for report in counted)
    assert one.windows() == sorted(cohorts.items(), reverse=True)
    one.close()
    other.close()


class Membership(RuleBasedStateMachine):
    """Devices come and go; the fleet must say what a plain dictionary says."""

    def __init__(self) -> None:
        super().__init__()
        self.place = tempfile.TemporaryDirectory()
        self.fleet = Fleet(Path(self.place.name) / "fleet.db")
        self.states: dict[str, str] = {}
        self.tokens: dict[str, str] = {}
        self.used: dict[str, tuple[str, Pen]] = {}

    def teardown(self) -> None:
        self.fleet.close()
        self.place.cleanup()

    names = st.sampled_from(["pen", "quill"])

    @rule(name=names)
    def invite(self, name: str) -> None:
        if self.states.get(name, "invited") == "invited":
            self.tokens[name] = self.fleet.invite(name)
            self.states[name] = "invited"
        else:
            with pytest.raises(InputError, match=f"{name} is {self.states[name]} already"):
                self.fleet.invite(name)

    @precondition(lambda self: self.tokens)
    @rule(name=names, of=names)
    def enrol(self, name: str, of: str) -> None:
        token, pen = self.tokens.get(of, "guessed"), Pen(name)
        if self.states.get(name) == "invited" and name == of:
            self.fleet.enrol(name, token, pen.public, pen.node)
            self.states[name] = "enrolled"
            self.used[name] = (token, pen)
        else:
            with pytest.raises(EnrolmentError):
                self.fleet.enrol(name, token, pen.public, pen.node)

    @precondition(lambda self: self.used)
    @rule(name=names)
    def enrol_again(self, name: str) -> None:
        if name in self.used:
            token, pen = self.used[name]
            if self.states[name] == "enrolled":
                known = self.fleet.enrol(name, token, pen.public, pen.node)
                assert known == self.fleet.device(name)
            else:
                with pytest.raises(EnrolmentError):
                    self.fleet.enrol(name, token, pen.public, pen.node)

    @rule(name=names)
    def revoke(self, name: str) -> None:
        if name in self.states:
            self.fleet.revoke(name)
            self.states[name] = "revoked"
        else:
            with pytest.raises(InputError, match=f"name: {name} is not known"):
                self.fleet.revoke(name)

    @invariant()
    def agrees(self) -> None:
        assert {device.name: device.state for device in self.fleet.devices()} == self.states
        for name in ("pen", "quill"):
            wanted = None
            if name in self.used:
                wanted = (self.used[name][1].public, self.states[name] == "revoked")
            assert self.fleet.reporter(name) == wanted
        assert self.fleet.differing() == {
            name for name in self.used if self.states[name] == "enrolled"
        }


TestMembership = Membership.TestCase
TestMembership.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)


def test_two_processes_count_together(tmp_path):
    Fleet(tmp_path / "fleet.db").close()
    script = Path(__file__).with_name("count_some.py")
    processes = [
        subprocess.Popen([sys.executable, script, tmp_path / "fleet.db", device, "20000", "20030"])
        for device in "ab"
    ]
    assert [process.wait(60) for process in processes] == [0, 0]
    fleet = Fleet(tmp_path / "fleet.db")
    assert fleet.windows() == [(window, 3) for window in reversed(range(20_000, 20_030))]
    assert {fleet.sums(window)["v1-0123abcd"].count for window, _ in fleet.windows()} == {3}
    fleet.close()


def test_what_is_long_over_is_forgotten_but_its_sums(fleet):
    now = START
    fleet.count([accepted("a", past(1000), "v1", 1), accepted("a", past(300), "v1", 1)])
    fleet.prune(now)
    assert [window for window, _ in fleet.windows()] == [past(300)]
    assert fleet.sums(past(1000))["v1"].count == 1


def test_nothing_that_may_still_come_is_forgotten(fleet):
    # Or it would count again.
    now = START
    oldest = min(w for w in range(past(2000), past()) if POLICY.is_open(w, now))
    fleet.count([accepted("a", oldest, "v1", 1)])
    fleet.prune(now)
    assert fleet.count([accepted("a", oldest, "v1", 2)]) == [False]


@pytest.mark.parametrize("window", [1, 10, 600, 86_400])
@given(now=st.floats(1e9, 4e9), number=st.integers(0, 2**64 - 1))
def test_a_window_is_open_when_it_is_over_and_not_for_long(window, now, number):
    policy = Policy(window=window)
    newest = int(now) // window - 1
    assert policy.is_open(newest, now)
    assert policy.is_open(newest - 6, now)
    assert not policy.is_open(newest + 2 + 60 // window, now)
    assert not policy.is_open(newest - 8 - 3600 // window, now)
    if policy.is_open(number, now):
        assert now - max(7 * window, 3600) <= (number + 1) * window <= now + 60


def test_the_policy_is_open_until_somebody_was_invited(tmp_path):
    fleet = Fleet(tmp_path / "fleet.db")
    assert fleet.agree() == Policy()
    assert fleet.agree(window=60, epsilon=3.0).window == 60
    fleet.invite("pen")
    assert fleet.agree() == fleet.agree(window=60) == fleet.policy == Policy(60, 3.0)
    for name, value in (("window", 61), ("epsilon", 2), ("delta", 1e-7), ("minimum_cohort", 3)):
        with pytest.raises(InputError, match=f"{name.replace('_', '-')}: {value:g} is not the"):
            fleet.agree(**{name: value})
    assert fleet.policy == Policy(60, 3.0)


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"window": 0}, "window: 0 is below 1"),
        ({"minimum_cohort": 1}, "minimum-cohort: 1 is below 2"),
        ({"epsilon": 0}, "epsilon: 0 is out of range"),
        ({"epsilon": float("nan")}, "epsilon: nan is out of range"),
        ({"delta": 1.0}, "delta: 1 is out of range"),
    ],
)
def test_a_policy_that_cannot_be_is_refused(tmp_path, given, word):
    fleet = Fleet(tmp_path / "fleet.db")
    with pytest.raises(InputError, match=word):
        fleet.agree(**given)
    with pytest.raises(InputError, match="no coordinator was ever ready"):
        _ = fleet.policy


@pytest.mark.parametrize("name", ["", "-pen", "a b", "a/b", "x" * 65, "päd", "pen\n"])
def test_a_name_that_cannot_be_used_is_refused(fleet, name):
    with pytest.raises(InputError, match="cannot name a device"):
        fleet.invite(name)
    assert fleet.devices() == []


def test_two_devices_have_two_node_keys(fleet):
    pen = Pen("pen").join(fleet)
    token = fleet.invite("quill")
    with pytest.raises(EnrolmentError, match="node_key: it is another device's"):
        fleet.enrol("quill", token, Pen("quill").public, pen.node)
    assert fleet.device("quill").state == "invited"


def test_tokens_are_not_kept(fleet, home):
    token = fleet.invite("pen")
    assert token.encode() not in b"".join(
        path.read_bytes() for path in home.directory.glob("fleet.db*")
    )
    assert home.database.stat().st_mode & 0o077 == 0


@given(node=st.integers(0, 2**64 - 1))
@settings(max_examples=30)
def test_flowers_numbers_survive(tmp_path_factory, node):
    fleet = Fleet(tmp_path_factory.mktemp("fleet") / "fleet.db")
    Pen("pen").join(fleet)
    fleet.set_node("pen", node)
    assert list(fleet.by_node()) == [node]
    assert not fleet.differing()
    assert not fleet.device("pen").is_online
    fleet.seen([node])
    assert fleet.device("pen").is_online
    fleet.revoke("pen")
    assert fleet.by_node() == {}
    assert fleet.differing() == {"pen"}
    assert not fleet.device("pen").is_online
    fleet.close()


def test_whoever_settles_is_not_asked_again(fleet):
    Pen("pen").join(fleet)
    now = time.time()
    assert fleet.device("pen").wants(1, now)
    for adoption, again in (("learning", True), ("running", False), ("held back", False)):
        fleet.note_answer("pen", 1, "v1-0123abcd", adoption, None)
        assert fleet.device("pen").wants(1, now) == again
        assert fleet.device("pen").wants(2, now)
    fleet.note_answer("pen", 1, "", "refused", "store")
    assert not fleet.device("pen").wants(1, now)
    assert fleet.device("pen").wants(1, now + 3600)
    assert fleet.device("pen").running is None


def test_rounds_are_remembered_but_not_for_ever(fleet):
    first = fleet.begin_round(1, 2)
    fleet.end_round(first, 2, 0.5)
    second = fleet.begin_round(1, 3)
    assert [(r.number, r.seconds, r.answered) for r in fleet.rounds()] == [
        (first, 0.5, 2),
        (second, None, None),
    ]
    assert [each.number for each in fleet.rounds(first)] == [second]
    with fleet.transaction() as db:
        db.execute("UPDATE rounds SET number = ? WHERE number = ?", (KEPT_ROUNDS + 1, second))
    assert [each.number for each in fleet.rounds()] == [first, KEPT_ROUNDS + 1]
    fleet.begin_round(1, 3)
    assert [each.number for each in fleet.rounds()] == [KEPT_ROUNDS + 1, KEPT_ROUNDS + 2]


def test_every_schema_grows_into_the_newest(tmp_path):
    path = tmp_path / "fleet.db"
    for version in range(len(MIGRATIONS)):
        path.unlink(missing_ok=True)
        with sqlite3.connect(path) as db:
            for migration in MIGRATIONS[:version]:
                db.executescript(migration)
            db.execute(f"PRAGMA user_version = {version}")
        db.close()
        fleet = Fleet(path)
        fleet.agree()
        assert fleet.count([accepted("a", 1, "v1", 1)]) == [True]
        fleet.close()
        assert Fleet(path).windows() == [(1, 1)]


def test_what_was_counted_before_there_were_candidates_stays(tmp_path):
    path = tmp_path / "fleet.db"
    report = accepted("a", 20_000, "v1-0123abcd", 3)
    whole = Sums.of(report.report)
    with sqlite3.connect(path) as db:
        db.executescript(MIGRATIONS[0])
        db.execute("INSERT INTO reports VALUES (?, ?, ?)", ("a", 20_000, report.digest))
        values = (20_000, "v1-0123abcd", 1, whole.to_bytes())
        db.execute("INSERT INTO sums VALUES (?, ?, ?, ?)", values)
        db.execute("PRAGMA user_version = 1")
    db.close()
    fleet = Fleet(path)
    assert fleet.windows() == [(20_000, 1)]
    assert fleet.sums(20_000) == {"v1-0123abcd": whole}
    assert fleet.count([report, accepted("a", 20_000, "v1-0123abcd", 4)]) == [True, False]
    fleet.close()


def test_who_reported_of_a_candidate_is_known_for_good(fleet):
    told = accepted("a", 1, "v2-0123abcd", 1, SHADOW.schema)
    fleet.count([told, accepted("a", past(300), "v1-0123abcd", 1)])
    fleet.prune(START)
    later = accepted("a", past(), "v2-0123abcd", 1, SHADOW.schema)
    assert fleet.count([told, later]) == [True, False]
    assert fleet.shadow_sums("v2-0123abcd").count == 1
    assert fleet.sums(1) == {}


def test_a_newer_schema_is_left_alone(tmp_path):
    with sqlite3.connect(tmp_path / "fleet.db") as db:
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    db.close()
    with pytest.raises(InputError, match="is newer than"):
        Fleet(tmp_path / "fleet.db")


def test_a_file_that_is_no_database_is_one_sentence(tmp_path):
    (tmp_path / "fleet.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(InputError, match="is damaged; restore it from a copy"):
        Fleet(tmp_path / "fleet.db")


def test_a_batch_that_fails_leaves_nothing_behind(fleet):
    fleet.count([accepted("a", 1, "v1", 1)])
    good, odd = accepted("b", 2, "v1", 1), accepted("c", 1, "v1", 1)
    other_alphabet = odd.report.steps[:27]
    with pytest.raises(ValueError, match="do not add"):
        fleet.count([good, odd._replace(report=replace(odd.report, steps=other_alphabet))])
    assert fleet.windows() == [(1, 1)]
    assert fleet.count([accepted("b", 2, "v1", 7)]) == [True]
