"""The agent as a program: starts what listens, and ends all of it in good order."""

import asyncio
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import structlog
import torch
import uvicorn

from fedhw.atomic import replacing
from fedhw.errors import InputError
from fedhw.release.manifest import Manifest
from fedhw.release.release import MANIFEST, Release
from fedhw_client.agent import Agent
from fedhw_client.device_service import device_server
from fedhw_client.home import Home
from fedhw_client.metrics import Metrics
from fedhw_client.pad.app import pad_app, pad_url
from fedhw_client.service_manager import notify, watchdog_period
from fedhw_client.store import Store

GRACE = 2.0
"""Seconds that calls have to end when the agent stops."""

log = structlog.get_logger()


@dataclass(frozen=True)
class Settings:
    """How to run an agent; ports of 0 are free ones, None does without."""

    home: Home
    release: Path | None = None
    port: int | None = None
    pad_port: int | None = None
    metrics_port: int | None = None
    keep_days: float | None = None


def run(settings: Settings, say: Callable[[str], object]) -> None:
    """Run an agent until SIGTERM or SIGINT; `say` is told where it listens.

    Raises InputError for a home or a release that cannot be used and a port that is taken.
    """
    _log_as_json()
    # Learning runs beside recognition: one thread for each is what keeps it out of the way, and
    # whoever waits for the interpreter gets it soon.
    torch.set_num_threads(1)
    sys.setswitchinterval(0.0005)
    home = settings.home
    with home.occupied():
        if settings.release is not None:
            _install(home, settings.release)
        if not home.release.is_dir():
            raise InputError(
                f"release: there is none in {home.directory} yet; give one with --release, "
                "`fedhw train-expert --out DIR` makes one"
            )
        release = Release.load(home.release)
        store = Store(home.database)
        for notice in store.notices:
            say(notice)
        agent = Agent(release, store, settings.keep_days)
        try:
            asyncio.run(_serve(agent, settings, say))
        finally:
            agent.close()
            log.info("stopped")


async def _serve(agent: Agent, settings: Settings, say: Callable[[str], object]) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    metrics = Metrics(agent)
    if settings.metrics_port is not None:
        say(f"metrics: http://127.0.0.1:{metrics.serve(settings.metrics_port)}/metrics")
    token = None if settings.port is None else _new_token(settings.home)
    server = device_server(agent, metrics.observe, token)
    say(f"device: {_listen(server, settings)}")
    await server.start()
    async with asyncio.TaskGroup() as tasks:
        if settings.pad_port is not None:
            pad, listener, address = _pad(agent, settings.pad_port)
            tasks.create_task(_serve_until(stop, pad, listener))
            say(f"pad: {address}")
        alive = tasks.create_task(_show_life(agent))
        notify("READY=1")
        log.info("ready", release=agent.release_name)
        await stop.wait()
        notify("STOPPING=1")
        alive.cancel()
        await server.stop(GRACE)


def _listen(server: grpc.aio.Server, settings: Settings) -> str:
    """Bind the server to the one place it is reached at, and return that."""
    if settings.port is not None:
        return f"127.0.0.1:{_bind(server, f'127.0.0.1:{settings.port}')}"
    socket_path = settings.home.socket
    before = os.umask(0o177)
    try:
        _bind(server, f"unix:{socket_path}")
    finally:
        os.umask(before)
    return f"unix:{socket_path}"


def _bind(server: grpc.aio.Server, address: str) -> int:
    try:
        return server.add_insecure_port(address)
    except RuntimeError:
        raise InputError(f"port: {address} cannot be used; give one that is free") from None


def _new_token(home: Home) -> str:
    token = secrets.token_urlsafe()
    with replacing(home.token) as unfinished:
        unfinished.touch(mode=0o600)
        unfinished.write_text(token, encoding="ascii")
    return token


class _Pad(uvicorn.Server):
    """A web server that leaves signals to the agent."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _pad(agent: Agent, port: int) -> tuple[_Pad, socket.socket, str]:
    try:
        listener = socket.create_server(("127.0.0.1", port))
    except OSError as error:
        raise InputError(
            f"pad-port: {port} cannot be used ({error.strerror}); give one that is free"
        ) from None
    token, taken = secrets.token_urlsafe(), listener.getsockname()[1]
    config = uvicorn.Config(
        pad_app(agent, token, taken),
        access_log=False,
        log_config=None,
        lifespan="off",
        timeout_graceful_shutdown=1,
    )
    return _Pad(config), listener, pad_url(token, taken)


async def _serve_until(stop: asyncio.Event, pad: _Pad, listener: socket.socket) -> None:
    serving = asyncio.create_task(pad.serve([listener]))
    await stop.wait()
    pad.should_exit = True
    await serving


async def _show_life(agent: Agent) -> None:
    """Tell the service manager, for as long as both this loop and the learner run."""
    period = watchdog_period()
    while period is not None and agent.is_alive:
        notify("WATCHDOG=1")
        await asyncio.sleep(period / 3)


def _install(home: Home, release: Path) -> None:
    """Put a release into the home unless it is there already; checks it first."""
    wanted = Release.load(release).manifest.digest
    if not home.release.is_dir() or Manifest.load(home.release / MANIFEST).digest != wanted:
        home.install(release)


def _log_as_json() -> None:
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
