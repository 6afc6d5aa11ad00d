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
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial, wraps
from pathlib import Path
from typing import Any, Concatenate, NamedTuple, ParamSpec, Self, TypeVar

import grpc
import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp
from numpy.typing import NDArray

from fedhw.errors import InputError
from fedhw.observation import ObservationType, check_is_text
from fedhw.v1 import device_pb2 as pb
from fedhw.v1 import device_pb2_grpc as pb_grpc
from fedhw_client.store.device_home import Home

Writing = NDArray[Any] | Sequence[NDArray[Any]]
"""An observation as the release takes it, or, for handwriting, strokes, each [P, 2].

Where the release takes unsigned integers, such as pixels, floats from 0 to 1 are scaled to them.
"""

CHUNK_BYTES = 64 * 1024

RESTART_SECONDS = 0.5
"""Seconds to wait for an agent that answered before and may be restarting."""

MAX_CONCURRENT_CALLS = 32
"""Calls that an `AsyncDevice` makes at once; further ones wait."""

P = ParamSpec("P")
T = TypeVar("T")


class AgentMissingError(ConnectionError):
    """No agent answers; the message says where and what to do."""


def connect(home: Path | None = None, port: int | None = None) -> "Device":
    """Return a client of the agent in `home`, by default this user's, on its unix socket.

    With `port`, the client connects over loopback TCP. Calls raise InputError for input that the
    agent refuses, and AgentMissingError when no agent answers.
    """
    target, metadata = _target(home, port)
    return Device(grpc.insecure_channel(target, _CHANNEL_OPTIONS), metadata)


def connect_async(home: Path | None = None, port: int | None = None) -> "AsyncDevice":
    """Return the client that `connect` returns, for asyncio."""
    return AsyncDevice(connect(home, port))


class Device:
    """A client of an agent; threads may share it."""

    def __init__(self, channel: grpc.Channel, metadata: "_Metadata") -> None:
        self._channel = channel
        self._metadata = metadata
        self._stub = pb_grpc.DeviceStub(channel)  # type: ignore[no-untyped-call]
        self._recognizing = threading.Lock()
        self._stream: _Stream | None = None
        self._takes: ObservationType | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        if self._stream is not None:
            self._stream.hang_up()
        self._channel.close()

    def recognize(self, writing: Writing, top_k: int = 0) -> pb.RecognizeResponse:
        """Recognise one observation; returns 5 candidates by default."""
        with _translated():
            request = pb.RecognizeRequest(glyph=self._glyph(writing), top_k=top_k)
            with self._recognizing:
                return self._again_if_missing(lambda: self._ask(request))

    def learn(self, writing: Writing, label: str) -> str:
        """Correct one observation; it is on disk when this returns the correction's name."""
        return self.learn_many([(writing, label)])[0]

    def learn_many(self, corrections: Iterable[tuple[Writing, str]]) -> list[str]:
        """Correct up to 1,000 observations, all or none; returns the corrections' names."""
        # The names are made here, so that a request that is sent twice is stored once.
        requests = [
            pb.LearnRequest(glyph=self._glyph(writing), label=_text(label), id=uuid.uuid4().hex)
            for writing, label in corrections
        ]
        with _translated():
            answer = self._again_if_missing(
                lambda: self._stub.Learn(iter(requests), metadata=self._metadata)
            )
        return list(answer.ids)

    def undo(self) -> pb.UndoResponse:
        """Take back the newest correction."""
        with _translated():
            answer: pb.UndoResponse = self._stub.Undo(pb.UndoRequest(), metadata=self._metadata)
            return answer

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
        period = start is not None or end is not None
        if [id is not None, label is not None, period, everything].count(True) != 1:
            raise InputError("forget: name one of id, label, a period or everything")
        request = pb.ForgetRequest(
            id=id,
            label=None if label is None else _text(label),
            everything=pb.Everything() if everything else None,
            period=pb.Period(start=_timestamp(start), end=_timestamp(end)) if period else None,
        )
        with _translated():
            return int(self._stub.Forget(request, metadata=self._metadata).forgotten)

    def describe(self) -> pb.DescribeResponse:
        """Return the observations that the release takes and the labels that it knows."""
        with _translated():
            answer: pb.DescribeResponse = self._again_if_missing(
                lambda: self._stub.Describe(pb.DescribeRequest(), metadata=self._metadata)
            )
            return answer

    def status(self) -> pb.Status:
        """Return the agent's status."""
        with _translated():
            answer = self._stub.GetStatus(pb.GetStatusRequest(), metadata=self._metadata)
            status: pb.Status = answer.status
            return status

    def watch(self) -> Iterator[pb.Status]:
        """Yield the agent's status, now and after each change."""
        with _translated():
            for response in self._statuses():
                yield response.status

    def export_profile(self, passphrase: str) -> bytes:
        """Return all corrections as an encrypted profile."""
        with _translated():
            request = pb.ExportProfileRequest(passphrase=passphrase)
            chunks = self._stub.ExportProfile(request, metadata=self._metadata)
            return b"".join(response.chunk for response in chunks)

    def import_profile(self, profile: bytes, passphrase: str) -> int:
        """Add the corrections of a profile; returns how many were new."""
        requests = [pb.ImportProfileRequest(passphrase=passphrase)]
        for start in range(0, len(profile), CHUNK_BYTES):
            requests.append(pb.ImportProfileRequest(chunk=profile[start : start + CHUNK_BYTES]))
        with _translated():
            return int(self._stub.ImportProfile(iter(requests), metadata=self._metadata).added)

    def _statuses(self) -> Any:
        return self._stub.WatchStatus(pb.WatchStatusRequest(), metadata=self._metadata)

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
        # All requests share one stream: opening a call takes longer than recognising. The stream is
        # given up while an answer is awaited: left before its answer, it would be out of step.
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
        responses = self._stub.Recognize(iter(requests.get, None), metadata=self._metadata)
        return _Stream(requests, responses)


def _awaited(
    method: Callable[Concatenate[Device, P], T],
) -> Callable[Concatenate["AsyncDevice", P], Coroutine[Any, Any, T]]:
    """Return a method of Device as one of AsyncDevice."""

    @wraps(method)
    async def call(self: "AsyncDevice", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._in_thread(partial(method, self._device, *args, **kwargs))

    return call


class AsyncDevice:
    """A Device whose methods are awaited; each call waits in a thread.

    Cancelling a call stops waiting for it; the agent may still do what it was asked.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._threads = ThreadPoolExecutor(MAX_CONCURRENT_CALLS, "device")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection, which ends the calls in flight."""
        self._device.close()
        self._threads.shutdown(wait=False)

    recognize = _awaited(Device.recognize)
    learn = _awaited(Device.learn)
    learn_many = _awaited(Device.learn_many)
    undo = _awaited(Device.undo)
    forget = _awaited(Device.forget)
    describe = _awaited(Device.describe)
    status = _awaited(Device.status)
    export_profile = _awaited(Device.export_profile)
    import_profile = _awaited(Device.import_profile)

    async def watch(self) -> AsyncIterator[pb.Status]:
        """Yield the agent's status, now and after each change."""
        statuses = self._device._statuses()
        try:
            while (status := await self._in_thread(partial(_next, statuses))) is not None:
                yield status
        finally:
            statuses.cancel()

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)


_MISSING = "device: no agent answers; start one with `fedhw client`"


class _Stream(NamedTuple):
    requests: "queue.SimpleQueue[pb.RecognizeRequest | None]"
    responses: Any  # an iterator that is a call, too

    def hang_up(self) -> None:
        self.requests.put(None)  # ends the thread that sends
        self.responses.cancel()


_Metadata = tuple[tuple[str, str], ...]

_CHANNEL_OPTIONS = (
    ("grpc.enable_http_proxy", 0),  # this device alone is asked
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 300),
    ("grpc.max_receive_message_length", 20 * 2**20),  # the most labels of the greatest length
)


def _target(home: Path | None, port: int | None) -> tuple[str, _Metadata]:
    place = Home.default() if home is None else Home(home)
    if port is None:
        return place.address, ()
    try:
        token = place.token.read_text(encoding="ascii")
    except OSError as error:
        raise InputError(
            f"home: {place.token} cannot be read ({error.strerror}); give the home of the agent "
            "that listens on the port"
        ) from None
    return f"127.0.0.1:{port}", (("authorization", f"Bearer {token}"),)


def _next(statuses: Any) -> pb.Status | None:
    """Wait for the next status of a stream; returns None where the stream has ended."""
    with _translated():
        response = next(statuses, None)
    return None if response is None else response.status


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
        if error.code() in refused:
            raise InputError(str(error.details())) from None
        if _is_missing(error):
            raise AgentMissingError(_MISSING) from None
        raise


def _is_missing(error: grpc.RpcError | AgentMissingError) -> bool:
    missing = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    return isinstance(error, AgentMissingError) or error.code() in missing


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


def _text(label: str) -> str:
    check_is_text("label", label)
    return label


def _drawn(strokes: Sequence[NDArray[Any]]) -> pb.Glyph:
    try:
        paths = [np.asarray(stroke, np.float64) for stroke in strokes]
    except (TypeError, ValueError):
        raise InputError("strokes: they are not numbers [P, 2] each; give (x, y) a point") from None
    for number, stroke in enumerate(paths):
        if stroke.ndim != 2 or stroke.shape[1] != 2:
            raise InputError(
                f"strokes[{number}]: shape {stroke.shape} is not [P, 2]; give one (x, y) a point"
            )
    return pb.Glyph(strokes=pb.Strokes(strokes=[pb.Stroke(x=s[:, 0], y=s[:, 1]) for s in paths]))


def _timestamp(time: datetime | None) -> Timestamp | None:
    if time is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(time.astimezone(UTC))
    return stamp
