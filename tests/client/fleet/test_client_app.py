"""Offers and steps of sums as they come through Flower, and the answers that go back."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import fields
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Context, Message, Metadata, RecordDict
from google.protobuf.message import DecodeError

from fedhw.data.writers import WriterSet
from fedhw.improvement.actions import Progress
from fedhw.improvement.contribution import Task
from fedhw.privacy.budget import Limits
from fedhw.privacy.ledger import Ledger
from fedhw.release.registry import Parcel, Registry
from fedhw.release.release import Release
from fedhw.release.signing import ReleaseKey
from fedhw.v1 import improvement_pb2 as sums
from fedhw.v1 import release_pb2 as pb
from fedhw_client.agent.adoption import Adoption
from fedhw_client.agent.agent import Agent
from fedhw_client.fleet.client_app import app, client_app
from fedhw_client.fleet.contributor import Contributor, Reason
from fedhw_client.fleet.shadow_evaluation import Shadow
from fedhw_client.store.corrections import Store
from fedhw_client.store.device_home import Home
from tests import contributing
from tests.releases import published, shuffled
from tests.waiting import until

Ask = Callable[[pb.Offer], pb.Answer]


@pytest.fixture
def parcel(release: Release, tmp_path: Path) -> Parcel:
    registry = Registry(tmp_path / "registry", ReleaseKey.create(tmp_path / "release.key"))
    return published(registry, release, shuffled(1), tmp_path / "newer")


@pytest.fixture
def home(release_directory: Path, tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.directory.mkdir()
    home.install(release_directory)
    return home


@pytest.fixture
def agent(home: Home) -> Iterator[Agent]:
    with closing(Agent(Release.load(home.release), Store(home.database))) as agent:
        yield agent


@pytest.fixture
def adoption(home: Home, agent: Agent, parcel: Parcel, tmp_path: Path) -> Iterator[Adoption]:
    adoption = Adoption(agent, home, ReleaseKey.load(tmp_path / "release.key").public)
    yield adoption
    agent.close()
    adoption.close()


def message(content: RecordDict, kind: str = "query.release") -> Message:
    metadata = Metadata(
        run_id=1,
        message_id="question",
        src_node_id=2,
        dst_node_id=3,
        reply_to_message_id="",
        group_id="",
        created_at=0.0,
        ttl=1e12,
        message_type=kind,
        src_task_id=None,
        dst_task_id=None,
    )
    return Message(metadata=metadata, content=content)


def called(
    adoption: Adoption,
    content: RecordDict,
    kind: str = "query.release",
    contributor: Contributor | None = None,
    shadow: Shadow | None = None,
) -> Message:
    context = Context(1, 3, node_config={}, state=RecordDict(), run_config={})
    return client_app(adoption, contributor, shadow)(message(content, kind), context)


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


def test_an_offer_is_answered_from_wanted_to_running(ask, parcel, agent):
    before = agent.release_name
    asked = pb.Offer(manifest=parcel.manifest, signature=parcel.signature)
    whole = pb.Offer(manifest=parcel.manifest, signature=parcel.signature, files=parcel.files)
    assert ask(asked) == pb.Answer(adoption=pb.ADOPTION_WANTED, running=before)
    assert ask(whole).adoption == pb.ADOPTION_LEARNING
    until(lambda: ask(asked).adoption == pb.ADOPTION_RUNNING)
    answer = ask(asked)
    assert answer == pb.Answer(adoption=pb.ADOPTION_RUNNING, running=agent.release_name)
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


SUM = bytes(range(16))


def asked_for(task: Task) -> sums.Task:
    named = {each.name: getattr(task, each.name) for each in fields(task)}
    return sums.Task(**named)


@pytest.fixture
def taking_part(
    adoption: Adoption, release: Release, tmp_path: Path, unseen_writers: WriterSet
) -> Iterator[Callable[[sums.SumRequest], sums.SumAnswer]]:
    key = ReleaseKey.load(tmp_path / "release.key")
    corrections = contributing.written(unseen_writers, 0, 40)
    with contributing.device(
        tmp_path / "anna", release, contributing.enrolled("anna", key.public), corrections
    ) as device:

        def taken(request: sums.SumRequest) -> sums.SumAnswer:
            content = RecordDict({"fedhw": ConfigRecord({"request": request.SerializeToString()})})
            reply = called(adoption, content, "train.sum", device.contributor)
            assert list(reply.content["fedhw"]) == ["answer"]
            return sums.SumAnswer.FromString(reply.content["fedhw"]["answer"])

        yield taken


def test_keys_are_shown_without_what_the_coordinator_knows(taking_part, release):
    task = asked_for(contributing.task(release))
    keys = taking_part(sums.SumRequest(sum=SUM, advertise=task)).keys
    assert [len(each) for each in (keys.mask_key, keys.share_key, keys.signature)] == [32, 32, 64]
    assert not keys.device
    assert not keys.report_key
    assert not keys.certificate


def test_what_cannot_be_a_step_is_declined(taking_part, release):
    task = asked_for(contributing.task(release))
    task.rate = -1
    for request, reason in (
        (sums.SumRequest(sum=SUM, advertise=task), sums.DECLINE_TASK),
        (sums.SumRequest(sum=SUM, advertise=sums.Task()), sums.DECLINE_TASK),
        (sums.SumRequest(sum=SUM, share=sums.Neighbours()), sums.DECLINE_SUM),
        (sums.SumRequest(sum=SUM, mask=sums.Envelopes()), sums.DECLINE_SUM),
        (sums.SumRequest(sum=SUM, reveal=sums.Survivors()), sums.DECLINE_SUM),
        (sums.SumRequest(sum=SUM), sums.DECLINE_STEP),
        (sums.SumRequest(), sums.DECLINE_STEP),
    ):
        assert taking_part(request) == sums.SumAnswer(declined=reason)


def test_every_reason_to_decline_has_a_name():
    names = {f"DECLINE_{reason.name}" for reason in Reason} | {"DECLINE_UNSPECIFIED"}
    assert set(sums.Decline.keys()) == names


def test_nothing_else_is_answered(adoption):
    for kind in ("query.statistics", "train.sum"):
        with pytest.raises(ValueError, match=kind.partition(".")[0]):
            called(adoption, RecordDict(), kind)


def test_the_app_that_the_bundle_names_answers_nothing():
    context = Context(1, 3, node_config={}, state=RecordDict(), run_config={})
    with pytest.raises(ValueError, match="query"):
        app(message(RecordDict()), context)


def test_a_candidate_is_answered_from_wanted_to_told(adoption, agent, parcel, tmp_path):
    key = ReleaseKey.load(tmp_path / "release.key")
    ledger = Ledger.create(tmp_path / "ledger.db", Limits(per_day=4, in_all=40, delta=1e-6))
    enrolment = contributing.enrolled("anna", key.public)
    shadow = Shadow(agent, enrolment, ledger, lambda: None)

    def said(signature: bytes, files: dict[str, bytes]) -> int:
        asked = pb.Offer(manifest=parcel.manifest, signature=signature, files=files)
        content = RecordDict({"fedhw": ConfigRecord({"offer": asked.SerializeToString()})})
        reply = called(adoption, content, "query.shadow", shadow=shadow)
        return pb.ShadowAnswer.FromString(reply.content["fedhw"]["answer"]).shadow

    before = agent.release_name
    signature = key.sign_candidate(parcel.manifest)
    assert said(parcel.signature, {}) == pb.SHADOW_REFUSED  # a release is no candidate
    assert said(signature, {}) == pb.SHADOW_WANTED
    assert said(signature, parcel.files) in (pb.SHADOW_EVALUATING, pb.SHADOW_TOLD)
    until(lambda: said(signature, {}) == pb.SHADOW_TOLD)
    assert agent.release_name == before
    shadow.close()


def test_every_state_of_a_candidate_has_a_name():
    names = {f"SHADOW_{state.name}" for state in Progress} | {"SHADOW_UNSPECIFIED"}
    assert names == set(pb.Shadow.keys())
