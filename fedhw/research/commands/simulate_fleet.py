"""`fedhw simulate --fleet`: the days of a fleet in virtual time, with its improvements."""

from pathlib import Path
from typing import Annotated

import typer

from fedhw.research.commands.options import (
    DataOption,
    JsonOption,
    OutOption,
    ReleaseOption,
    SeedOption,
    WritersOption,
    alone,
    check_places,
    finish,
    is_finished,
    report_identity,
    warn,
)
from fedhw.system.console import out, progress

DEVICES = 300
"""Synthetic writers of a simulated fleet, by default."""


def simulate_fleet(
    out_dir: OutOption = Path("out/simulation"),
    release: ReleaseOption = None,
    data: DataOption = "synthetic",
    writers: WritersOption = None,
    days: Annotated[int, typer.Option(min=1, max=3650, help="Days of a fleet.")] = 30,
    epsilon: Annotated[
        float, typer.Option(min=0.001, max=1000, help="What a report of a fleet costs.")
    ] = 50.0,
    noise: Annotated[
        float, typer.Option(min=0, max=999, help="Noise of a fleet's improvement rounds.")
    ] = 0.0,
    seed: SeedOption = 0,
    json_file: JsonOption = None,
) -> None:
    """Simulate the days of a fleet, and write a report of what its coordinator decided."""
    with alone(out_dir, goes_on=False):
        check_places(out_dir, json_file)
        asked = ("fleet", writers, days, epsilon, noise)
        made_from = report_identity(release, data, seed, *asked)
        if is_finished(out_dir, made_from):
            finish(out_dir, json_file)
            return
        from fedhw.data.sources import load_source
        from fedhw.improvement.public import Public
        from fedhw.release.release import Release
        from fedhw.research.commands.trained_release import quick_place, release_or_quick
        from fedhw.research.orientation import warn_if_turned
        from fedhw.research.reports.fleet_report import table, write_report
        from fedhw.research.simulation.population import load_unseen
        from fedhw.research.simulation.simulated_fleet import Scenario, draw_people
        from fedhw.research.simulation.simulated_fleet import simulate_fleet as simulate

        quick = quick_place(out_dir, data, seed)
        known = Release.load(release_or_quick(release, data, seed, quick))
        unseen = load_unseen(data, writers or DEVICES, seed)
        warn(warn_if_turned(known.expert, unseen))
        people = draw_people(known, unseen, writers, seed)
        scenario = Scenario.quick(days, epsilon, seed, devices=len(people), noise=noise)
        public = Public.of(load_source(data, seed), known)
        with progress() as shown:
            bar = shown.add_task("days", total=scenario.days)
            chronicle = simulate(
                known, public, unseen, people, scenario, lambda day: shown.advance(bar)
            )
        out.print(table(chronicle))
        write_report(chronicle, out_dir, made_from)
        finish(out_dir, json_file)
