"""Rounds over a real SuperLink, of devices that train on corrections; some of them go, or lie."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid

from fedhw.data.writers import WriterSet
from fedhw.improvement.contribution import Task
from fedhw.privacy.secure_sum import SumError
from fedhw.release.release import Release
from fedhw.release.signing import ReleaseKey
from fedhw.v1 import improvement_pb2 as pb
from fedhw_client.agent.adoption import Adoption
from fedhw_client.fleet import supernode
from fedhw_client.fleet.client_app import client_app
from fedhw_client.fleet.supernode import SuperNode
from fedhw_client.store.device_home import Home as DeviceHome
from fedhw_server.leader.secure_round import LateSumError, Summed, secure_sum
from fedhw_server.leader.superlink import running
from fedhw_server.store.members import Member
from tests import contributing
from tests.contributing import task, written
from tests.server.conftest import Link, Pen, open_fleet
from tests.waiting import until

pytestmark = pytest.mark.superlink

NAMES = tuple("abcdefgh")
MINIMUM = 4
DEADLINE = 240.0
"""Seconds; nobody is silent here, so it is not waited for."""

STEPS = ("advertise", "share", "mask", "reveal")

Spoil = Callable[[pb.SumAnswer], bytes]


class Party:
    """Devices online, of which each may spoil a step in a way of its own."""

    def __init__(self, grid: Grid, key: ReleaseKey, release: Release) -> None:
        self.grid = grid
        self.key = key
        self.release = release
        self.devices: dict[int, Member] = {}
        self.contributing: dict[str, contributing.Device] = {}
        self.spoiled: dict[tuple[str, str], Spoil] = {}
        self.asked: list[tuple[str, str]] = []
        self.added: dict[str, np.ndarray] = {}

    def sum(self, *names: str, **changes: float) -> Summed:
        wanted = names or NAMES
        devices = {n: device for n, device in self.devices.items() if device.name in wanted}
        usual = task(self.release, devices=len(devices), survivors=MINIMUM)
        return secure_sum(self.grid, devices, replace(usual, **changes), self.key, DEADLINE)

    def app(self, name: str, home: Path) -> Callable[[Message, Context], Message]:
        adoption = Adoption(None, DeviceHome(home), self.key.public)
        inner = client_app(adoption, self.contributing[name].contributor)

        def call(message: Message, context: Context) -> Message:
            request = pb.SumRequest.FromString(message.content["fedhw"]["request"])
            step = str(request.WhichOneof("step"))
            self.asked.append((name, step))
            reply = inner(message, context)
            answer = pb.SumAnswer.FromString(reply.content["fedhw"]["answer"])
            spoil = self.spoiled.get((name, step))
            if spoil is None or answer.training:
                return reply
            content = RecordDict({"fedhw": ConfigRecord({"answer": spoil(answer)})})
            return Message(content, reply_to=message)

        return call


@pytest.fixture(scope="module")
def grid(link: Link) -> Iterator[Grid]:
    with running(link.address) as (grid, _):
        yield grid


@pytest.fixture(scope="module")
def party(
    link: Link,
    grid: Grid,
    release: Release,
    unseen_writers: WriterSet,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Party]:
    key, place = ReleaseKey.load(link.home.release_key), tmp_path_factory.mktemp("devices")
    link.home.database.unlink(missing_ok=True)
    party = Party(grid, key, release)
    with ExitStack() as stack:
        fleet = stack.enter_context(open_fleet(link.home))
        contribution = Task.contribution

        def recording(self: Task, update: np.ndarray) -> np.ndarray:
            vector = contribution(self, update)
            party.added[trained_by(party)] = vector
            return vector

        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(Task, "contribution", recording)
        patch.setattr(supernode, "LONGEST_POLL_SECONDS", 1.0)
        patch.setattr(supernode, "SHORTEST_POLL_SECONDS", 0.1)
        for number, name in enumerate(NAMES):
            pen = Pen(name).join(fleet)
            node = link.superlink.register(pen.node)
            fleet.members.set_node(name, node)
            enrolment = pen.enrolment(link.home, link.address.at)
            invitation = replace(enrolment.invitation, release_key=key.public)
            enrolment = replace(enrolment, invitation=invitation)
            corrections = written(unseen_writers, number % 6, 40)
            party.contributing[name] = stack.enter_context(
                contributing.device(place / name, release, enrolment, corrections)
            )
            supernode_app = party.app(name, place / name)
            stack.enter_context(closing(SuperNode(enrolment, supernode_app)))  # type: ignore[arg-type]
        until(lambda: set(fleet.members.by_node()) <= set(grid.get_node_ids()))
        party.devices = fleet.members.by_node()
        for device in party.contributing.values():
            until(lambda: not device.agent.status().learning)  # noqa: B023
        yield party


def trained_by(party: Party) -> str:
    """Whose training this thread is, which has begun a moment before it is known."""
    thread, found = threading.current_thread(), []

    def is_known() -> bool:
        for name, device in party.contributing.items():
            current = device.contributor._sum
            if current is not None and current.training is thread:
                found.append(name)
        return found != []

    until(is_known)
    return found[0]


@pytest.fixture(autouse=True)
def honest(party: Party) -> None:
    party.spoiled.clear()
    party.asked.clear()
    party.added.clear()


def check(summed: Summed, party: Party, *contributors: str) -> None:
    """The sum is that of what these have added, and no other."""
    assert sorted(summed.contributors) == sorted(contributors)
    np.testing.assert_array_equal(
        summed.total, np.sum([party.added[name] for name in contributors], axis=0)
    )


def without(*names: str) -> list[str]:
    return [name for name in NAMES if name not in names]


def test_everybody_takes_part(party: Party) -> None:
    summed = party.sum()
    check(summed, party, *NAMES)
    assert sorted(summed.asked) == sorted(NAMES)
    for name in NAMES:
        [*_, paid] = party.contributing[name].ledger.rounds()
        assert paid.rho == task(party.release, devices=8, survivors=MINIMUM).rho


def failing(answer: pb.SumAnswer) -> bytes:
    raise ValueError("anna wrote Q")


@pytest.mark.parametrize(("early", "late"), [("advertise", "mask"), ("share", "reveal")])
def test_who_goes_in_a_step_is_left_out_from_there(party: Party, early: str, late: str) -> None:
    party.spoiled = {("a", early): failing, ("b", late): failing}
    summed = party.sum()
    # Who has given its vector is in the sum, whatever comes then.
    check(summed, party, *(without("a") if late == "reveal" else without("a", "b")))
    assert sorted(summed.asked) == without("a")
    for name, step in (("a", early), ("b", late)):
        steps = [asked for asker, asked in party.asked if asker == name]
        assert list(dict.fromkeys(steps)) == list(STEPS[: STEPS.index(step) + 1])


def changed(**fields: object) -> Spoil:
    return lambda _: pb.SumAnswer(**fields).SerializeToString()  # type: ignore[arg-type]


def with_other_keys(answer: pb.SumAnswer) -> bytes:
    answer.keys.mask_key = answer.keys.share_key
    return answer.SerializeToString()


def short(answer: pb.SumAnswer) -> bytes:
    return pb.SumAnswer(vector=answer.vector[:-1]).SerializeToString()


def to_one_less(answer: pb.SumAnswer) -> bytes:
    del answer.envelopes.by_device["b"]
    return answer.SerializeToString()


@pytest.mark.parametrize(
    ("step", "spoils"),
    [
        (
            "advertise",
            (
                with_other_keys,
                changed(vector=b"1"),
                changed(declined=99),
                lambda _: b"\xff\xff",
            ),
        ),
        ("share", (to_one_less, changed(declined="DECLINE_STEP"))),
        ("mask", (short, changed())),
    ],
)
def test_who_says_what_cannot_be_has_gone(party: Party, step: str, spoils: Sequence[Spoil]) -> None:
    party.spoiled = {(name, step): spoil for name, spoil in zip(NAMES, spoils, strict=False)}
    check(party.sum(), party, *NAMES[len(spoils) :])


@pytest.mark.parametrize("step", STEPS[1:])
def test_with_too_few_in_a_step_the_round_is_abandoned(party: Party, step: str) -> None:
    party.spoiled = {(name, step): failing for name in "abcde"}
    with pytest.raises(SumError, match=r"3 of 8 devices|3 are there of") as caught:
        party.sum()
    assert not {asked for _, asked in party.asked} & {*STEPS[STEPS.index(step) + 1 :]}
    asked = caught.value.asked if isinstance(caught.value, LateSumError) else ()
    assert sorted(asked) == ([] if step == "share" else [*NAMES])


def test_shares_may_be_fewer_than_survivors(party: Party) -> None:
    party.spoiled = {(name, "reveal"): failing for name in "ab"}
    check(party.sum(survivors=7), party, *NAMES)


def test_after_an_abandoned_round_there_is_another_one_of_those_who_are_asked(
    party: Party,
) -> None:
    party.spoiled = {(name, "mask"): failing for name in "abcde"}
    with pytest.raises(SumError):
        party.sum()
    party.spoiled = {}
    party.asked.clear()
    check(party.sum("a", "b", "c", "d", "h"), party, "a", "b", "c", "d", "h")
    assert {name for name, _ in party.asked} == set("abcdh")


def test_devices_that_do_not_agree_decline(party: Party) -> None:
    with pytest.raises(SumError, match="keys: 0 of 8 devices"):
        party.sum(noise=0.0)
    assert party.added == {}
