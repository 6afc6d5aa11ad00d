"""The agent as a program: starts its servers and its part in a fleet, and stops them in order."""

import asyncio
import math
import os
import secrets
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import structlog
import torch

from fedhw.errors import InputError
from fedhw.invitation import Invitation
from fedhw.privacy.budget import Limits
from fedhw.privacy.ledger import Ledger
from fedhw.release.release import Release
from fedhw.system.atomic import replacing
from fedhw.system.clock import Clock, SystemClock
from fedhw.system.http_server import HttpServer
from fedhw.system.logs import log_as_json
from fedhw.system.ports import free_port, listen
from fedhw.system.private_files import write_private
from fedhw.system.service_manager import notify, watchdog_period
from fedhw.system.signals import stop_on_signals
from fedhw_client.agent.adoption import Adoption
from fedhw_client.agent.agent import Agent
from fedhw_client.agent.agent_metrics import Metrics
from fedhw_client.agent.device_service import device_server
from fedhw_client.agent.latency_counts import LatencyCounts
from fedhw_client.fleet.client_app import client_app
from fedhw_client.fleet.contributor import Contributor
from fedhw_client.fleet.enrolment import Enrolment, enrol
from fedhw_client.fleet.reporter import Reporter
from fedhw_client.fleet.shadow_evaluation import Shadow
from fedhw_client.fleet.supernode import SuperNode
from fedhw_client.pad.pad_server import pad_app, pad_url
from fedhw_client.store.corrections import Store
from fedhw_client.store.device_home import Home

STOP_GRACE_SECONDS = 0.5
"""Seconds that calls have to end when the agent stops."""

WATCHDOG_SECONDS = 30.0
"""Watchdog period where no service manager sets one."""

DEFAULT_LIMITS = Limits(per_day=4.0, in_all=40.0, delta=1e-6)
"""The privacy budget of a person who has chosen none."""

DEFAULT_COHORT = 20
"""Least number of devices in the sums of a person who has chosen none."""

log = structlog.get_logger()


@dataclass(frozen=True)
class Settings:
    """How to run an agent; a port of 0 is a free one, with None it does not listen there.

    With an `invitation` the device joins a fleet; its reports cost at most the given epsilon, by
    default that of `DEFAULT_LIMITS`. It takes part in sums of `least_cohort` devices or more, and
    forgets corrections that are older than `keep_days`. Raises InputError for bad values.
    """

    home: Home
    release: Path | None = None
    invitation: Path | None = None
    epsilon_per_day: float | None = None
    epsilon_in_all: float | None = None
    least_cohort: int = DEFAULT_COHORT
    port: int | None = None
    pad_port: int | None = None
    metrics_port: int | None = None
    keep_days: float | None = None

    def __post_init__(self) -> None:
        if self.keep_days is not None and not 0 < self.keep_days < math.inf:
            raise InputError(f"keep-days: {self.keep_days} is not above 0; give a number of days")
        for name in ("epsilon_per_day", "epsilon_in_all"):
            value = getattr(self, name)
            if value is not None and self.invitation is None:
                raise InputError(
                    f"{name.replace('_', '-')}: {value:g} is agreed when a device joins; give "
                    "--enroll, too"
                )

    @property
    def limits(self) -> Limits | None:
        """The chosen privacy budget, None where nothing was chosen."""
        given = {"per_day": self.epsilon_per_day, "in_all": self.epsilon_in_all}
        chosen = {name: value for name, value in given.items() if value is not None}
        return replace(DEFAULT_LIMITS, **chosen) if chosen else None


def run(settings: Settings, say: Callable[[str], object]) -> None:
    """Run an agent until SIGTERM or SIGINT; `say` prints where it listens.

    Raises InputError for a home or a release that cannot be used and a port that is taken.
    """
    log_as_json()
    # Recognition must stay fast while learning runs: torch uses one thread for each, and the GIL
    # changes hands often.
    torch.set_num_threads(1)
    sys.setswitchinterval(0.0005)
    home, clock = settings.home, SystemClock()
    with home.occupied():
        enrolment = _enrolment(settings, say, clock)
        if enrolment is not None and not home.release.is_dir():
            say(f"waiting for the first release from {enrolment.invitation.flower}")
            _receive_first_release(enrolment, home, clock)
        release = _release(home, settings.release)
        store = Store(home.database)
        for notice in store.notices:
            say(notice)
        agent = Agent(release, store, settings.keep_days, clock=clock)
        with ExitStack() as ending:
            ending.callback(log.info, "stopped")
            observe = _join_fleet(enrolment, agent, settings, ending, clock)
            if settings.release is not None:
                home.install(settings.release)
            asyncio.run(_serve(agent, settings, enrolment, observe, say, clock))


def _enrolment(settings: Settings, say: Callable[[str], object], clock: Clock) -> Enrolment | None:
    """Return the device's enrolment, enrolling it if it is invited; None without a fleet."""
    home = settings.home
    if settings.release is not None and (settings.invitation or home.enrolment.is_dir()):
        raise InputError(
            f"release: {settings.release} cannot be installed on a device of a fleet, which gets "
            "its releases from the coordinator; leave --release out"
        )
    if settings.invitation is None:
        return Enrolment.load(home.enrolment) if home.enrolment.is_dir() else None
    invitation = Invitation.load(settings.invitation)
    if home.enrolment.is_dir():
        enrolment = Enrolment.load(home.enrolment)
        if replace(invitation, token="") != enrolment.invitation:
            raise InputError(
                f"enroll: this home is {enrolment.invitation.device} already; leave --enroll out, "
                "or give another --home"
            )
        if settings.limits is not None:
            _agreed_limits(home, settings.limits)
        return enrolment
    limits = _agreed_limits(home, settings.limits)
    if invitation.epsilon > limits.per_day:
        raise InputError(
            f"epsilon-per-day: {limits.per_day:g} is below the {invitation.epsilon:g} that a "
            "report of this fleet costs; give a higher limit if you accept that"
        )
    enrolment = enrol(invitation, home.enrolment, clock)
    say(f"enrolled: {invitation.device}")
    return enrolment


def _agreed_limits(home: Home, wanted: Limits | None) -> Limits:
    """Create the ledger with these limits, which are fixed once something was spent."""
    if not home.ledger.exists():
        return Ledger.create(home.ledger, wanted or DEFAULT_LIMITS).limits
    ledger = Ledger.open(home.ledger)
    if wanted in (None, ledger.limits):
        return ledger.limits
    if ledger.history() or ledger.rounds():
        raise InputError(
            f"epsilon-per-day, epsilon-in-all: {ledger.limits.per_day:g} and "
            f"{ledger.limits.in_all:g} were agreed and spent from; leave both out"
        )
    home.ledger.unlink()
    return Ledger.create(home.ledger, wanted).limits


def _receive_first_release(enrolment: Enrolment, home: Home, clock: Clock) -> None:
    """Connect to the coordinator until the device has its first release."""
    adoption = Adoption(None, home, enrolment.invitation.release_key, clock=clock)
    node = SuperNode(enrolment, client_app(adoption), clock)
    try:
        adoption.installed.wait()
    finally:
        node.close()


def _join_fleet(
    enrolment: Enrolment | None,
    agent: Agent,
    settings: Settings,
    ending: ExitStack,
    clock: Clock,
) -> Callable[[float], object]:
    """Join the fleet, if there is one, until `ending`, which closes the agent, too.

    Returns the function to call with the seconds that each recognition took.
    """
    if enrolment is None:
        ending.callback(agent.close)
        return lambda seconds: None
    home, invitation = settings.home, enrolment.invitation
    adoption = Adoption(agent, home, invitation.release_key, invitation.window, clock)
    after_agent = ending.enter_context(ExitStack())
    after_agent.callback(adoption.close)
    ending.callback(agent.close)
    usage = LatencyCounts(invitation.window, clock)
    contributor = shadow = None
    try:
        ledger = Ledger.open(home.ledger)
        reporter = Reporter(agent, enrolment, ledger, usage, clock)
        ending.callback(reporter.close)
        shadow = Shadow(agent, enrolment, ledger, reporter.send_soon, clock)
        after_agent.callback(shadow.close)
        contributor = Contributor(agent, enrolment, ledger, settings.least_cohort, clock)
        ending.callback(contributor.close)
    except InputError as error:
        # Without a ledger nothing may be sent, but the device can still adopt releases.
        log.error("nothing is reported", reason=str(error))
    app = client_app(adoption, contributor, shadow)
    ending.callback(SuperNode(enrolment, app, clock).close)
    return usage.observe


def _release(home: Home, given: Path | None) -> Release:
    if given is None and not home.release.is_dir():
        raise InputError(
            f"release: there is none in {home.directory} yet; give one with --release, "
            "`fedhw train-expert --out DIR` makes one"
        )
    return Release.load(given or home.release)


async def _serve(
    agent: Agent,
    settings: Settings,
    enrolment: Enrolment | None,
    observe: Callable[[float], object],
    say: Callable[[str], object],
    clock: Clock,
) -> None:
    stop = asyncio.Event()
    stop_on_signals(stop.set)
    # An address that cannot be bound ends the agent here, before anything is served.
    metrics = Metrics(agent)
    if settings.metrics_port is not None:
        port = metrics.serve(free_port("metrics-port", settings.metrics_port))
        say(f"metrics: http://127.0.0.1:{port}/metrics")
    token = None if settings.port is None else _token(settings.home)

    def observe_all(seconds: float) -> None:
        metrics.observe(seconds)
        observe(seconds)

    server = await device_server(agent, observe_all, token, clock)
    say(f"device: {_listen(server, settings)}")
    pad = None
    if settings.pad_port is not None:
        listener, secret = listen("pad-port", settings.pad_port), secrets.token_urlsafe()
        port = listener.getsockname()[1]
        coordinator = None if enrolment is None else enrolment.invitation.statistics
        pad = HttpServer(pad_app(agent, observe_all, secret, port, coordinator, clock), listener)
        say(f"pad: {pad_url(secret, port)}")
    await server.start()
    async with asyncio.TaskGroup() as tasks:
        if pad is not None:
            tasks.create_task(pad.serve_until_stopped())
        alive = tasks.create_task(_show_life(agent))
        notify("READY=1")
        log.info("ready", release=agent.release_name)
        await stop.wait()
        notify("STOPPING=1")
        alive.cancel()
        if pad is not None:
            pad.should_exit = True
        await server.stop(STOP_GRACE_SECONDS)


def _listen(server: grpc.aio.Server, settings: Settings) -> str:
    """Bind the server to its port or socket, and return that address."""
    if settings.port is not None:
        port = free_port("port", settings.port)
        return f"127.0.0.1:{server.add_insecure_port(f'127.0.0.1:{port}')}"
    before = os.umask(0o177)
    try:
        server.add_insecure_port(settings.home.address)
    finally:
        os.umask(before)
    return settings.home.address


def _token(home: Home) -> str:
    """Return the home's token, which outlives a restart so that apps need not restart, too."""
    if not home.token.exists():
        with replacing(home.token) as unfinished:
            write_private(unfinished, secrets.token_urlsafe().encode())
    return home.token.read_text(encoding="ascii")


async def _show_life(agent: Agent) -> None:
    """Notify the service manager's watchdog while this loop and the learner run."""
    period = watchdog_period() or WATCHDOG_SECONDS
    while agent.is_alive:
        notify("WATCHDOG=1")
        await asyncio.sleep(period / 3)
    raise RuntimeError("the learner has ended, see above")
