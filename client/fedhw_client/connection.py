"""The agent, for the apps of its device: three lines to recognise and to correct.

    from fedhw_client import connect
    device = connect()
    device.recognize(image)
    device.learn(image, "7")

Answers are the messages of `protos/fedhw/v1/device.proto`.
"""

import asyncio
import queue
import threading
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic, NamedTuple, Self, TypedDict, TypeVar

import grpc
import numpy as np
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from numpy.typing import NDArray

from fedhw.errors import InputError
from fedhw.observation import ObservationType
from fedhw.v1 import device_pb2 as pb
from fedhw.v1 import device_pb2_grpc as pb_grpc
from fedhw_client.store.device_home import Home

Writing = NDArray[Any] | Sequence[NDArray[Any]]
"""An observation as the release takes it, or, of handwriting, strokes, each [P, 2].

Where the release takes whole numbers, as of pixels, floats of 0 to 1 are scaled to them.
"""

CHUNK_BYTES = 64 * 1024

RESTART_SECONDS = 0.5
"""Seconds to wait for an agent that was there and may have been restarted."""

T = TypeVar("T")


class AgentMissingError(ConnectionError):
    """No agent answers; the message says where and what to do."""


def connect(home: Path | None = None, port: int | None = None) -> "Device":
    """Return the agent in `home`, by default this user's, on its unix socket.

    With `port`, on loopback. Calls raise InputError for input that the agent refuses, and
    AgentMissingError when no agent answers.
    """
    target, options = _target(home, port)
    return Device(grpc.insecure_channel(target, _CHANNEL_OPTIONS), options)


def connect_async(home: Path | None = None, port: int | None = None) -> "AsyncDevice":
    """Return what `connect` does, for asyncio; call it in a running loop."""
    target, options = _target(home, port)
    return AsyncDevice(grpc.aio.insecure_channel(target, _CHANNEL_OPTIONS), options)


class Device:
    """An agent; threads may share it."""

    def __init__(self, channel: grpc.Channel, options: "_Options") -> None:
        self._channel = channel
        self._options = options
        self._stub = pb_grpc.DeviceStub(channel)  # type: ignore[no-untyped-call]
        self._recognizing = threading.Lock()
        self._stream: _Stream | None = None
        self._takes: ObservationType | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        if self._stream is not None:
            self._stream.hang_up()
        self._channel.close()

    def recognize(self, writing: Writing, top_k: int = 0) -> pb.RecognizeResponse:
        """Recognise one observation; 5 candidates unless told otherwise."""
        with _translated():
            request = pb.RecognizeRequest(glyph=self._glyph(writing), top_k=top_k)
            with self._recognizing:
                return self._again_if_missing(lambda: self._ask(request))

    def learn(self, writing: Writing, label: str) -> str:
        """Correct one observation; it is on disk when this returns the correction's name."""
        return self.learn_many([(writing, label)])[0]

    def learn_many(self, corrections: Iterable[tuple[Writing, str]]) -> list[str]:
        """Correct up to 1,000 observations, all or none; returns the corrections' names."""
        return self._call(_learn([(self._glyph(writing), label) for writing, label in corrections]))

    def undo(self) -> pb.UndoResponse:
        """Take back the newest correction."""
        return self._call(_UNDO)

    def forget(
        self,
        *,
        id: str | None = None,
        label: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        everything: bool = False,
    ) -> int:
        """Erase one correction, a label, a period or everything; returns how many are gone."""
        return self._call(_forget(id, label, start, end, everything))

    def describe(self) -> pb.DescribeResponse:
        """Return what the release in use takes and what it answers with."""
        return self._call(_DESCRIBE)

    def status(self) -> pb.Status:
        """Return how things are."""
        return self._call(_STATUS)

    def watch(self) -> Iterator[pb.Status]:
        """Yield how things are, now and whenever they have changed."""
        with _translated():
            for response in self._stub.WatchStatus(pb.WatchStatusRequest(), **self._options):
                yield response.status

    def export_profile(self, passphrase: str) -> bytes:
        """Return everything personal, encrypted."""
        with _translated():
            request = pb.ExportProfileRequest(passphrase=passphrase)
            chunks = self._stub.ExportProfile(request, **self._options)
            return b"".join(response.chunk for response in chunks)

    def import_profile(self, profile: bytes, passphrase: str) -> int:
        """Add the corrections of a profile; returns how many were new."""
        return self._call(_import_profile(profile, passphrase))

    def _call(self, call: "_Call[T]") -> T:
        def ask() -> Any:
            return getattr(self._stub, call.method)(call.sent(), **self._options)

        with _translated():
            return call.answer(self._again_if_missing(ask) if call.is_repeatable else ask())

    def _glyph(self, writing: Writing) -> pb.Glyph:
        if not isinstance(writing, np.ndarray):
            return _drawn(writing)
        if self._takes is None:
            self._takes = observation_type(self.describe())
        return _observed(writing, self._takes)

    def _again_if_missing(self, ask: Callable[[], T]) -> T:
        try:
            return ask()
        except (grpc.RpcError, AgentMissingError) as error:
            if not _is_missing(error):
                raise
            with suppress(grpc.FutureTimeoutError):
                grpc.channel_ready_future(self._channel).result(RESTART_SECONDS)
            return ask()

    def _ask(self, request: pb.RecognizeRequest) -> pb.RecognizeResponse:
        # One stream for all glyphs: opening a call takes longer than recognising. While an answer
        # is awaited it is nobody's: a stream that was left before its answer is out of step.
        stream, self._stream = self._stream or self._open(), None
        try:
            stream.requests.put(request)
            response: pb.RecognizeResponse = next(stream.responses)
        except BaseException as error:
            stream.hang_up()
            if isinstance(error, StopIteration):
                raise AgentMissingError(_MISSING) from None
            raise
        self._stream = stream
        return response

    def _open(self) -> "_Stream":
        requests: queue.SimpleQueue[pb.RecognizeRequest | None] = queue.SimpleQueue()
        responses = self._stub.Recognize(iter(requests.get, None), **self._options)
        return _Stream(requests, responses)


class AsyncDevice:
    """An agent, for asyncio; the methods are those of Device."""

    def __init__(self, channel: grpc.aio.Channel, options: "_Options") -> None:
        self._channel = channel
        self._options = options
        self._stub = pb_grpc.DeviceStub(channel)  # type: ignore[no-untyped-call]
        self._recognizing = asyncio.Lock()
        self._stream: Any = None
        self._takes: ObservationType | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Hang up."""
        await self._channel.close()

    async def recognize(self, writing: Writing, top_k: int = 0) -> pb.RecognizeResponse:
        """Recognise one observation; 5 candidates unless told otherwise."""
        with _translated():
            request = pb.RecognizeRequest(glyph=await self._glyph(writing), top_k=top_k)
            async with self._recognizing:
                return await self._again_if_missing(lambda: self._ask(request))

    async def learn(self, writing: Writing, label: str) -> str:
        """Correct one observation; it is on disk when this returns the correction's name."""
        return (await self.learn_many([(writing, label)]))[0]

    async def learn_many(self, corrections: Iterable[tuple[Writing, str]]) -> list[str]:
        """Correct up to 1,000 observations, all or none; returns the corrections' names."""
        named = [(await self._glyph(writing), label) for writing, label in corrections]
        return await self._call(_learn(named))

    async def undo(self) -> pb.UndoResponse:
        """Take back the newest correction."""
        return await self._call(_UNDO)

    async def forget(
        self,
        *,
        id: str | None = None,
        label: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        everything: bool = False,
    ) -> int:
        """Erase one correction, a label, a period or everything; returns how many are gone."""
        return await self._call(_forget(id, label, start, end, everything))

    async def describe(self) -> pb.DescribeResponse:
        """Return what the release in use takes and what it answers with."""
        return await self._call(_DESCRIBE)

    async def status(self) -> pb.Status:
        """Return how things are."""
        return await self._call(_STATUS)

    async def watch(self) -> AsyncIterator[pb.Status]:
        """Yield how things are, now and whenever they have changed."""
        with _translated():
            async for response in self._stub.WatchStatus(pb.WatchStatusRequest(), **self._options):
                yield response.status

    async def export_profile(self, passphrase: str) -> bytes:
        """Return everything personal, encrypted."""
        with _translated():
            request = pb.ExportProfileRequest(passphrase=passphrase)
            chunks = self._stub.ExportProfile(request, **self._options)
            return b"".join([response.chunk async for response in chunks])

    async def import_profile(self, profile: bytes, passphrase: str) -> int:
        """Add the corrections of a profile; returns how many were new."""
        return await self._call(_import_profile(profile, passphrase))

    async def _call(self, call: "_Call[T]") -> T:
        async def ask() -> Any:
            return await getattr(self._stub, call.method)(call.sent(), **self._options)

        with _translated():
            return call.answer(await (self._again_if_missing(ask) if call.is_repeatable else ask()))

    async def _glyph(self, writing: Writing) -> pb.Glyph:
        if not isinstance(writing, np.ndarray):
            return _drawn(writing)
        if self._takes is None:
            self._takes = observation_type(await self.describe())
        return _observed(writing, self._takes)

    async def _again_if_missing(self, ask: Callable[[], Awaitable[T]]) -> T:
        try:
            return await ask()
        except (grpc.RpcError, AgentMissingError) as error:
            if not _is_missing(error):
                raise
            with suppress(TimeoutError):
                await asyncio.wait_for(self._channel.channel_ready(), RESTART_SECONDS)
            return await ask()

    async def _ask(self, request: pb.RecognizeRequest) -> pb.RecognizeResponse:
        stream, self._stream = self._stream, None
        if stream is None or stream.done():
            stream = self._stub.Recognize(**self._options)
        try:
            await stream.write(request)
            response = await stream.read()
        except asyncio.InvalidStateError:  # so it is said that the stream has ended meanwhile
            response = grpc.aio.EOF
        except grpc.RpcError as error:
            if _code(error) is not grpc.StatusCode.INTERNAL and not _is_missing(error):
                raise
            response = grpc.aio.EOF
        if not isinstance(response, pb.RecognizeResponse):
            raise AgentMissingError(_MISSING)
        self._stream = stream
        return response


_MISSING = "device: no agent answers; start one with `fedhw client`"


class _Stream(NamedTuple):
    requests: "queue.SimpleQueue[pb.RecognizeRequest | None]"
    responses: Any  # an iterator that is a call, too

    def hang_up(self) -> None:
        self.requests.put(None)  # ends the thread that sends
        self.responses.cancel()


class _Options(TypedDict):
    metadata: tuple[tuple[str, str], ...]


_CHANNEL_OPTIONS = (
    ("grpc.enable_http_proxy", 0),  # this device alone is asked
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 300),
    ("grpc.max_receive_message_length", 20 * 2**20),  # the most labels of the greatest length
)


def _target(home: Path | None, port: int | None) -> tuple[str, _Options]:
    place = Home.default() if home is None else Home(home)
    if port is None:
        return place.address, _Options(metadata=())
    try:
        token = place.token.read_text(encoding="ascii")
    except OSError as error:
        raise InputError(
            f"home: {place.token} cannot be read ({error.strerror}); give the home of the agent "
            "that listens on the port"
        ) from None
    return f"127.0.0.1:{port}", _Options(metadata=(("authorization", f"Bearer {token}"),))


@contextmanager
def _translated() -> Iterator[None]:
    """Turn an error of the call into the one that fits."""
    try:
        yield
    except grpc.RpcError as error:
        refused = (
            grpc.StatusCode.INVALID_ARGUMENT,
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            grpc.StatusCode.FAILED_PRECONDITION,
            grpc.StatusCode.UNAUTHENTICATED,
        )
        if _code(error) in refused:
            raise InputError(_details(error)) from None
        if _is_missing(error):
            raise AgentMissingError(_MISSING) from None
        raise


def _code(error: grpc.RpcError) -> grpc.StatusCode:
    return error.code()


def _details(error: grpc.RpcError) -> str:
    return str(error.details())


def _is_missing(error: grpc.RpcError | AgentMissingError) -> bool:
    missing = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    return isinstance(error, AgentMissingError) or _code(error) in missing


def observation_type(described: pb.DescribeResponse) -> ObservationType:
    """Return the type of an observation that an agent says it takes."""
    return ObservationType(tuple(described.observation.shape), described.observation.dtype)


def _observed(observation: NDArray[Any], takes: ObservationType) -> pb.Glyph:
    are_fractions = observation.dtype.kind == "f" and np.dtype(takes.dtype).kind == "u"
    if are_fractions and observation.shape == takes.shape:
        if not np.all((observation >= 0) & (observation <= 1)):  # NaN fails, too
            raise InputError("observation: a float is not within 0..1; scale it to 0..1")
        observation = np.rint(observation * takes.largest).astype(takes.dtype)
    return pb.Glyph(image=takes.to_bytes(observation))


def _drawn(strokes: Sequence[NDArray[Any]]) -> pb.Glyph:
    paths = [np.asarray(stroke) for stroke in strokes]
    for number, stroke in enumerate(paths):
        if stroke.ndim != 2 or stroke.shape[1] != 2:
            raise InputError(
                f"strokes[{number}]: shape {stroke.shape} is not [P, 2]; give one (x, y) a point"
            )
    return pb.Glyph(strokes=pb.Strokes(strokes=[pb.Stroke(x=s[:, 0], y=s[:, 1]) for s in paths]))


@dataclass(frozen=True)
class _Call(Generic[T]):
    """A call with one answer, for either client: its method, what is sent, what the answer says."""

    method: str
    request: Message | Sequence[Message]
    answer: Callable[[Any], T]
    is_repeatable: bool = False

    def sent(self) -> Message | Iterator[Message]:
        """What to send, each time it is sent."""
        return self.request if isinstance(self.request, Message) else iter(self.request)


_DESCRIBE: _Call[pb.DescribeResponse] = _Call(
    "Describe", pb.DescribeRequest(), lambda answer: answer, is_repeatable=True
)


def _learn(corrections: Iterable[tuple[pb.Glyph, str]]) -> _Call[list[str]]:
    # Named once, so that what is sent twice is stored once.
    requests = [
        pb.LearnRequest(glyph=glyph, label=label, id=uuid.uuid4().hex)
        for glyph, label in corrections
    ]
    return _Call("Learn", requests, lambda answer: list(answer.ids), is_repeatable=True)


def _import_profile(profile: bytes, passphrase: str) -> _Call[int]:
    requests = [pb.ImportProfileRequest(passphrase=passphrase)]
    for start in range(0, len(profile), CHUNK_BYTES):
        requests.append(pb.ImportProfileRequest(chunk=profile[start : start + CHUNK_BYTES]))
    return _Call("ImportProfile", requests, lambda answer: int(answer.added))


def _forget(
    id: str | None,
    label: str | None,
    start: datetime | None,
    end: datetime | None,
    everything: bool,
) -> _Call[int]:
    period = start is not None or end is not None
    if [id is not None, label is not None, period, everything].count(True) != 1:
        raise InputError("forget: name one of id, label, a period or everything")
    request = pb.ForgetRequest(
        id=id,
        label=label,
        everything=pb.Everything() if everything else None,
        period=pb.Period(start=_timestamp(start), end=_timestamp(end)) if period else None,
    )
    return _Call("Forget", request, lambda answer: int(answer.forgotten))


_UNDO: _Call[pb.UndoResponse] = _Call("Undo", pb.UndoRequest(), lambda answer: answer)
_STATUS: _Call[pb.Status] = _Call("GetStatus", pb.GetStatusRequest(), lambda told: told.status)


def _timestamp(time: datetime | None) -> Timestamp | None:
    if time is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(time.astimezone(UTC))
    return stamp
