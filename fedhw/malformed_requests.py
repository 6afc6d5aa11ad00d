"""Requests whose bytes are no message: by itself gRPC answers UNKNOWN and logs a traceback."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError

MALFORMED = "request: its bytes are no message of this call; send what the .proto file says"

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class MalformedRefused(grpc.aio.ServerInterceptor):
    """Refuses such requests with INVALID_ARGUMENT in our services, where a call has one request.

    A call with a stream of requests meets the DecodeError when it reads the next one.
    """

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], "Awaitable[Handler | None]"],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """Return the handler of a call, which checks its request first."""
        handler = await continuation(handler_call_details)
        is_ours = str(handler_call_details.method).startswith("/fedhw.")
        if handler is None or handler.request_streaming or not is_ours:
            return handler
        return _checking(handler)


def _checking(handler: Any) -> Handler:
    def parsed(content: bytes) -> Any:
        try:
            return handler.request_deserializer(content)
        except DecodeError as error:
            return error

    async def check(request: Any, context: Context) -> None:
        if isinstance(request, DecodeError):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, MALFORMED)

    async def unary(request: Any, context: Context) -> Any:
        await check(request, context)
        return await handler.unary_unary(request, context)

    async def stream(request: Any, context: Context) -> AsyncIterator[Any]:
        await check(request, context)
        async with aclosing(handler.unary_stream(request, context)) as responses:
            async for response in responses:
                yield response

    checked = {"unary_stream": stream} if handler.response_streaming else {"unary_unary": unary}
    checking: Handler = handler._replace(request_deserializer=parsed, **checked)
    return checking
