"""`fedhw fleet`: run a coordinator and its devices on this machine, and watch them."""

import math
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from fedhw.errors import InputError
from fedhw.research.commands.options import (
    DataOption,
    JsonOption,
    ReleaseOption,
    SeedOption,
    check_figures,
)
from fedhw.system.clock import Clock, SystemClock
from fedhw.system.console import err, needs, out, say, write_json

if TYPE_CHECKING:
    from fedhw.data.writers import WriterSet
    from fedhw.research.local_fleet.local_fleet import Look, Plan

REFRESH_SECONDS = 1.0
"""Seconds between two updates of the view."""


def fleet(
    devices: Annotated[int, typer.Option(min=2, help="How many, with a writer each.")] = 3,
    data: DataOption = "synthetic",
    release: ReleaseOption = None,
    seed: SeedOption = 0,
    rate: Annotated[
        float, typer.Option(min=0, help="Characters a second of each writer; 0 is without a limit.")
    ] = 3.0,
    seconds: Annotated[
        float | None,
        typer.Option(min=0, help="End after this time; by default when everything is written."),
    ] = None,
    window: Annotated[int, typer.Option(min=2, help="Seconds that a report covers.")] = 20,
    epsilon: Annotated[float, typer.Option(help="Epsilon that a report costs a device.")] = 1000.0,
    home: Annotated[
        Path | None, typer.Option(help="New directory to keep; by default everything is removed.")
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Run a fleet on this machine and watch it: a coordinator, and a writer on each device.

    Every part is a process of its own, as in a real fleet, and they talk over TLS. Ctrl+C ends it.

    For example: fedhw fleet --devices 5
    """
    say(
        f"A coordinator and {devices} devices, each with a writer of its own; Ctrl+C ends it.\n"
        f"A report covers {window} s and costs epsilon {epsilon:g}, far more than is private, so\n"
        "that a few devices show something soon. A real fleet has a day and epsilon 2."
    )
    with needs("client"), needs("server"):
        from fedhw.privacy.mechanism import GaussianMechanism
        from fedhw.research.local_fleet.fleet_view import as_json, device_table, fleet_lines
        from fedhw.research.local_fleet.local_fleet import DELTA, Plan, check_memory
    check_memory(devices)
    GaussianMechanism(epsilon, DELTA)  # raises InputError for a bad epsilon
    if json_file is not None:
        check_figures(json_file)
    with _directory(home) as place:
        with _on_signals(signal.default_int_handler):
            known, writers = _writers(release, data, seed, devices, place / "release")
        look, failures = _run(place, Plan(known, writers, rate, window, epsilon), seconds)
    out.print(fleet_lines(look, window), device_table(look))
    if json_file is not None:
        write_json(json_file, as_json(look, failures))
    for failure in failures:
        err.print(failure, markup=False, highlight=False, soft_wrap=True)
    if failures:
        raise typer.Exit(1)


@contextmanager
def _directory(home: Path | None) -> Iterator[Path]:
    """The directory of the fleet; without `home` it is a temporary one."""
    if home is None:
        with tempfile.TemporaryDirectory(prefix="fedhw-fleet-") as place:
            yield Path(place)
        return
    if home.exists() and any(home.iterdir()):
        raise InputError(f"home: {home} holds something already; give a new directory")
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    yield home


def _writers(
    release: Path | None, data: str, seed: int, devices: int, quick: Path
) -> "tuple[Path, dict[str, WriterSet]]":
    """The directory of a release, and the characters of writers that it was not trained on."""
    from fedhw.release.release import Release
    from fedhw.research.commands.trained_release import release_or_quick
    from fedhw.research.simulation.population import draw_writers, load_unseen
    from fedhw_client.commands.replay_writer import characters_of

    if release is None:
        say(f"training a quick global expert on {data}")
    known = Release.load(release_or_quick(release, data, seed, quick))
    source = load_unseen(data, devices, seed)
    drawn = [source.names[w] for w in draw_writers(known, source, devices, "half", seed)]
    return known.directory, {name: characters_of(source, name) for name in drawn}


def _run(
    place: Path, plan: "Plan", seconds: float | None, clock: Clock = SystemClock()
) -> "tuple[Look, list[str]]":
    """Run a fleet to its end; return the last look at it, and all failures."""
    from fedhw.research.local_fleet.fleet_view import FleetView
    from fedhw.research.local_fleet.local_fleet import LocalFleet

    say(f"starting it in {place}")
    with _on_signals(signal.default_int_handler):
        fleet = LocalFleet(place, plan, clock)
    stopping = threading.Event()
    end = math.inf if seconds is None else clock.monotonic() + seconds
    view = FleetView(plan.window)
    with _on_signals(lambda number, frame: stopping.set()), view.live:
        try:
            waits = False
            while not stopping.is_set() and not fleet.is_over() and clock.monotonic() < end:
                view.show(fleet.look())
                if fleet.is_written() and not waits:
                    waits = True
                    say("everything is written; the last reports come soon")
                clock.wait(stopping, REFRESH_SECONDS)
            look = fleet.look()
            view.show(look)
            say("ending every process")
        finally:
            bad = fleet.stop()
    failed = [f"{device.name}: {device.failure}" for device in look.devices if device.failure]
    return look, failed + ([f"coordinator: {look.failure}"] if look.failure else []) + bad


@contextmanager
def _on_signals(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Call `handler` when a signal asks this process to end."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, handler) for number in numbers]
    try:
        yield
    finally:
        for number, handled in zip(numbers, before, strict=True):
            signal.signal(number, handled)
