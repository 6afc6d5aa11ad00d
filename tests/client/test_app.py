"""An offer as it comes through Flower, and the answer that goes back."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Context, Message, Metadata, RecordDict
from google.protobuf.message import DecodeError

from fedhw.release.registry import Parcel, Registry
from fedhw.release.release import Release
from fedhw.release.signing import ReleaseKey
from fedhw.v1 import release_pb2 as pb
from fedhw_client.adoption import Adoption
from fedhw_client.agent import Agent
from fedhw_client.app import app, client_app
from fedhw_client.home import Home
from fedhw_client.store import Store
from tests.client.releases import published, shuffled
from tests.integration.conftest import until

Ask = Callable[[pb.Offer], pb.Answer]


@pytest.fixture
def parcel(release: Release, tmp_path: Path) -> Parcel:
    registry = Registry(tmp_path / "registry", ReleaseKey.create(tmp_path / "release.key"))
    return published(registry, release, shuffled(1), tmp_path / "newer")


@pytest.fixture
def adoption(release_directory: Path, parcel: Parcel, tmp_path: Path) -> Iterator[Adoption]:
    home = Home(tmp_path / "home")
    home.directory.mkdir()
    home.install(release_directory)
    public = ReleaseKey.load(tmp_path / "release.key").public
    with closing(Agent(Release.load(home.release), Store(home.database))) as agent:
        adoption = Adoption(agent, home, public)
        yield adoption
    adoption.close()


def message(content: RecordDict, action: str = "release") -> Message:
    metadata = Metadata(
        run_id=1,
        message_id="question",
        src_node_id=2,
        dst_node_id=3,
        reply_to_message_id="",
        group_id="",
        created_at=0.0,
        ttl=1e12,
        message_type=f"query.{action}",
        src_task_id=None,
        dst_task_id=None,
    )
    return Message(metadata=metadata, content=content)


def called(adoption: Adoption, content: RecordDict, action: str = "release") -> Message:
    context = Context(1, 3, node_config={}, state=RecordDict(), run_config={})
    return client_app(adoption)(message(content, action), context)


@pytest.fixture
def ask(adoption: Adoption) -> Ask:
    def asked(offer: pb.Offer) -> pb.Answer:
        content = RecordDict({"fedhw": ConfigRecord({"offer": offer.SerializeToString()})})
        reply = called(adoption, content)
        assert reply.metadata.reply_to_message_id == "question"
        assert (reply.metadata.src_node_id, reply.metadata.dst_node_id) == (3, 2)
        assert list(reply.content) == ["fedhw"]
        assert list(reply.content["fedhw"]) == ["answer"]
        return pb.Answer.FromString(reply.content["fedhw"]["answer"])

    return asked


def test_an_offer_is_answered_from_wanted_to_running(ask, parcel, adoption):
    before = adoption._agent.release_name
    asked = pb.Offer(manifest=parcel.manifest, signature=parcel.signature)
    whole = pb.Offer(manifest=parcel.manifest, signature=parcel.signature, files=parcel.files)
    assert ask(asked) == pb.Answer(adoption=pb.ADOPTION_WANTED, running=before)
    assert ask(whole).adoption == pb.ADOPTION_LEARNING
    until(lambda: ask(asked).adoption == pb.ADOPTION_RUNNING)
    answer = ask(asked)
    assert answer == pb.Answer(adoption=pb.ADOPTION_RUNNING, running=adoption._agent.release_name)
    assert answer.running.startswith("v1-")
    assert answer.running != before


def test_an_offer_of_somebody_else_is_refused_with_the_reason(ask, parcel):
    forged = bytes(byte ^ 1 for byte in parcel.signature)
    answer = ask(pb.Offer(manifest=parcel.manifest, signature=forged, files=parcel.files))
    assert (answer.adoption, answer.refusal) == (pb.ADOPTION_REFUSED, pb.REFUSAL_SIGNATURE)
    assert ask(pb.Offer()).adoption == pb.ADOPTION_REFUSED


def test_what_is_no_offer_is_no_offer(adoption):
    with pytest.raises(DecodeError):
        called(adoption, RecordDict({"fedhw": ConfigRecord({"offer": b"\xff\xff"})}))
    for content in (RecordDict(), RecordDict({"fedhw": ConfigRecord({})})):
        with pytest.raises(KeyError):
            called(adoption, content)
    # What is no bytes says as much as an empty offer.
    reply = called(adoption, RecordDict({"fedhw": ConfigRecord({"offer": "text"})}))
    answer = pb.Answer.FromString(reply.content["fedhw"]["answer"])
    assert answer.adoption == pb.ADOPTION_REFUSED


def test_nothing_else_is_answered(adoption):
    with pytest.raises(ValueError, match="query"):
        called(adoption, RecordDict(), "statistics")


def test_the_app_that_the_bundle_names_answers_nothing():
    context = Context(1, 3, node_config={}, state=RecordDict(), run_config={})
    with pytest.raises(ValueError, match="query"):
        app(message(RecordDict()), context)
