"""Pages over HTTP on a port of this machine, beside the asyncio program that shows them."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp


class HttpServer(uvicorn.Server):
    """Serves an application on a socket that listens; signals are the program's affair."""

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
        """Leave signals alone."""
        yield
