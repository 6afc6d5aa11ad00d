"""Whatever comes over the wire, the agent answers with one sentence at most and goes on serving."""

import asyncio
import math
import queue
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from datetime import UTC, datetime, timedelta
from itertools import repeat
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhw.errors import InputError
from fedhw.v1 import device_pb2 as pb
from fedhw.v1 import device_pb2_grpc as pb_grpc
from fedhw_client import AgentMissingError, connect, connect_async
from fedhw_client.agent import device_service
from fedhw_client.store.corrections import Store
from tests.command_line import is_one_sentence
from tests.integration.conftest import AgentProcess, Character, Launch
from tests.waiting import PATIENCE, until

INVALID, EXHAUSTED = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED
MOST_GROWTH_MIB = 200.0
"""What an agent may hold more than at its start; caches of allocator and torch take some 100."""

NAN, INF = math.nan, math.inf
PASSPHRASE = "correct horse"


@pytest.fixture(scope="module")
def agent(launch: Launch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    with launch(tmp_path_factory.mktemp("wire") / "home") as running:
        yield running


@pytest.fixture(scope="module")
def most_mib(agent: AgentProcess) -> float:
    """The most memory that the agent may take."""
    return agent.resident_mib() + MOST_GROWTH_MIB


@pytest.fixture(scope="module")
def channel(agent: AgentProcess) -> Iterator[grpc.Channel]:
    with agent.channel() as opened:
        yield opened


@pytest.fixture(scope="module")
def stub(channel: grpc.Channel) -> Any:
    return pb_grpc.DeviceStub(channel)


@pytest.fixture
def answering(agent: AgentProcess, written: list[Character], most_mib: float) -> Iterator[None]:
    """Looks after the test whether the agent answers others and is small."""
    yield
    with agent.connect() as device:
        assert device.recognize(written[0].glyph).label in device.status().alphabet
    assert agent.resident_mib() < most_mib
    assert "Traceback" not in agent.logged


@pytest.fixture
def serving(agent: AgentProcess, answering: None) -> Iterator[None]:
    """Looks after the test whether nothing was stored, either."""
    with agent.connect() as device:
        before = device.status()
        yield
        after = device.status()
    assert (after.kept, after.corrections) == (before.kept, before.corrections)


def endless(request: Any, seconds_between: float) -> Iterator[Any]:
    while True:
        yield request
        time.sleep(seconds_between)


def outcome(ask: Callable[[], object]) -> grpc.StatusCode:
    """How a call ends; its sentence is one."""
    with pytest.raises(grpc.RpcError) as error:
        ask()
    details = error.value.details()
    if error.value.code() is INVALID:
        assert is_one_sentence(details), details
    assert details
    assert "\n" not in details
    assert "Unexpected" not in details
    return error.value.code()


def recognized(stub: Any, *glyphs: pb.Glyph | None) -> list[pb.RecognizeResponse]:
    return list(stub.Recognize(iter([pb.RecognizeRequest(glyph=glyph) for glyph in glyphs])))


def drawn(*strokes: tuple[list[float], list[float]]) -> pb.Glyph:
    return pb.Glyph(strokes=pb.Strokes(strokes=[pb.Stroke(x=x, y=y) for x, y in strokes]))


# Functions, since the large ones take seconds and every process collects this file.
GLYPHS: dict[str, tuple[Callable[[], pb.Glyph | None], grpc.StatusCode]] = {
    "missing": (lambda: None, INVALID),
    "too small": (lambda: pb.Glyph(image=bytes(783)), INVALID),
    "too large": (lambda: pb.Glyph(image=bytes(785)), INVALID),
    "10 MB": (lambda: pb.Glyph(image=bytes(10_000_000)), EXHAUSTED),
    "no strokes": (lambda: drawn(), INVALID),
    "no points": (lambda: drawn(([], [])), INVALID),
    "a stroke without points": (lambda: drawn(([1, 2], [1, 2]), ([], [])), INVALID),
    "NaN": (lambda: drawn(([1, NAN], [1, 2])), INVALID),
    "infinity": (lambda: drawn(([1, 2], [1, INF])), INVALID),
    "absurd": (lambda: drawn(([1, 3e38], [1, -3e38])), INVALID),
    "more x than y": (lambda: drawn(([1, 2], [1])), INVALID),
    "more y than x": (lambda: drawn(([], [1])), INVALID),
    "10,001 points": (lambda: drawn((list(range(10_001)),) * 2), INVALID),
    "a million points": (lambda: drawn(([0.0] * 1_000_000,) * 2), EXHAUSTED),
    "100,000 strokes": (lambda: drawn(*[([], [])] * 100_000), INVALID),
    "a million strokes": (lambda: drawn(*[([], [])] * 1_000_000), EXHAUSTED),
}


@pytest.mark.usefixtures("serving")
@pytest.mark.parametrize("name", GLYPHS)
def test_a_glyph_that_is_none(stub: Any, name: str) -> None:
    make, code = GLYPHS[name]
    glyph = make()
    assert outcome(lambda: recognized(stub, glyph)) is code
    good = pb.LearnRequest(glyph=drawn(([0, 1], [0, 1])), label="7")
    bad = pb.LearnRequest(glyph=glyph, label="7")
    assert outcome(lambda: stub.Learn(iter([good, bad]))) is code
    time.sleep(0.05)  # what it stored by mistake would come now


def test_good_strokes(stub: Any) -> None:
    most = np.linspace(0, 1, 10_000).tolist()
    answers = recognized(stub, drawn(([1], [2])), drawn((most, most)), drawn(([0, 1e9], [0, -1e9])))
    assert [len(answer.candidates) for answer in answers] == [5, 5, 5]


@pytest.mark.usefixtures("serving")
@pytest.mark.parametrize(
    ("label", "id"),
    [
        ("", ""),
        ("字", ""),
        ("ab", ""),
        ("7\n", ""),
        ("\0", ""),
        ("x" * 5000, ""),
        ("\n" * 200_000, ""),
        ("7", "x" * 65),
        ("7", "字" * 65),
        ("7", "x" * 200_000),
    ],
)
def test_a_label_or_an_id_that_is_none(
    stub: Any, written: list[Character], label: str, id: str
) -> None:
    glyph = written[0].question().glyph
    good = written[0].correction()
    bad = pb.LearnRequest(glyph=glyph, label=label, id=id)
    assert outcome(lambda: stub.Learn(iter([good, bad]))) is INVALID


@pytest.mark.usefixtures("serving")
def test_too_many_corrections_in_a_call(stub: Any, written: list[Character]) -> None:
    good = written[0].correction()
    assert outcome(lambda: stub.Learn(repeat(good, 1001))) is EXHAUSTED
    began = time.monotonic()
    assert outcome(lambda: stub.Learn(repeat(good))) is EXHAUSTED  # without end
    assert time.monotonic() - began < 30


def test_as_many_corrections_as_may_be_and_once_more(stub: Any, written: list[Character]) -> None:
    requests = [written[n % len(written)].correction(f"many-{n}") for n in range(1000)]
    before = stub.GetStatus(pb.GetStatusRequest()).status.corrections
    for _ in range(2):
        assert list(stub.Learn(iter(requests)).ids) == [request.id for request in requests]
        assert stub.GetStatus(pb.GetStatusRequest()).status.corrections == before + 1000
    twice = stub.Learn(iter([written[0].correction("twice"), written[0].correction("twice")]))
    assert list(twice.ids) == ["twice", "twice"]
    made_up = stub.Learn(iter([written[0].correction(), written[0].correction()]))
    assert len(set(made_up.ids) - {""}) == 2
    assert stub.GetStatus(pb.GetStatusRequest()).status.corrections == before + 1003
    everything = pb.ForgetRequest(everything=pb.Everything())
    assert stub.Forget(everything).forgotten == 1003


def import_profile(stub: Any, passphrase: str, *chunks: bytes) -> Any:
    first = pb.ImportProfileRequest(passphrase=passphrase)
    return stub.ImportProfile(iter([first, *(pb.ImportProfileRequest(chunk=c) for c in chunks)]))


@pytest.mark.usefixtures("serving")
def test_forgetting_that_names_nothing(stub: Any) -> None:
    assert outcome(lambda: stub.Forget(pb.ForgetRequest())) is INVALID
    assert outcome(lambda: stub.Forget(pb.ForgetRequest(period=pb.Period()))) is INVALID
    assert stub.Forget(pb.ForgetRequest(id="nobody")).forgotten == 0
    assert stub.Forget(pb.ForgetRequest(label="\n" * 200_000)).forgotten == 0
    end_of_time = pb.Period(start={"seconds": 2**63 - 1, "nanos": -(2**31)})
    assert stub.Forget(pb.ForgetRequest(period=end_of_time)).forgotten == 0


@pytest.mark.usefixtures("serving")
def test_profiles_that_cannot_be_opened(stub: Any, agent: AgentProcess) -> None:
    with agent.connect() as device:
        profile = device.export_profile(PASSPHRASE)
    short = pb.ExportProfileRequest(passphrase="1234567")
    assert outcome(lambda: list(stub.ExportProfile(short))) is INVALID
    assert outcome(lambda: stub.ImportProfile(iter([]))) is INVALID
    for passphrase, *chunks in (
        ("1234567", profile),
        ("battery staple", profile),
        (PASSPHRASE, b"garbage" * 9000),
        (PASSPHRASE, profile[:-1]),
        (PASSPHRASE, profile[:20]),
        (PASSPHRASE, profile[:100], profile[101:]),
        (PASSPHRASE,),
    ):
        assert outcome(lambda p=passphrase, c=chunks: import_profile(stub, p, *c)) is INVALID
    # A refusal must not hold on to what was refused.
    for _ in range(5):
        chunks = repeat(pb.ImportProfileRequest(chunk=bytes(2**17)))
        assert outcome(lambda c=chunks: stub.ImportProfile(c)) is EXHAUSTED


@pytest.mark.usefixtures("serving")
@pytest.mark.parametrize("method", ["Recognize", "Learn", "ImportProfile"])
def test_bytes_that_are_no_message(channel: grpc.Channel, method: str) -> None:
    call = channel.stream_stream(f"/{device_service.NAME}/{method}")
    for content in (b"\xff", b"\x0a\xff", b"\x12\x01\xff"):  # the last is a label not in UTF-8
        assert outcome(lambda c=content: list(call(iter([c])))) is INVALID


@pytest.mark.usefixtures("serving")
def test_two_hundred_connections(stub: Any, agent: AgentProcess, written: list[Character]) -> None:
    question, answered, endings = written[0].question(), 0, Counter[grpc.StatusCode]()
    first: queue.SimpleQueue[pb.RecognizeRequest | None] = queue.SimpleQueue()
    stream = stub.Recognize(iter(first.get, None))
    with ExitStack() as stack:
        others = []
        for _ in range(200):
            questions: queue.SimpleQueue[pb.RecognizeRequest | None] = queue.SimpleQueue()
            questions.put(question)
            stack.callback(questions.put, None)
            channel = stack.enter_context(agent.channel())
            others.append(pb_grpc.DeviceStub(channel).Recognize(iter(questions.get, None)))
            if len(others) % 20 == 0:
                first.put(question)
                assert next(stream).label
        for other in others:
            try:
                answered += next(other).label != ""
            except grpc.RpcError as error:
                endings[error.code()] += 1
        first.put(question)
        assert next(stream).label
    assert answered >= 100
    assert endings == {EXHAUSTED: 200 - answered}
    first.put(None)
    assert list(stream) == []


LEAVES = """
import os, sys, grpc
from fedhw.v1 import device_pb2 as pb, device_pb2_grpc as pb_grpc

glyph = pb.Glyph(image=bytes(784))

def then_leave(request, times):
    yield from [request] * times
    os._exit(0)

with grpc.insecure_channel(sys.argv[1]) as channel:
    stub = pb_grpc.DeviceStub(channel)
    next(stub.WatchStatus(pb.WatchStatusRequest()))
    exported = stub.ExportProfile(pb.ExportProfileRequest(passphrase="correct horse"))
    questions = stub.Recognize(iter([pb.RecognizeRequest(glyph=glyph)] * 100))
    if sys.argv[2] == "Learn":
        stub.Learn(then_leave(pb.LearnRequest(glyph=glyph, label="7"), 500))
    else:
        chunk = pb.ImportProfileRequest(chunk=bytes(1000))
        stub.ImportProfile(then_leave(chunk, 500))
"""


@pytest.mark.usefixtures("serving")
@pytest.mark.parametrize("method", ["Learn", "ImportProfile"])
def test_a_client_that_dies_in_the_middle(agent: AgentProcess, method: str) -> None:
    where = f"unix:{agent.home / 'agent.sock'}"
    subprocess.run([sys.executable, "-c", LEAVES, where, method], check=True, timeout=PATIENCE)
    time.sleep(0.2)  # what it stored by mistake would come now


@pytest.mark.usefixtures("serving")
def test_calls_that_are_cancelled(stub: Any, written: list[Character]) -> None:
    learn = stub.Learn.future(endless(written[0].correction(), 0.001))
    chunk = pb.ImportProfileRequest(chunk=bytes(1000))
    imported = stub.ImportProfile.future(endless(chunk, 0.001))
    recognize = stub.Recognize(endless(written[0].question(), 0.001))
    watch = stub.WatchStatus(pb.WatchStatusRequest())
    export = stub.ExportProfile(pb.ExportProfileRequest(passphrase=PASSPHRASE))
    assert next(recognize).label
    assert next(watch).status.alphabet
    time.sleep(0.05)
    for call in (learn, imported, recognize, watch, export):
        assert call.cancel()
    time.sleep(0.2)  # what it stored by mistake would come now


IMPATIENT = """
from fedhw_client.agent import device_service
from fedhw.cli import main
device_service.LONGEST_CALL_SECONDS = 0.3
main()
"""


def test_a_stream_that_takes_too_long(
    launch: Launch, tmp_path: Path, written: list[Character], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AgentProcess, "program", ("-c", IMPATIENT))
    chunk = pb.ImportProfileRequest(chunk=b"fedhw")
    with launch(tmp_path / "home") as agent, agent.stub() as stub:
        assert outcome(lambda: stub.Learn(endless(written[0].correction(), 0.05))) is EXHAUSTED
        assert outcome(lambda: stub.ImportProfile(endless(chunk, 0.05))) is EXHAUSTED
        assert stub.GetStatus(pb.GetStatusRequest()).status.corrections == 0


def test_health_and_reflection(channel: grpc.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    for service in ("", "fedhw.v1.Device"):
        answer = health.Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    services = ProtoReflectionDescriptorDatabase(channel).get_services()
    assert {"fedhw.v1.Device", "grpc.health.v1.Health"} <= set(services)


floats = st.floats(width=32)
strokes = st.lists(
    st.builds(pb.Stroke, x=st.lists(floats, max_size=20), y=st.lists(floats, max_size=20))
    | st.lists(st.tuples(floats, floats), max_size=20).map(
        lambda points: pb.Stroke(x=[x for x, _ in points], y=[y for _, y in points])
    ),
    max_size=4,
)
good_glyphs = st.binary(min_size=784, max_size=784).map(lambda image: pb.Glyph(image=image))
glyphs = st.one_of(
    st.none(),
    good_glyphs,
    st.binary(max_size=1000).map(lambda image: pb.Glyph(image=image)),
    strokes.map(lambda s: pb.Glyph(strokes=pb.Strokes(strokes=s))),
)
questions = st.builds(pb.RecognizeRequest, glyph=glyphs, top_k=st.integers(0, 2**32 - 1))
labels = st.sampled_from("07Az") | st.text(max_size=3)
good_corrections = st.builds(
    pb.LearnRequest, glyph=good_glyphs, label=st.sampled_from("07Az"), id=st.text(max_size=64)
)
corrections = good_corrections | st.builds(
    pb.LearnRequest, glyph=glyphs, label=labels, id=st.text(max_size=80)
)


def unless_refused(ask: Callable[[], Any]) -> Any:
    """The answer, or None where it is a refusal in one sentence."""
    try:
        return ask()
    except grpc.RpcError as error:
        refusal = error
    assert refusal.code() in (INVALID, EXHAUSTED)
    assert is_one_sentence(refusal.details()), refusal.details()
    return None


def check_answer(answer: pb.RecognizeResponse, top_k: int, alphabet: str) -> None:
    probabilities = [candidate.probability for candidate in answer.candidates]
    assert len(probabilities) == min(top_k or 5, len(alphabet))
    assert probabilities == sorted(probabilities, reverse=True)
    assert all(0 <= probability <= 1 for probability in probabilities)
    assert answer.candidates[0].label == answer.label
    assert answer.label in alphabet
    assert 0 <= answer.gate <= 1


@settings(max_examples=100)
@given(asked=st.lists(questions, min_size=1, max_size=3))
def test_any_question(
    stub: Any, agent: AgentProcess, most_mib: float, asked: list[pb.RecognizeRequest]
) -> None:
    alphabet = stub.GetStatus(pb.GetStatusRequest()).status.alphabet
    answers = []
    stream = stub.Recognize(iter(asked))
    unless_refused(lambda: answers.extend(stream))
    if stream.code() is grpc.StatusCode.OK:
        assert len(answers) == len(asked)
    for question, answer in zip(asked, answers, strict=False):
        check_answer(answer, question.top_k, alphabet)
    assert agent.resident_mib() < most_mib


@settings(max_examples=100)
@given(asked=st.lists(corrections, max_size=4) | st.lists(good_corrections, max_size=4))
def test_any_correction(
    stub: Any, agent: AgentProcess, most_mib: float, asked: list[pb.LearnRequest]
) -> None:
    stub.Forget(pb.ForgetRequest(everything=pb.Everything()))
    answer = unless_refused(lambda: stub.Learn(iter(asked)))
    kept = stub.GetStatus(pb.GetStatusRequest()).status.kept
    if answer is None:
        assert kept == 0
    else:
        assert all(a.id in ("", name) for a, name in zip(asked, answer.ids, strict=True))
        assert kept == len(set(answer.ids))
    assert agent.resident_mib() < most_mib


@pytest.mark.usefixtures("serving")
@pytest.mark.parametrize("method", ["Recognize", "Learn", "ImportProfile"])
@pytest.mark.parametrize("size", [40, 4000])
def test_any_bytes(channel: grpc.Channel, method: str, size: int) -> None:
    call = channel.stream_stream(f"/{device_service.NAME}/{method}")

    @settings(max_examples=50)
    @given(asked=st.lists(st.binary(max_size=size), min_size=1, max_size=3))
    def ask(asked: list[bytes]) -> None:
        answers = unless_refused(lambda: list(call(iter(asked))))
        if answers is not None:
            assert [pb.RecognizeResponse.FromString(a).label != "" for a in answers] == (
                [True] * len(asked)
            )

    ask()


def test_the_library(launch: Launch, tmp_path: Path, written: list[Character]) -> None:
    strokes = [np.array([[0, 0], [10, 10]]), np.array([[10, 0], [0, 10]])]
    with launch(tmp_path / "old") as old, connect(old.home) as device:
        statuses = device.watch()
        assert next(statuses).kept == 0
        answer = device.recognize(written[0].glyph, top_k=3)
        assert len(answer.candidates) == 3
        assert device.recognize(written[0].glyph / 255.0).label == answer.label
        assert not answer.HasField("local_expert")
        first = device.learn(*written[0])
        between = datetime.now(UTC)
        second = device.learn(strokes, "x")
        assert next(status for status in statuses if status.kept == 2).corrections == 2
        names = device.learn_many(written[1:40])
        assert len({first, second, *names}) == 41
        undone = device.undo()
        assert (undone.id, undone.label) == (names[-1], written[39].label)
        assert device.forget(id=second) == 1
        assert device.forget(id=second) == 0
        label = written[1].label
        of_label = [character.label for character in written[1:39]].count(label)
        assert device.forget(label=label) == of_label + (written[0].label == label)
        assert device.forget(end=between, start=between - timedelta(1)) == (
            written[0].label != label
        )
        left = [c for c in written[1:39] if c.label != label]
        status = device.status()
        assert (status.kept, status.corrections, status.learning) == (len(left), 41, False)
        assert status.personal_version > 0
        assert device.recognize(left[0].glyph).HasField("local_expert")
        profile = device.export_profile(PASSPHRASE)
        assert not any(c.glyph.tobytes() in profile for c in left)
        with launch(tmp_path / "new") as new, connect(new.home) as other:
            other.learn(*written[0])
            assert other.import_profile(profile, PASSPHRASE) == len(left)
            assert other.import_profile(profile, PASSPHRASE) == 0
            assert other.status().kept == len(left) + 1
            until(lambda: other.status().personal_version > 0)
            with pytest.raises(InputError, match="passphrase"):
                other.import_profile(profile, "battery staple")
            new.kill()
        with closing(Store(tmp_path / "new" / "device.db")) as store:
            stored = [(row.observation, row.label) for row in store.rows()]
        assert stored == [(c.glyph.tobytes(), c.label) for c in (written[0], *left)]
        assert device.forget(everything=True) == len(left)
        assert device.status().kept == 0
        assert not device.recognize(left[0].glyph).HasField("local_expert")
        assert device.undo().id == ""
        old.stop()
        with pytest.raises(AgentMissingError):
            device.status()
        with pytest.raises(AgentMissingError):
            device.recognize(written[0].glyph)


def test_the_library_for_asyncio(launch: Launch, tmp_path: Path, written: list[Character]) -> None:
    async def use(old: Path, new: Path) -> None:
        async with connect_async(old) as device, connect_async(new) as other:
            statuses = device.watch()
            assert (await anext(statuses)).kept == 0
            assert len((await device.recognize(written[0].glyph, top_k=3)).candidates) == 3
            first = await device.learn(*written[0])
            while (await anext(statuses)).kept == 0:
                pass
            await statuses.aclose()
            names = await device.learn_many(written[1:40])
            assert (await device.undo()).id == names[-1]
            assert await device.forget(id=first) == 1
            label = written[1].label
            of_label = [character.label for character in written[1:39]].count(label)
            assert await device.forget(label=label) == of_label
            assert await device.forget(end=datetime(2020, 1, 1, tzinfo=UTC)) == 0
            asked = [device.recognize(character.glyph) for character in written[:20]]
            in_turn = [(await device.recognize(c.glyph)).label for c in written[:20]]
            assert [answer.label for answer in await asyncio.gather(*asked)] == in_turn
            profile = await device.export_profile(PASSPHRASE)
            assert await other.import_profile(profile, PASSPHRASE) == 38 - of_label
            assert (await other.status()).kept == 38 - of_label
            with pytest.raises(InputError, match="label"):
                await device.learn(written[0].glyph, "字")
            assert await device.forget(everything=True) == 38 - of_label

    with launch(tmp_path / "old") as old, launch(tmp_path / "new") as new:
        asyncio.run(use(old.home, new.home))


def test_a_client_outlives_its_agent(
    launch: Launch, tmp_path: Path, written: list[Character]
) -> None:
    home = tmp_path / "home"
    with launch(home) as agent, connect(home) as device:
        device.learn(*written[0])
        device.recognize(written[0].glyph)
        agent.kill()
        with launch(home):
            answers: list[str] = []

            def answered() -> bool:
                with suppress(AgentMissingError):
                    answers.append(device.recognize(written[0].glyph).label)
                return bool(answers)

            until(answered, seconds=5)
            assert device.status().kept == 1


def test_a_client_looks_for_its_agent_every_second(tmp_path: Path) -> None:
    tried: list[float] = []
    with socket.socket(socket.AF_UNIX) as listener, connect(tmp_path) as device:
        listener.bind(str(tmp_path / "agent.sock"))
        listener.listen()

        def hang_up() -> None:
            with suppress(OSError):
                while True:
                    listener.accept()[0].close()
                    tried.append(time.monotonic())

        threading.Thread(target=hang_up, daemon=True).start()
        end = time.monotonic() + 7
        while time.monotonic() < end:
            with pytest.raises(AgentMissingError):
                device.status()
            time.sleep(0.05)
        listener.shutdown(socket.SHUT_RDWR)
    assert max(np.diff([*tried, end])) < 1.5
