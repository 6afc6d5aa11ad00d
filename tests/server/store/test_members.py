import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fedhw.errors import InputError
from fedhw.system.clock import SettableClock
from fedhw_server.store.fleet import Fleet
from fedhw_server.store.members import (
    ONLINE_SECONDS,
    RENEWAL_REMINDER_SECONDS,
    EnrolmentError,
    MemberCounts,
)
from tests.server.conftest import Pen


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
            self.tokens[name] = self.fleet.members.invite(name)
            self.states[name] = "invited"
        else:
            with pytest.raises(InputError, match=f"{name} is {self.states[name]} already"):
                self.fleet.members.invite(name)

    @precondition(lambda self: self.tokens)
    @rule(name=names, of=names)
    def enrol(self, name: str, of: str) -> None:
        token, pen = self.tokens.get(of, "guessed"), Pen(name)
        if self.states.get(name) == "invited" and name == of:
            self.fleet.members.enrol(name, token, pen.public, pen.node)
            self.states[name] = "enrolled"
            self.used[name] = (token, pen)
        else:
            with pytest.raises(EnrolmentError):
                self.fleet.members.enrol(name, token, pen.public, pen.node)

    @precondition(lambda self: self.used)
    @rule(name=names)
    def enrol_again(self, name: str) -> None:
        if name in self.used:
            token, pen = self.used[name]
            if self.states[name] == "enrolled":
                known = self.fleet.members.enrol(name, token, pen.public, pen.node)
                assert known == self.fleet.members.get(name)
            else:
                with pytest.raises(EnrolmentError):
                    self.fleet.members.enrol(name, token, pen.public, pen.node)

    @rule(name=names)
    def revoke(self, name: str) -> None:
        if name in self.states:
            self.fleet.members.revoke(name)
            self.states[name] = "revoked"
        else:
            with pytest.raises(InputError, match=f"name: {name} is not known"):
                self.fleet.members.revoke(name)

    @invariant()
    def agrees(self) -> None:
        assert {device.name: device.state for device in self.fleet.members.all()} == self.states
        for name in ("pen", "quill"):
            wanted = None
            if name in self.used:
                wanted = (self.used[name][1].public, self.states[name] == "revoked")
            assert self.fleet.members.reporter(name) == wanted
        assert self.fleet.members.differing() == {
            name for name in self.used if self.states[name] == "enrolled"
        }


TestMembership = Membership.TestCase
TestMembership.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)


@pytest.mark.parametrize("name", ["", "-pen", "a b", "a/b", "x" * 65, "päd", "pen\n"])
def test_a_name_that_cannot_be_used_is_refused(fleet, name):
    with pytest.raises(InputError, match="cannot name a device"):
        fleet.members.invite(name)
    assert fleet.members.all() == []


def test_two_devices_have_two_node_keys(fleet):
    pen = Pen("pen").join(fleet)
    token = fleet.members.invite("quill")
    with pytest.raises(EnrolmentError, match="node_key: it is another device's"):
        fleet.members.enrol("quill", token, Pen("quill").public, pen.node)
    assert fleet.members.get("quill").state == "invited"


def test_tokens_are_not_kept(fleet, home):
    token = fleet.members.invite("pen")
    assert token.encode() not in b"".join(
        path.read_bytes() for path in home.directory.glob("fleet.db*")
    )
    assert home.database.stat().st_mode & 0o077 == 0


@given(node=st.integers(0, 2**64 - 1))
@settings(max_examples=30)
def test_flowers_numbers_survive(tmp_path_factory, node):
    clock = SettableClock()
    fleet = Fleet(tmp_path_factory.mktemp("fleet") / "fleet.db", clock)
    Pen("pen").join(fleet)
    fleet.members.set_node("pen", node)
    assert list(fleet.members.by_node()) == [node]
    assert not fleet.members.differing()
    assert not fleet.members.get("pen").is_online(clock.wall())
    fleet.members.seen([node])
    assert fleet.members.get("pen").is_online(clock.wall())
    assert not fleet.members.get("pen").is_online(clock.wall() + ONLINE_SECONDS)
    fleet.members.revoke("pen")
    assert fleet.members.by_node() == {}
    assert fleet.members.differing() == {"pen"}
    assert not fleet.members.get("pen").is_online(clock.wall())
    fleet.close()


def test_whoever_settles_is_not_asked_again(fleet):
    Pen("pen").join(fleet)
    now = fleet.clock.wall()
    assert fleet.members.get("pen").wants(1, now)
    for adoption, again in (("learning", True), ("running", False), ("held back", False)):
        fleet.members.note_answer("pen", 1, "v1-0123abcd", adoption, None)
        assert fleet.members.get("pen").wants(1, now) == again
        assert fleet.members.get("pen").wants(2, now)
    fleet.members.note_answer("pen", 1, "", "refused", "store")
    assert not fleet.members.get("pen").wants(1, now)
    assert fleet.members.get("pen").wants(1, now + 2 * RENEWAL_REMINDER_SECONDS)
    assert fleet.members.get("pen").running is None


def test_an_answer_about_an_older_release_says_nothing_of_the_newest(fleet, registry, releases):
    first = registry.publish(releases[0])
    for name, adoption in (("a", "held back"), ("b", "refused"), ("c", "running")):
        Pen(name).join(fleet)
        fleet.members.note_answer(name, first.version, first.name, adoption, None)
    counts = MemberCounts.of(fleet.members.all(), first, fleet.clock.wall())
    assert (counts.enrolled, counts.on_release, counts.held_back, counts.refused) == (3, 3, 1, 1)
    newest = registry.publish(releases[1])
    fleet.members.note_answer("a", newest.version, first.name, "held back", None)
    counts = MemberCounts.of(fleet.members.all(), newest, fleet.clock.wall())
    assert (counts.on_release, counts.held_back, counts.refused) == (0, 1, 0)


def test_before_a_release_there_is_nothing_to_run(fleet):
    Pen("a").join(fleet)
    fleet.members.invite("guest")
    fleet.members.revoke(Pen("gone").join(fleet).name)
    counts = MemberCounts.of(fleet.members.all(), None, fleet.clock.wall())
    assert counts == MemberCounts(
        invited=1, enrolled=1, online=0, on_release=0, held_back=0, refused=0, revoked=1
    )
