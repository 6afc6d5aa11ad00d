"""An HTTP server inside an asyncio program."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp


class HttpServer(uvicorn.Server):
    """Serves an application on a listening socket; signals are left to the program."""

    def __init__(self, application: ASGIApp, listener: socket.socket) -> None:
        super().__init__(
            uvicorn.Config(
                application,
                access_log=False,
                log_config=None,
                lifespan="off",
                timeout_graceful_shutdown=1,
                ws="none",
            )
        )
        self._listener = listener

    async def serve_until_stopped(self) -> None:
        """Serve until `should_exit` is set."""
        await self.serve([self._listener])

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install no signal handlers."""
        yield
