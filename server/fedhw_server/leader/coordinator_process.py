"""The coordinator as a program: starts its parts, keeps them running, and stops them in order."""

import asyncio
import os
import secrets
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from fedhw.release.registry import Registry
from fedhw.release.signing import ReleaseKey
from fedhw.system.http_server import HttpServer
from fedhw.system.logs import log_as_json
from fedhw.system.ports import free_port, listen
from fedhw.system.process_lock import occupied
from fedhw.system.service_manager import notify, watchdog_period
from fedhw.system.signals import stop_on_signals
from fedhw_server.console.fleet_metrics import Metrics, metrics_pages
from fedhw_server.fronts.certificates import make_certificates
from fedhw_server.fronts.enrolment_service import EnrolmentService
from fedhw_server.fronts.grpc_server import grpc_server
from fedhw_server.fronts.host import checked_host
from fedhw_server.fronts.statistics_service import StatisticsService
from fedhw_server.leader import server_app, superlink
from fedhw_server.leader.membership import Membership
from fedhw_server.leader.superlink import Address, SuperLink, app_digest
from fedhw_server.leader.supervisor import Part
from fedhw_server.store.coordinator_home import PROGRAM, Home
from fedhw_server.store.fleet import Fleet

EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Addresses that mean all of this machine's, and the loopback address of each."""

STOP_GRACE_SECONDS = 1.0
"""Seconds that calls have to end when the coordinator stops."""

WATCHDOG_SECONDS = 30.0
"""Watchdog period where no service manager sets one."""

log = structlog.get_logger()


@dataclass(frozen=True)
class Settings:
    """How to run a coordinator; ports of 0 are free ones.

    `host` is the address to listen on, `advertise` the name or address by which devices reach it.
    None keeps the fleet's present value for a figure of the report policy.
    """

    home: Home
    host: str = "127.0.0.1"
    advertise: str | None = None
    port: int = 9470
    flower_port: int = 9471
    metrics_host: str = "127.0.0.1"
    metrics_port: int = 9472
    window: int | None = None
    epsilon: float | None = None
    delta: float | None = None
    minimum_cohort: int | None = None

    @property
    def reached_at(self) -> str:
        """The name or address by which devices reach the coordinator.

        Raises InputError where it is none.
        """
        if self.advertise is not None:
            return checked_host(self.advertise)
        return checked_host(socket.getfqdn() if self.host in EVERYWHERE else self.host)

    @property
    def called_at(self) -> str:
        """The address by which the coordinator's own parts reach it."""
        return EVERYWHERE.get(self.host, self.host)


def run(settings: Settings, say: Callable[[str], object]) -> None:
    """Run a coordinator until SIGTERM or SIGINT; `say` prints where it listens.

    Raises InputError for a home that cannot be used, a port that is taken, and a policy that
    differs from the fleet's.
    """
    log_as_json()
    home = settings.home
    with occupied(home.directory, PROGRAM):
        fleet = Fleet(home.database)
        try:
            fleet.settings.agree(
                window=settings.window,
                epsilon=settings.epsilon,
                delta=settings.delta,
                minimum_cohort=settings.minimum_cohort,
            )
            make_certificates(
                home.certificates, list(dict.fromkeys((settings.reached_at, settings.called_at)))
            )
            registry = Registry(home.releases, _release_key(home))
            asyncio.run(_serve(settings, fleet, registry, say))
        finally:
            fleet.close()
            log.info("stopped")


def _release_key(home: Home) -> ReleaseKey:
    if home.release_key.exists():
        return ReleaseKey.load(home.release_key)
    return ReleaseKey.create(home.release_key)


async def _serve(
    settings: Settings, fleet: Fleet, registry: Registry, say: Callable[[str], object]
) -> None:
    stop = asyncio.Event()
    stop_on_signals(stop.set)
    home = settings.home
    secret = secrets.token_urlsafe(32)
    flower_port = free_port("flower-port", settings.flower_port, settings.host)
    address = Address(
        f"{_bracketed(settings.called_at)}:{flower_port}", home.certificates / "ca.crt", secret
    )
    parts = child_processes(settings, address)
    metrics = Metrics(Fleet(home.database), registry, parts)
    roster = Membership(Fleet(home.database), SuperLink(address))
    statistics = StatisticsService(fleet, registry, metrics)
    server, port = grpc_server(
        f"{_bracketed(settings.host)}:{free_port('port', settings.port, settings.host)}",
        home.certificates,
        statistics,
        EnrolmentService(fleet, roster.changed),
    )
    listener = listen("metrics-port", settings.metrics_port, settings.metrics_host)
    metrics_at = f"{_bracketed(settings.metrics_host)}:{listener.getsockname()[1]}"
    pages = HttpServer(metrics_pages(metrics), listener)
    fleet.settings.keep("statistics", f"{_bracketed(settings.reached_at)}:{port}")
    fleet.settings.keep("flower", f"{_bracketed(settings.reached_at)}:{flower_port}")
    fleet.settings.keep("app", app_digest())
    say(f"statistics: {fleet.settings.get('statistics')}")
    say(f"flower: {fleet.settings.get('flower')}")
    say(f"metrics: http://{metrics_at}/metrics")
    await server.start()
    async with asyncio.TaskGroup() as tasks:
        lasting = [tasks.create_task(part.keep()) for part in parts]
        lasting.append(tasks.create_task(roster.keep()))
        lasting.append(tasks.create_task(statistics.count_forever()))
        lasting.append(tasks.create_task(_show_life()))
        tasks.create_task(pages.serve_until_stopped())
        notify("READY=1")
        log.info("ready")
        await stop.wait()
        notify("STOPPING=1")
        await server.stop(STOP_GRACE_SECONDS)
        for task in lasting:
            task.cancel()
        pages.should_exit = True


def child_processes(settings: Settings, address: Address) -> list[Part]:
    """Return the SuperLink and the ServerApp of a coordinator, in this order; neither runs yet."""
    home = settings.home
    home.flower.mkdir(mode=0o700, exist_ok=True)
    environment = os.environ | {
        superlink.SECRET: address.secret,
        server_app.HOME: str(home.directory.resolve()),
        "FLWR_HOME": str(home.flower.resolve()),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_LOG_LEVEL": "WARNING",
    }
    tls = home.certificates
    serving = [
        *("--ssl-ca-certfile", str(tls / "ca.crt")),
        *("--ssl-certfile", str(tls / "server.crt")),
        *("--ssl-keyfile", str(tls / "server.key")),
        *("--host", settings.host),
        *("--port", address.at.rpartition(":")[2]),
        *("--database", str(home.flower / "superlink.db")),
        *("--isolation", "process"),
        "--enable-supernode-auth",
        "--disable-runtime-dependency-installation",
    ]
    commands = {
        "superlink": ["fedhw_server.leader.superlink", *serving],
        "serverapp": ["fedhw_server.leader.server_app", address.at],
    }
    return [
        Part(name, [sys.executable, "-m", *command], environment, home.flower / f"{name}.log")
        for name, command in commands.items()
    ]


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


async def _show_life() -> None:
    """Notify the service manager's watchdog while this loop runs."""
    period = watchdog_period() or WATCHDOG_SECONDS
    while True:
        notify("WATCHDOG=1")
        await asyncio.sleep(period / 3)
