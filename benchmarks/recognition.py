"""Latency of recognising through the agent while it learns without a pause.

    python benchmarks/recognition.py RELEASE

The peers, in the same run: the global expert's bare forward pass of one glyph in torch, and a bare
gRPC echo (grpc.aio, bidirectional stream, unix socket) of the same request. Turns are taken glyph
by glyph, so that all three meet the same machine; then each goes by itself, in a tight loop that
keeps its caches warm. Claims: the median within 1.3 times, the 99th percentile within 4 times the
sum of the peers' medians; the first recognition 3 seconds after the start, and what importing torch
takes.
"""

import argparse
import asyncio
import logging
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import structlog
from tables import show

ROUNDS, WARM_UP = 5000, 500
CORRECTIONS, BATCH = 2000, 500


def serve_agent(release_directory: Path, socket: str, pauses: bool) -> None:
    import torch

    from fedhw.release.release import Release
    from fedhw_client.agent.agent import Agent
    from fedhw_client.agent.correction import Correction
    from fedhw_client.agent.device_service import device_server
    from fedhw_client.store.corrections import Store

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    torch.set_num_threads(1)
    sys.setswitchinterval(0.0005)
    release = Release.load(release_directory)
    with tempfile.TemporaryDirectory() as home:
        agent = Agent(release, Store(Path(home) / "device.db"))
        generic = release.generic
        corrections = [
            Correction(glyph, release.labels[label])
            for glyph, label in zip(generic.observations, generic.labels, strict=True)
        ]
        for start in range(0, CORRECTIONS, BATCH):
            agent.learn(corrections[start : start + BATCH])

        def learn_without_end() -> None:
            while not pauses:
                agent._learner.wake()
                time.sleep(0.01)

        threading.Thread(target=learn_without_end, daemon=True).start()

        async def run() -> None:
            await serve(await device_server(agent, lambda seconds: None), socket)

        asyncio.run(run())


def serve_echo(socket: str) -> None:
    class Echo(grpc.GenericRpcHandler):
        def service(self, details: Any) -> Any:
            async def echo(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
                async for request in requests:
                    yield request

            return grpc.stream_stream_rpc_method_handler(echo)

    async def run() -> None:
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((Echo(),))
        await serve(server, socket)

    asyncio.run(run())


async def serve(server: grpc.aio.Server, socket: str) -> None:
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    await server.wait_for_termination()


@contextmanager
def started(*arguments: str) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, __file__, *arguments])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def caller(socket: str, method: str) -> Callable[[bytes], bytes]:
    channel = grpc.insecure_channel(f"unix:{socket}")
    grpc.channel_ready_future(channel).result(60)
    requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    responses = channel.stream_stream(method)(iter(requests.get, None))

    def call(request: bytes) -> bytes:
        requests.put(request)
        answer: bytes = next(responses)
        return answer

    return call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("release", type=Path)
    parser.add_argument("--serve", choices=["idle", "learning", "echo"])
    parser.add_argument("--socket", default="")
    arguments = parser.parse_args()
    if arguments.serve == "echo":
        return serve_echo(arguments.socket)
    if arguments.serve:
        return serve_agent(arguments.release, arguments.socket, arguments.serve == "idle")
    show(
        ["agent", "order", "recognise p50, p99", "echo", "forward", "p50 ratio", "p99 ratio"],
        [row for state in ("idle", "learning") for row in measure(arguments.release, state)],
    )
    start(arguments.release)
    return None


def measure(release: Path, state: str) -> Iterator[list[str]]:
    """Yield a row for each order of the calls."""
    import torch

    from fedhw.release.release import Release
    from fedhw.v1 import device_pb2 as pb

    torch.set_num_threads(1)
    known = Release.load(release)
    glyphs = known.generic.observations[:ROUNDS]
    requests = [
        pb.RecognizeRequest(glyph=pb.Glyph(image=glyph.tobytes())).SerializeToString()
        for glyph in glyphs
    ]
    with tempfile.TemporaryDirectory() as place:
        ours, echo = f"{place}/agent.sock", f"{place}/echo.sock"
        with (
            started(str(release), "--serve", state, "--socket", ours),
            started(str(release), "--serve", "echo", "--socket", echo),
            torch.no_grad(),
        ):
            recognize, bounce = caller(ours, "/fedhw.v1.Device/Recognize"), caller(echo, "/echo")
            calls: list[Callable[[int], object]] = [
                lambda i: recognize(requests[i]),
                lambda i: bounce(requests[i]),
                lambda i: known.expert(known.expert.scale(glyphs[i : i + 1])),
            ]
            turns = np.array([[timed(call, i) for call in calls] for i in range(len(glyphs))])
            alone = np.array([[timed(call, i) for i in range(len(glyphs))] for call in calls]).T
    for order, took in (("in turns", turns), ("alone", alone)):
        p50, p99 = np.quantile(took[WARM_UP:] * 1e3, [0.5, 0.99], axis=0)
        shown = [f"{a:.2f}, {b:.2f} ms" for a, b in zip(p50, p99, strict=True)]
        peers = p50[1] + p50[2]
        yield [state, order, *shown, f"{p50[0] / peers:.2f}", f"{p99[0] / peers:.2f}"]


def start(release: Path) -> None:
    from fedhw_client.commands.replay_writer import resident_memory, running_agent

    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    torch_alone = time.perf_counter() - began
    began = time.perf_counter()
    with (
        tempfile.TemporaryDirectory() as home,
        running_agent(Path(home), release) as (device, process),
    ):
        device.recognize(np.eye(28, dtype=np.uint8) * 255)
        took = time.perf_counter() - began
        memory = resident_memory(process.pid)
    show(
        ["from nothing to the first recognition", "a process that only imports torch", "memory"],
        [[f"{took:.2f} s", f"{torch_alone:.2f} s", f"{memory:.0f} MiB"]],
    )


def timed(call: Callable[[int], object], i: int) -> float:
    began = time.perf_counter()
    call(i)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
