import os
import signal

import pytest

from fedhw_server.leader.membership import Membership
from fedhw_server.leader.superlink import SuperLink
from fedhw_server.store.fleet import Fleet
from tests.server.conftest import Pen, open_fleet
from tests.waiting import until

pytestmark = pytest.mark.superlink


@pytest.fixture
def fleet(link):
    link.home.database.unlink(missing_ok=True)
    with open_fleet(link.home) as fleet:
        yield fleet


@pytest.fixture
def roster(link, fleet, loop):
    mine, superlink = Fleet(link.home.database), SuperLink(link.address)
    roster = Membership(mine, superlink)
    with loop.lasting(roster.keep()):
        yield roster
    superlink.close()
    mine.close()


def test_flower_knows_who_is_enrolled_and_nobody_else(link, fleet, roster):
    pens = [Pen(name).join(fleet) for name in ("pen", "quill")]
    fleet.members.invite("guest")
    roster.changed()
    until(lambda: len(fleet.members.by_node()) == 2)
    nodes = link.superlink.nodes()
    assert {nodes[pen.node].node: pen.name for pen in pens} == {
        node: device.name for node, device in fleet.members.by_node().items()
    }
    fleet.members.revoke("pen")  # nobody says so: it looks by itself
    until(lambda: pens[0].node not in link.superlink.nodes())
    until(lambda: fleet.members.get("pen").node is None)
    assert [device.name for device in fleet.members.by_node().values()] == ["quill"]
    assert fleet.members.get("quill").seen_at is None


def test_one_that_flower_refuses_does_not_keep_the_others_out(link, fleet, roster):
    bad, good = Pen("a-bad-one"), Pen("good")
    link.superlink.unregister(link.superlink.register(bad.node))
    bad.join(fleet)
    good.join(fleet)
    roster.changed()
    until(lambda: fleet.members.get("good").node is not None)
    assert fleet.members.get("a-bad-one").node is None


def test_a_flower_that_has_forgotten_is_told_again(link, fleet, roster):
    pen = Pen("pen").join(fleet)
    roster.changed()
    until(lambda: fleet.members.get("pen").node is not None)
    before = fleet.members.get("pen").node
    starts = link.part.starts
    for path in link.home.flower.glob("superlink.db*"):
        path.unlink()
    os.kill(link.part.pid, signal.SIGKILL)
    until(lambda: link.part.starts > starts)
    until(lambda: fleet.members.get("pen").node not in (None, before))
    assert link.superlink.nodes()[pen.node].node in fleet.members.by_node()


def test_it_goes_on_when_flower_does_not_answer(home, loop):
    with open_fleet(home) as fleet:
        Pen("pen").join(fleet)
        from fedhw_server.leader.superlink import Address

        nobody = SuperLink(Address("127.0.0.1:1", home.certificates / "ca.crt", ""))
        task = loop.start(Membership(fleet, nobody).keep())
        with pytest.raises(TimeoutError):
            task.result(2)
        task.cancel()
        assert fleet.members.get("pen").node is None
        nobody.close()
