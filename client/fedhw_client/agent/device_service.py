"""The agent's gRPC service, as `protos/fedhw/v1/device.proto` defines it."""

import asyncio
import math
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, NoReturn, TypeAlias

import grpc
import numpy as np
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from numpy.typing import NDArray

from fedhw.data.encoders import check_points
from fedhw.errors import InputError
from fedhw.malformed_requests import MALFORMED, MalformedRefused
from fedhw.observation import Observations
from fedhw.personalization.prequential import Prequential
from fedhw.personalization.recogniser import Recognition
from fedhw.system.clock import Clock, SystemClock
from fedhw.system.sqlite import StoreError, StoreFullError
from fedhw.v1 import device_pb2 as pb
from fedhw.v1 import device_pb2_grpc as pb_grpc
from fedhw_client.agent.agent import MAX_CORRECTIONS, Agent, Status
from fedhw_client.agent.async_encode import encode
from fedhw_client.agent.correction import Correction
from fedhw_client.agent.status_stream import watch
from fedhw_client.store.corrections import Selection
from fedhw_client.store.profile import most_bytes

NAME = pb.DESCRIPTOR.services_by_name["Device"].full_name

LARGEST_MESSAGE_BYTES = 256 * 1024
"""Most bytes of a request; 10,000 points take 80 kB."""

MAX_CONCURRENT_CALLS = 128
"""Calls that are served at once."""

LONGEST_CALL_SECONDS = 60.0
"""Most seconds that a call may take to send its corrections or its profile."""

LIKELIEST = 5
CHUNK_BYTES = 64 * 1024

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class TooMuchError(InputError):
    """Input beyond a limit."""


async def device_server(
    agent: Agent,
    observe: Callable[[float], object],
    token: str | None = None,
    clock: Clock = SystemClock(),
) -> grpc.aio.Server:
    """Return a server of the agent with health and reflection, not bound to an address yet.

    `observe` is called with the seconds that each recognition took. With a `token`, callers must
    send it as `authorization: Bearer TOKEN`.
    """
    server = grpc.aio.server(
        interceptors=[*([] if token is None else [_TokenRequired(token)]), MalformedRefused()],
        options=[
            ("grpc.max_receive_message_length", LARGEST_MESSAGE_BYTES),
            ("grpc.so_reuseport", 0),
        ],
        maximum_concurrent_rpcs=MAX_CONCURRENT_CALLS,
    )
    service = DeviceService(agent, observe, clock)
    pb_grpc.add_DeviceServicer_to_server(service, server)  # type: ignore[no-untyped-call]
    healthy = health.aio.HealthServicer()
    await healthy.set(NAME, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    names = (NAME, health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
    return server


class DeviceService(pb_grpc.DeviceServicer):
    """Translates messages into calls of the agent, and its errors into status codes."""

    def __init__(self, agent: Agent, observe: Callable[[float], object], clock: Clock) -> None:
        self._agent = agent
        self._clock = clock
        self._observe = observe
        # Sealing and opening take 100 MB for a moment, so one at a time.
        self._profile = asyncio.Lock()

    async def Recognize(  # noqa: N802
        self, requests: AsyncIterator[pb.RecognizeRequest], context: Context
    ) -> AsyncIterator[pb.RecognizeResponse]:
        """Recognise one observation after the other."""
        async with _explained(context):
            async for request in requests:
                began = self._clock.monotonic()
                observation = await self._observation(request.glyph)
                # Recognised in this thread: handing it to another one would take longer.
                recognition = self._agent.recognize(observation)
                response = _response(recognition, self._agent, request.top_k or LIKELIEST)
                self._observe(self._clock.monotonic() - began)
                yield response

    async def Learn(  # noqa: N802
        self, requests: AsyncIterator[pb.LearnRequest], context: Context
    ) -> pb.LearnResponse:
        """Store all corrections of the stream, or none."""
        async with _explained(context):
            corrections: list[Correction] = []
            async with _deadline():
                async for request in requests:
                    if len(corrections) == MAX_CORRECTIONS:
                        raise TooMuchError(
                            f"corrections: over {MAX_CORRECTIONS} in one call; send them in parts"
                        )
                    observation = await self._observation(request.glyph)
                    corrections.append(Correction(observation, request.label, request.id))
            # A stream that was cut off ends like a complete one; only sending fails on it.
            await context.send_initial_metadata(())
            return pb.LearnResponse(ids=await asyncio.to_thread(self._agent.learn, corrections))

    async def Undo(  # noqa: N802
        self, request: pb.UndoRequest, context: Context
    ) -> pb.UndoResponse:
        """Remove the newest correction."""
        async with _explained(context):
            undone = await asyncio.to_thread(self._agent.undo)
            if undone is None:
                return pb.UndoResponse()
            return pb.UndoResponse(id=undone.id, label=undone.label)

    async def Forget(  # noqa: N802
        self, request: pb.ForgetRequest, context: Context
    ) -> pb.ForgetResponse:
        """Erase corrections and what was learned from them."""
        async with _explained(context):
            selection = _selection(request)
            return pb.ForgetResponse(
                forgotten=await asyncio.to_thread(self._agent.forget, selection)
            )

    async def Describe(  # noqa: N802
        self, request: pb.DescribeRequest, context: Context
    ) -> pb.DescribeResponse:
        """Return the observations that the release takes and the labels that it knows."""
        release = self._agent.release
        takes = release.observation
        return pb.DescribeResponse(
            release=release.manifest.name,
            architecture=release.manifest.architecture,
            observation=pb.ObservationType(shape=takes.shape, dtype=takes.dtype),
            labels=release.labels,
        )

    async def GetStatus(  # noqa: N802
        self, request: pb.GetStatusRequest, context: Context
    ) -> pb.GetStatusResponse:
        """Return the present status."""
        return pb.GetStatusResponse(status=_status(self._agent.status()))

    async def WatchStatus(  # noqa: N802
        self, request: pb.WatchStatusRequest, context: Context
    ) -> AsyncIterator[pb.WatchStatusResponse]:
        """Send the present status, and then one after each change."""
        async with aclosing(watch(self._agent)) as statuses:
            async for status in statuses:
                yield pb.WatchStatusResponse(status=_status(status))

    async def ExportProfile(  # noqa: N802
        self, request: pb.ExportProfileRequest, context: Context
    ) -> AsyncIterator[pb.ExportProfileResponse]:
        """Send the encrypted profile in chunks."""
        async with _explained(context):
            async with self._profile:
                profile = await asyncio.to_thread(self._agent.export_profile, request.passphrase)
            for start in range(0, len(profile), CHUNK_BYTES):
                yield pb.ExportProfileResponse(chunk=profile[start : start + CHUNK_BYTES])

    async def ImportProfile(  # noqa: N802
        self, requests: AsyncIterator[pb.ImportProfileRequest], context: Context
    ) -> pb.ImportProfileResponse:
        """Add the corrections of an encrypted profile."""
        async with _explained(context):
            passphrase, profile = "", bytearray()
            release = self._agent.release
            most = most_bytes(release.observation, release.labels)
            async with _deadline():
                async for request in requests:
                    if request.WhichOneof("part") == "passphrase":
                        passphrase = request.passphrase
                    profile += request.chunk
                    if len(profile) > most:
                        raise TooMuchError(
                            f"chunk: the profile is over {most} bytes; check the file"
                        )
            async with self._profile:
                added = await asyncio.to_thread(
                    self._agent.import_profile, bytes(profile), passphrase
                )
            return pb.ImportProfileResponse(added=added)

    async def _observation(self, glyph: pb.Glyph) -> Observations:
        takes = self._agent.release.observation
        match glyph.WhichOneof("form"):
            case "image":
                return takes.from_bytes(glyph.image)
            case "strokes":
                return await encode(_strokes(glyph.strokes), takes)
        raise InputError("glyph: is missing; send an image or strokes")


@asynccontextmanager
async def _explained(context: Context) -> AsyncIterator[None]:
    """End a call with the code and the sentence of an error that is raised in it."""
    try:
        yield
    except DecodeError:
        await context.abort(
            grpc.StatusCode.INVALID_ARGUMENT,
            MALFORMED,
        )
    except InputError as error:
        await context.abort(_code(error), str(error))


def _code(error: InputError) -> grpc.StatusCode:
    if isinstance(error, TooMuchError | StoreFullError):
        return grpc.StatusCode.RESOURCE_EXHAUSTED
    if isinstance(error, StoreError):
        return grpc.StatusCode.FAILED_PRECONDITION
    return grpc.StatusCode.INVALID_ARGUMENT


@asynccontextmanager
async def _deadline() -> AsyncIterator[None]:
    """Limit how long a call may take to send its stream."""
    try:
        async with asyncio.timeout(LONGEST_CALL_SECONDS):
            yield
    except TimeoutError:
        raise TooMuchError(
            f"stream: it was open for over {LONGEST_CALL_SECONDS:.0f} seconds; send the next part "
            "in another call"
        ) from None


class _TokenRequired(grpc.aio.ServerInterceptor):
    """Refuses callers that do not send the token."""

    def __init__(self, token: str) -> None:
        self._expected = f"Bearer {token}".encode()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], "Awaitable[Handler | None]"],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        given = dict(handler_call_details.invocation_metadata or ()).get("authorization", "")
        known = given.encode() if isinstance(given, str) else given
        if secrets.compare_digest(known, self._expected):
            return await continuation(handler_call_details)
        return grpc.stream_stream_rpc_method_handler(_deny)


async def _deny(requests: object, context: Context) -> NoReturn:
    await context.abort(
        grpc.StatusCode.UNAUTHENTICATED,
        "authorization: the token is missing or wrong; send that in the agent's home",
    )


def _strokes(message: pb.Strokes) -> list[NDArray[np.float32]]:
    check_points(len(stroke.x) for stroke in message.strokes)
    for number, stroke in enumerate(message.strokes):
        if len(stroke.x) != len(stroke.y):
            raise InputError(
                f"strokes[{number}]: {len(stroke.x)} x and {len(stroke.y)} y do not pair; send "
                "as many of both"
            )
    return [np.array([stroke.x, stroke.y], np.float32).T for stroke in message.strokes]


def _selection(request: pb.ForgetRequest) -> Selection:
    match request.WhichOneof("what"):
        case "id":
            return Selection(id=request.id)
        case "label":
            return Selection(label=request.label)
        case "period":
            period = request.period
            if not period.HasField("start") and not period.HasField("end"):
                raise InputError("period: has neither start nor end; give one, or ask everything")
            return Selection(
                start=_seconds(period.start) if period.HasField("start") else None,
                end=_seconds(period.end) if period.HasField("end") else None,
            )
        case "everything":
            return Selection()
        case _:
            raise InputError("what: is missing; name an id, a label, a period or everything")


def _seconds(time: Timestamp) -> float:
    return time.seconds + time.nanos / 1e9


def _response(recognition: Recognition, agent: Agent, top_k: int) -> pb.RecognizeResponse:
    likeliest = recognition.likeliest(agent.release.labels, top_k)
    local = None
    if recognition.le_label is not None and recognition.le_probability is not None:
        local = pb.Candidate(label=recognition.le_label, probability=recognition.le_probability)
    return pb.RecognizeResponse(
        label=recognition.label,
        confidence=recognition.probability,
        candidates=[pb.Candidate(label=label, probability=p) for label, p in likeliest],
        decided_by=_DECIDERS[recognition.decided_by],
        gate=recognition.opening,
        global_expert=pb.Candidate(
            label=recognition.ge_label, probability=recognition.ge_probability
        ),
        local_expert=local,
        release=recognition.release,
        personal_version=recognition.personal_version,
    )


_DECIDERS = {"global": pb.DECIDER_GLOBAL_EXPERT, "local": pb.DECIDER_LOCAL_EXPERT}


def _status(status: Status) -> pb.Status:
    return pb.Status(
        release=status.release,
        architecture=status.architecture,
        alphabet="".join(status.labels) if status.labels.are_characters else "",
        personal_version=status.personal_version,
        kept=status.kept,
        corrections=status.corrections,
        recognitions=status.recognitions,
        global_expert=_accuracy(status.ge_accuracy),
        mixture=_accuracy(status.accuracy),
        learning=status.learning,
        store_bytes=status.store_bytes,
        notices=status.notices,
    )


def _accuracy(accuracy: Prequential) -> pb.Accuracy:
    known = {"total": accuracy.total, "recent": accuracy.recent}
    return pb.Accuracy(**{name: share for name, share in known.items() if not math.isnan(share)})
