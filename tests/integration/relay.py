"""Between a device and its coordinator: sees what passes, in clear where it is given certificates.

A device trusts the one authority that its invitation names. One that names the test's own lets a
relay end the device's TLS, look, and begin TLS of its own to the real coordinator.
"""

import asyncio
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from fedhw_server.fronts.certificates import make_certificates

CHUNK = 64 * 1024


@dataclass
class Conversation:
    """The bytes of one connection: what the device has sent, and what it has got."""

    sent: bytearray = field(default_factory=bytearray)
    received: bytearray = field(default_factory=bytearray)


@dataclass(frozen=True)
class Between:
    """The two ends of TLS that a relay needs to see what passes."""

    to_device: ssl.SSLContext
    to_server: ssl.SSLContext

    @classmethod
    def of(cls, certificates: Path, authority: Path, protocol: str) -> Self:
        """With certificates of its own, towards a server with those of an `authority`.

        `protocol` is what both sides agree to speak (RFC 7301).
        """
        make_certificates(certificates, ["127.0.0.1"])
        to_device = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        to_device.load_cert_chain(certificates / "server.crt", certificates / "server.key")
        to_server = ssl.create_default_context(cafile=authority)
        for end in (to_device, to_server):
            end.set_alpn_protocols([protocol])
        return cls(to_device, to_server)


class Relay:
    """Passes everything on between a free port of loopback, `address`, and a port of a host.

    `received` is called, in the relay's thread, with the number of bytes that devices have got.
    """

    def __init__(
        self,
        port: int,
        between: Between | None = None,
        host: str = "127.0.0.1",
        received: Callable[[int], object] = lambda total: None,
    ) -> None:
        self.conversations: list[Conversation] = []
        self._writers: list[asyncio.StreamWriter] = []
        self._target = (host, port)
        self._between = between
        self._received = received
        self._total = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        end = None if between is None else between.to_device
        starting = asyncio.start_server(self._converse, "127.0.0.1", 0, ssl=end)
        self._server = asyncio.run_coroutine_threadsafe(starting, self._loop).result()
        self.port: int = self._server.sockets[0].getsockname()[1]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def sent(self) -> int:
        """The bytes that devices have sent."""
        return sum(len(one.sent) for one in self.conversations)

    def close(self) -> None:
        """Hang up on everybody."""

        async def end() -> None:
            self._server.close()
            for writer in self._writers:
                writer.transport.abort()
            if ending := asyncio.all_tasks() - {asyncio.current_task()}:
                await asyncio.wait(ending)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conversation = Conversation()
        self.conversations.append(conversation)
        end = None if self._between is None else self._between.to_server
        try:
            back, forth = await asyncio.open_connection(*self._target, ssl=end)
        except OSError:  # nobody is there, or its certificate is another one's
            writer.close()
            return
        self._writers += (forth, writer)

        def note(content: bytes) -> None:
            conversation.received.extend(content)
            self._total += len(content)
            self._received(self._total)

        async with asyncio.TaskGroup() as both:
            both.create_task(_pass(reader, forth, conversation.sent.extend))
            both.create_task(_pass(back, writer, note))


async def _pass(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, note: Callable[[bytes], object]
) -> None:
    try:
        with suppress(OSError):
            while content := await reader.read(CHUNK):
                note(content)
                writer.write(content)
                await writer.drain()
    finally:
        writer.close()
