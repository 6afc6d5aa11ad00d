"""Devices are counted by what they do about the newest release."""

from fedhw_server.store.member_counts import MemberCounts
from tests.server.conftest import Pen


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
