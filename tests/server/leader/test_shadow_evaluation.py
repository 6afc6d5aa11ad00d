from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

from fedhw.release.manifest import MANIFEST, Manifest
from fedhw.release.release import read_files
from fedhw.release.signing import ReleaseKey, SignatureError, verify, verify_candidate
from fedhw.v1 import release_pb2 as pb
from fedhw_client.fleet import supernode
from fedhw_client.fleet.supernode import SuperNode
from fedhw_server.leader.shadow_evaluation import ask_for_evaluations
from fedhw_server.leader.superlink import running
from tests.server.conftest import Pen, open_fleet
from tests.waiting import until

pytestmark = pytest.mark.superlink

Reply = Callable[[pb.Offer], Any]


def app(reply: Reply, offers: list[pb.Offer]) -> ClientApp:
    """A device that keeps what it is asked to try, and answers so."""
    device = ClientApp()

    @device.query("shadow")
    def shadow(message: Message, _: Any) -> Message:
        asked = pb.Offer.FromString(message.content["fedhw"]["offer"])
        offers.append(asked)
        said = reply(asked)
        content = said.SerializeToString() if isinstance(said, pb.ShadowAnswer) else said
        return Message(RecordDict({"fedhw": ConfigRecord({"answer": content})}), reply_to=message)

    return device


@pytest.fixture
def connected(link, monkeypatch):
    """Asks devices that answer as they like; returns what is known then, and what each was sent."""
    monkeypatch.setattr(supernode, "LONGEST_POLL_SECONDS", 0.2)
    monkeypatch.setattr(supernode, "SHORTEST_POLL_SECONDS", 0.05)
    link.home.database.unlink(missing_ok=True)

    @contextmanager
    def online(**replies: Reply) -> Iterator[tuple[Any, Any, dict[str, list[pb.Offer]]]]:
        offers: dict[str, list[pb.Offer]] = {name: [] for name in replies}
        with ExitStack() as stack:
            fleet = stack.enter_context(open_fleet(link.home))
            grid, _ = stack.enter_context(running(link.address))
            for name, reply in replies.items():
                pen = Pen(name).join(fleet)
                number = link.superlink.register(pen.node)
                fleet.members.set_node(name, number)
                node = SuperNode(
                    pen.enrolment(link.home, link.address.at), app(reply, offers[name])
                )
                stack.callback(link.superlink.unregister, number)
                stack.callback(node.close)
            until(lambda: fleet.members.by_node().keys() <= set(grid.get_node_ids()))
            yield grid, fleet.members.by_node(), offers

    return online


@pytest.fixture
def key(link):
    return ReleaseKey.load(link.home.release_key)


def told(asked: pb.Offer) -> pb.ShadowAnswer:
    return pb.ShadowAnswer(shadow="SHADOW_EVALUATING" if asked.files else "SHADOW_WANTED")


def failing(_: pb.Offer) -> pb.ShadowAnswer:
    raise ValueError("the glyph was an a")


def test_who_wants_the_files_gets_them_once_and_all_say_how_far_they_are(
    connected, key, releases: list[Path]
):
    directory = releases[0]
    manifest = (directory / MANIFEST).read_bytes()
    with connected(
        anna=told,
        berta=lambda _: pb.ShadowAnswer(shadow="SHADOW_TOLD"),
        carl=lambda _: pb.ShadowAnswer(shadow="SHADOW_WANTED"),
        dora=lambda _: pb.ShadowAnswer(shadow="SHADOW_DECLINED"),
    ) as (grid, devices, offers):
        answers = ask_for_evaluations(grid, key, devices, directory)
    assert answers == {"anna": "evaluating", "berta": "told", "carl": "wanted", "dora": "declined"}
    files = read_files(directory, Manifest.parse(manifest, directory))
    for name, sent in offers.items():
        assert [each.manifest for each in sent] == [manifest] * len(sent)
        whole = [{}, files] if name in ("anna", "carl") else [{}]
        assert [dict(each.files) for each in sent] == whole
        for each in sent:
            verify_candidate(each.manifest, each.signature, key.public)
            with pytest.raises(SignatureError):  # it can never be installed
                verify(each.manifest, each.signature, key.public)


def test_who_answers_nothing_that_can_be_used_is_left_out(connected, key, releases):
    with connected(
        anna=failing,
        berta=lambda _: b"\xff\xff",
        carl=lambda _: pb.ShadowAnswer(shadow=99),
        dora=lambda _: pb.ShadowAnswer(),
        emil=lambda _: pb.ShadowAnswer(shadow="SHADOW_REFUSED"),
    ) as (grid, devices, _):
        assert ask_for_evaluations(grid, key, devices, releases[0]) == {"emil": "refused"}
