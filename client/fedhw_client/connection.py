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
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypedDict, TypeVar

import grpc
import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp
from numpy.typing import NDArray

from fedhw.errors import InputError
from fedhw.v1 import device_pb2 as pb
from fedhw.v1 import device_pb2_grpc as pb_grpc
from fedhw_client.store.device_home import Home

Writing = NDArray[Any] | Sequence[NDArray[Any]]
"""A glyph [28, 28], uint8 with ink 255 or float with ink 1 on paper 0, or strokes, each [P, 2]."""

CHUNK = 64 * 1024

RESTART = 0.5
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
    return Device(grpc.insecure_channel(target, _OPTIONS), options)


def connect_async(home: Path | None = None, port: int | None = None) -> "AsyncDevice":
    """Return what `connect` does, for asyncio; call it in a running loop."""
    target, options = _target(home, port)
    return AsyncDevice(grpc.aio.insecure_channel(target, _OPTIONS), options)


class Device:
    """An agent; threads may share it."""

    def __init__(self, channel: grpc.Channel, options: "_Call") -> None:
        self._channel = channel
        self._options = options
        self._stub = pb_grpc.DeviceStub(channel)  # type: ignore[no-untyped-call]
        self._recognizing = threading.Lock()
        self._stream: _Stream | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        if self._stream is not None:
            self._stream.hang_up()
        self._channel.close()

    def recognize(self, writing: Writing, top_k: int = 0) -> pb.RecognizeResponse:
        """Recognise one character; 5 candidates unless told otherwise."""
        request = pb.RecognizeRequest(glyph=_glyph(writing), top_k=top_k)
        with _translated(), self._recognizing:
            return self._again_if_missing(lambda: self._ask(request))

    def learn(self, writing: Writing, label: str) -> str:
        """Correct one character; it is on disk when this returns the correction's name."""
        return self.learn_many([(writing, label)])[0]

    def learn_many(self, corrections: Iterable[tuple[Writing, str]]) -> list[str]:
        """Correct up to 1,000 characters, all or none; returns the corrections' names."""
        with _translated():
            requests = [_correction(*correction) for correction in corrections]
            # Named once, so that what is sent twice is stored once.
            return self._again_if_missing(
                lambda: list(self._stub.Learn(iter(requests), **self._options).ids)
            )

    def undo(self) -> pb.UndoResponse:
        """Take back the newest correction."""
        with _translated():
            undone: pb.UndoResponse = self._stub.Undo(pb.UndoRequest(), **self._options)
            return undone

    def forget(
        self,
        *,
        id: str | None = None,
        label: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        everything: bool = False,
    ) -> int:
        """Erase one correction, a character, a period or everything; returns how many it were."""
        with _translated():
            request = _forgetting(id, label, start, end, everything)
            return int(self._stub.Forget(request, **self._options).forgotten)

    def status(self) -> pb.Status:
        """Return how things are."""
        with _translated():
            status: pb.Status = self._stub.GetStatus(pb.GetStatusRequest(), **self._options).status
            return status

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
        with _translated():
            parts = _parts(profile, passphrase)
            return int(self._stub.ImportProfile(parts, **self._options).added)

    def _again_if_missing(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except grpc.RpcError as error:
            if not _is_missing(error):
                raise
            with suppress(grpc.FutureTimeoutError):
                grpc.channel_ready_future(self._channel).result(RESTART)
            return call()

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

    def __init__(self, channel: grpc.aio.Channel, options: "_Call") -> None:
        self._channel = channel
        self._options = options
        self._stub = pb_grpc.DeviceStub(channel)  # type: ignore[no-untyped-call]
        self._recognizing = asyncio.Lock()
        self._stream: Any = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Hang up."""
        await self._channel.close()

    async def recognize(self, writing: Writing, top_k: int = 0) -> pb.RecognizeResponse:
        """Recognise one character; 5 candidates unless told otherwise."""
        request = pb.RecognizeRequest(glyph=_glyph(writing), top_k=top_k)
        with _translated():
            async with self._recognizing:
                try:
                    return await self._ask(request)
                except AgentMissingError:
                    await self._restarted()
                    return await self._ask(request)

    async def learn(self, writing: Writing, label: str) -> str:
        """Correct one character; it is on disk when this returns the correction's name."""
        return (await self.learn_many([(writing, label)]))[0]

    async def learn_many(self, corrections: Iterable[tuple[Writing, str]]) -> list[str]:
        """Correct up to 1,000 characters, all or none; returns the corrections' names."""
        with _translated():
            requests = [_correction(*correction) for correction in corrections]
            try:
                response = await self._stub.Learn(_each(requests), **self._options)
            except grpc.RpcError as error:
                if not _is_missing(error):
                    raise
                await self._restarted()
                response = await self._stub.Learn(_each(requests), **self._options)
            return list(response.ids)

    async def undo(self) -> pb.UndoResponse:
        """Take back the newest correction."""
        with _translated():
            undone: pb.UndoResponse = await self._stub.Undo(pb.UndoRequest(), **self._options)
            return undone

    async def forget(
        self,
        *,
        id: str | None = None,
        label: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        everything: bool = False,
    ) -> int:
        """Erase one correction, a character, a period or everything; returns how many it were."""
        with _translated():
            request = _forgetting(id, label, start, end, everything)
            return int((await self._stub.Forget(request, **self._options)).forgotten)

    async def status(self) -> pb.Status:
        """Return how things are."""
        with _translated():
            response = await self._stub.GetStatus(pb.GetStatusRequest(), **self._options)
            status: pb.Status = response.status
            return status

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
        with _translated():
            parts = _each(_parts(profile, passphrase))
            return int((await self._stub.ImportProfile(parts, **self._options)).added)

    async def _restarted(self) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._channel.channel_ready(), RESTART)

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


class _Call(TypedDict):
    metadata: tuple[tuple[str, str], ...]


_OPTIONS = (
    ("grpc.enable_http_proxy", 0),  # this device alone is asked
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 300),
)


def _target(home: Path | None, port: int | None) -> tuple[str, _Call]:
    place = Home.default() if home is None else Home(home)
    if port is None:
        return place.address, _Call(metadata=())
    try:
        token = place.token.read_text(encoding="ascii")
    except OSError as error:
        raise InputError(
            f"home: {place.token} cannot be read ({error.strerror}); give the home of the agent "
            "that listens on the port"
        ) from None
    return f"127.0.0.1:{port}", _Call(metadata=(("authorization", f"Bearer {token}"),))


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


def _is_missing(error: grpc.RpcError) -> bool:
    return _code(error) in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


def _glyph(writing: Writing) -> pb.Glyph:
    if isinstance(writing, np.ndarray):
        return pb.Glyph(image=_image(writing).tobytes())
    strokes = [np.asarray(stroke) for stroke in writing]
    for number, stroke in enumerate(strokes):
        if stroke.ndim != 2 or stroke.shape[1] != 2:
            raise InputError(
                f"strokes[{number}]: shape {stroke.shape} is not [P, 2]; give one (x, y) a point"
            )
    return pb.Glyph(strokes=pb.Strokes(strokes=[pb.Stroke(x=s[:, 0], y=s[:, 1]) for s in strokes]))


def _image(image: NDArray[Any]) -> NDArray[Any]:
    if image.shape != (28, 28):
        raise InputError(f"image: shape {image.shape} is not [28, 28]; resize it")
    if image.dtype == np.uint8:
        return image
    if not np.issubdtype(image.dtype, np.floating):
        raise InputError(f"image: dtype {image.dtype} is neither uint8 nor float; cast it")
    if not np.all((image >= 0) & (image <= 1)):  # NaN fails, too
        raise InputError("image: a float is not within 0..1; scale paper to 0 and ink to 1")
    scaled: NDArray[np.uint8] = np.rint(image * 255).astype(np.uint8)
    return scaled


def _correction(writing: Writing, label: str) -> pb.LearnRequest:
    return pb.LearnRequest(glyph=_glyph(writing), label=label, id=uuid.uuid4().hex)


def _forgetting(
    id: str | None,
    label: str | None,
    start: datetime | None,
    end: datetime | None,
    everything: bool,
) -> pb.ForgetRequest:
    period = start is not None or end is not None
    if [id is not None, label is not None, period, everything].count(True) != 1:
        raise InputError("forget: name one of id, label, a period or everything")
    if id is not None:
        return pb.ForgetRequest(id=id)
    if label is not None:
        return pb.ForgetRequest(label=label)
    if everything:
        return pb.ForgetRequest(everything=pb.Everything())
    return pb.ForgetRequest(period=pb.Period(start=_timestamp(start), end=_timestamp(end)))


def _timestamp(time: datetime | None) -> Timestamp | None:
    if time is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(time.astimezone(UTC))
    return stamp


def _parts(profile: bytes, passphrase: str) -> Iterator[pb.ImportProfileRequest]:
    yield pb.ImportProfileRequest(passphrase=passphrase)
    for start in range(0, len(profile), CHUNK):
        yield pb.ImportProfileRequest(chunk=profile[start : start + CHUNK])


async def _each(items: Iterable[T]) -> AsyncIterator[T]:
    for item in items:
        yield item
