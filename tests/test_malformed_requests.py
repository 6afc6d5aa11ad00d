import asyncio

import grpc
import pytest

from fedhw.malformed_requests import MALFORMED, MalformedRefused
from fedhw.v1 import device_pb2 as pb
from fedhw.v1 import device_pb2_grpc as pb_grpc


class Service(pb_grpc.DeviceServicer):
    async def Undo(self, request, context):  # noqa: N802
        return pb.UndoResponse(label="a")

    async def WatchStatus(self, request, context):  # noqa: N802
        for n in range(2):
            yield pb.WatchStatusResponse(status=pb.Status(kept=n))


async def asked(content: bytes) -> list[bytes]:
    """What the service answers to these bytes, in one call and in a stream."""
    server = grpc.aio.server(interceptors=[MalformedRefused()])
    pb_grpc.add_DeviceServicer_to_server(Service(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            answers, caught = [], []
            try:
                answers.append(await channel.unary_unary("/fedhw.v1.Device/Undo")(content))
            except grpc.RpcError as error:
                caught.append(error)
            try:
                watching = channel.unary_stream("/fedhw.v1.Device/WatchStatus")(content)
                answers += [answer async for answer in watching]
            except grpc.RpcError as error:
                caught.append(error)
    finally:
        await server.stop(None)
    assert {(e.code(), e.details()) for e in caught} <= {
        (grpc.StatusCode.INVALID_ARGUMENT, MALFORMED)
    }
    return answers


@pytest.mark.parametrize("content", [b"\xff\xff", b"\x0a\x7f", b"\x08" + b"\xff" * 11])
def test_bytes_that_are_no_message_are_refused(content):
    assert asyncio.run(asked(content)) == []


def test_a_message_is_answered():
    one, *many = asyncio.run(asked(b""))
    assert pb.UndoResponse.FromString(one).label == "a"
    assert [pb.WatchStatusResponse.FromString(each).status.kept for each in many] == [0, 1]
