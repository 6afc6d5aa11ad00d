import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

from fedhw.improvement import rollout
from fedhw.improvement.attempt import Stage
from fedhw.system.clock import SettableClock
from fedhw.v1 import release_pb2 as pb
from fedhw_client.fleet import supernode
from fedhw_client.fleet.supernode import SuperNode
from fedhw_server.leader.offering import OFFER_TIMEOUT_SECONDS, offer
from fedhw_server.leader.superlink import running
from tests.server.conftest import Pen, open_fleet, open_registry
from tests.waiting import until

pytestmark = pytest.mark.superlink

Reply = Callable[[pb.Offer], Any]


class Recorder:
    """What a device was offered, and what it says to it."""

    def __init__(self, reply: Reply) -> None:
        self.offers: list[pb.Offer] = []
        self.reply = reply
        self.app = ClientApp()

        @self.app.query("release")
        def release(message: Message, _: Any) -> Message:
            asked = pb.Offer.FromString(message.content["fedhw"]["offer"])
            self.offers.append(asked)
            said = self.reply(asked)
            content = said.SerializeToString() if isinstance(said, pb.Answer) else said
            return Message(
                RecordDict({"fedhw": ConfigRecord({"answer": content})}), reply_to=message
            )


def willing(asked: pb.Offer) -> pb.Answer:
    if not asked.files:
        return pb.Answer(adoption="ADOPTION_WANTED", running="v0-0123abcd")
    return pb.Answer(adoption="ADOPTION_RUNNING", running="v1-0123abcd")


@pytest.fixture(scope="module")
def grid(link):
    with running(link.address) as (grid, _):
        yield grid


@pytest.fixture
def fleet(link):
    link.home.database.unlink(missing_ok=True)
    with open_fleet(link.home) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def registry(link, releases):
    registry = open_registry(link.home)
    registry.publish(releases[0])
    return registry


@pytest.fixture(autouse=True)
def lively(monkeypatch):
    monkeypatch.setattr(supernode, "LONGEST_POLL_SECONDS", 0.2)
    monkeypatch.setattr(supernode, "SHORTEST_POLL_SECONDS", 0.05)


@pytest.fixture
def online(link, fleet, grid):
    """Connects devices that answer as they like, as long as a `with` block lasts."""

    @contextmanager
    def connected(**replies: Reply) -> Iterator[dict[str, Recorder]]:
        known = {name: Recorder(reply) for name, reply in replies.items()}
        with ExitStack() as stack:
            numbers = set()
            for name, recorder in known.items():
                pen = Pen(name).join(fleet)
                number = link.superlink.register(pen.node)
                fleet.members.set_node(name, number)
                numbers.add(number)
                node = SuperNode(pen.enrolment(link.home, link.address.at), recorder.app)
                stack.callback(link.superlink.unregister, number)
                stack.callback(node.close)
            until(lambda: numbers <= set(grid.get_node_ids()))
            yield known

    return connected


def told(fleet):
    return {d.name: (d.adoption, d.running, d.refusal) for d in fleet.members.all()}


def test_who_wants_it_gets_the_files_and_who_runs_it_is_left_alone(grid, fleet, registry, online):
    parcel = registry.parcel(1)
    with online(one=willing, two=willing) as devices:
        offer(grid, fleet, registry)
        assert told(fleet) == dict.fromkeys(("one", "two"), ("running", "v1-0123abcd", None))
        for device in devices.values():
            first, second = device.offers
            assert (first.manifest, first.signature) == (parcel.manifest, parcel.signature)
            assert dict(first.files) == {}
            assert (second.manifest, second.signature) == (parcel.manifest, parcel.signature)
            assert dict(second.files) == parcel.files
        offer(grid, fleet, registry)
        assert [len(device.offers) for device in devices.values()] == [2, 2]
    [only] = fleet.offer_log.all()
    assert (only.version, only.asked, only.answered) == (1, 2, 2)


def test_what_devices_say_is_kept_in_words(grid, fleet, registry, online):
    with online(
        held=lambda _: pb.Answer(adoption="ADOPTION_HELD_BACK", running="v0-0123abcd"),
        sick=lambda _: pb.Answer(adoption="ADOPTION_REFUSED", refusal="REFUSAL_STORE"),
    ) as devices:
        offer(grid, fleet, registry)
        assert told(fleet) == {
            "held": ("held back", "v0-0123abcd", None),
            "sick": ("refused", None, "store"),
        }
        offer(grid, fleet, registry)
        assert [len(device.offers) for device in devices.values()] == [1, 1]


def test_who_learns_is_asked_again(grid, fleet, registry, online):
    learning = pb.Answer(adoption="ADOPTION_LEARNING", running="v0-0123abcd")
    with online(one=lambda _: learning) as devices:
        offer(grid, fleet, registry)
        assert told(fleet) == {"one": ("learning", "v0-0123abcd", None)}
        devices["one"].reply = willing
        offer(grid, fleet, registry)
        assert told(fleet) == {"one": ("running", "v1-0123abcd", None)}


def test_who_never_has_enough_gets_the_files_once_a_round(grid, fleet, registry, online):
    wanted = pb.Answer(adoption="ADOPTION_WANTED")
    with online(one=lambda _: wanted) as devices:
        offer(grid, fleet, registry)
        assert [bool(each.files) for each in devices["one"].offers] == [False, True]
        assert told(fleet) == {"one": ("wanted", None, None)}


def failing(_: pb.Offer) -> pb.Answer:
    raise ValueError("the glyph was an a")


NONSENSE: dict[str, Reply] = {
    "an error": failing,
    "no bytes": lambda _: "running",
    "no answer": lambda _: b"\xff\xff",
    "an unknown adoption": lambda _: pb.Answer(adoption=99),
    "an unknown refusal": lambda _: pb.Answer(adoption="ADOPTION_REFUSED", refusal=99),
}


@pytest.mark.parametrize("kind", NONSENSE)
def test_nonsense_is_no_answer_and_hurts_nobody_else(grid, fleet, registry, online, kind, capfd):
    with online(bad=NONSENSE[kind], good=willing):
        offer(grid, fleet, registry)
    assert told(fleet) == {"bad": (None, None, None), "good": ("running", "v1-0123abcd", None)}
    [only] = fleet.offer_log.all()
    assert (only.asked, only.answered) == (2, 1)
    assert only.seconds < OFFER_TIMEOUT_SECONDS
    assert "the glyph" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("running", ["[/red]", "v1-0123abcd\x1b[2J", "v1-0123abcd" * 9, "ü"])
def test_what_is_no_name_of_a_release_is_not_kept(grid, fleet, registry, online, running):
    with online(one=lambda _: pb.Answer(adoption="ADOPTION_RUNNING", running=running)):
        offer(grid, fleet, registry)
    assert told(fleet) == {"one": ("running", None, None)}


def test_the_dead_are_waited_for_until_the_deadline_only(grid, fleet, registry, online):
    woken = threading.Event()

    def dead(asked: pb.Offer) -> pb.Answer:
        woken.wait(60)
        return willing(asked)

    with online(one=willing, dead=dead):
        clock = SettableClock()
        offering = threading.Thread(target=offer, args=(grid, fleet, registry, clock))
        offering.start()
        until(lambda: clock.advance(0.02) or told(fleet)["one"][0] == "running")
        clock.advance(OFFER_TIMEOUT_SECONDS)
        offering.join()
        assert told(fleet) == {
            "one": ("running", "v1-0123abcd", None),
            "dead": (None, None, None),
        }
        [only] = fleet.offer_log.all()
        assert (only.asked, only.answered) == (2, 1)
        assert only.seconds >= OFFER_TIMEOUT_SECONDS
        woken.set()


def test_nothing_is_offered_while_paused(grid, fleet, registry, online):
    with online(one=willing) as devices:
        fleet.settings.pause(True)
        offer(grid, fleet, registry)
        assert devices["one"].offers == []
        assert fleet.offer_log.all() == []
        fleet.settings.pause(False)
        offer(grid, fleet, registry)
        assert len(devices["one"].offers) == 2


def test_nothing_is_offered_to_the_revoked(grid, fleet, registry, online):
    with online(one=willing) as devices:
        fleet.members.revoke("one")
        offer(grid, fleet, registry)
        assert devices["one"].offers == []


def test_a_newer_release_is_offered_to_all(grid, fleet, registry, online, releases, link):
    with online(one=willing) as devices:
        offer(grid, fleet, registry)
        registry.publish(releases[1])
        offer(grid, fleet, registry)
        assert [each.manifest for each in devices["one"].offers[::2]] == [
            registry.parcel(version).manifest for version in (1, 2)
        ]


def test_nothing_is_offered_before_anything_was_published(grid, fleet, home, online):
    with online(one=willing) as devices:
        offer(grid, fleet, open_registry(home))
        assert devices["one"].offers == []


def test_in_a_roll_out_each_is_offered_what_is_for_it(
    grid, fleet, home, online, releases, monkeypatch
):
    registry = open_registry(home)
    before, newest = (registry.publish(each) for each in releases)
    numbers = {"few": 0.1, "more": 0.9, "has": 0.95}
    monkeypatch.setattr(rollout, "draw", lambda name, _: numbers[name])
    monkeypatch.setattr(rollout, "FLOOR_COHORTS", 0.5)  # of two devices: a third of the fleet
    known = fleet.attempts
    known.begin(1, "by hand")
    known.keep(replace(known.current, stage=Stage.ROLL_OUT, version=2))
    with online(few=willing, more=willing, has=willing) as devices:
        fleet.members.note_answer("has", 2, newest.name, "learning", None)
        offer(grid, fleet, registry)
        offered = {name: {each.manifest for each in one.offers} for name, one in devices.items()}
        assert offered == {
            "few": {registry.parcel(newest.version).manifest},
            "more": {registry.parcel(before.version).manifest},
            "has": {registry.parcel(newest.version).manifest},
        }
        assert {(each.version, each.asked) for each in fleet.offer_log.all()} == {(1, 1), (2, 2)}
        known.keep(replace(known.current, stage=Stage.PROMOTED))
        offer(grid, fleet, registry)
        assert devices["more"].offers[-1].manifest == registry.parcel(newest.version).manifest
