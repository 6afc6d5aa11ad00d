"""`fedhw simulate`: many writers on this machine, one by one or as a fleet."""

import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedhw.errors import InputError
from fedhw.system.console import DATA_HELP, MAX_SEED, err, needs, out, progress, write_json

if TYPE_CHECKING:
    from fedhw.data.writers import WriterSet
    from fedhw.improvement.public import Public
    from fedhw.release.release import Release
    from fedhw.research.simulation.engines.engine import Engine
    from fedhw.research.simulation.simulated_fleet import Plan
    from fedhw.research.simulation.trial import Trial


class EngineName(StrEnum):
    """What works on the cohorts of a simulation."""

    LOCAL = "local"
    RAY = "ray"
    FLOWER = "flower"


DEVICES = 300
"""Synthetic writers of a simulated fleet, unless the user wants more or fewer."""


def simulate(
    context: typer.Context,
    out_dir: Annotated[Path, typer.Option("--out", help="Directory of the report.")] = Path(
        "out/simulation"
    ),
    release: Annotated[
        Path | None,
        typer.Option(help="Release directory; by default one is trained now, on the same source."),
    ] = None,
    data: Annotated[str, typer.Option(help=DATA_HELP)] = "synthetic",
    writers: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=100_000,
            help="Writers to personalise for; 60 at most by default, in a fleet 300 synthetic ones "
            "or all.",
        ),
    ] = None,
    shots: Annotated[
        str, typer.Option(help="Samples of each writer to learn from, or half of them.")
    ] = "half",
    methods: Annotated[
        str, typer.Option(help="Names with commas between them; all by default.")
    ] = "all",
    fleet: Annotated[
        bool,
        typer.Option("--fleet", help="Live through the days of a fleet, improvements and all."),
    ] = False,
    days: Annotated[int, typer.Option(min=1, max=3650, help="Days of a fleet.")] = 30,
    epsilon: Annotated[
        float, typer.Option(min=0.001, max=1000, help="What a report of a fleet costs.")
    ] = 50.0,
    noise: Annotated[
        float, typer.Option(min=0, max=999, help="Noise of a fleet's improvement rounds.")
    ] = 0.0,
    engine: Annotated[
        EngineName, typer.Option(help="Where cohorts of writers are worked on.")
    ] = EngineName.LOCAL,
    address: Annotated[
        str | None,
        typer.Option(help="A Ray cluster that runs already; by default one starts here."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED)] = 0,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures to this file, too.")
    ] = None,
) -> None:
    """Personalise for many writers, compare methods, and write a report with pictures.

    What was cut off goes on where it was when the same command is given again. With --fleet the
    writers are the fleet of a coordinator, for some days in virtual time.
    """
    from fedhw.data.sources import load_source
    from fedhw.improvement.public import Public
    from fedhw.research.baselines import METHODS
    from fedhw.research.commands.simulation_inputs import (
        population_of,
        release_and_writers,
        release_or_quick,
    )
    from fedhw.research.reports.writers_report import check_place
    from fedhw.research.simulation.simulated_coordinator import Policy
    from fedhw.research.simulation.simulated_fleet import Plan, draw_people
    from fedhw.research.simulation.trial import Trial

    _check_kind(context, fleet)
    wanted = _shots(shots)
    chosen = _methods(methods, list(METHODS))
    check_place(out_dir)
    if json_file is not None:
        _check_json(json_file, out_dir)
    origin = "-".join(re.findall(r"[A-Za-z0-9]+", data))
    quick = out_dir.resolve().with_name(f"{out_dir.resolve().name}-release-{origin}-{seed}")
    if fleet:
        known, unseen = release_and_writers(release, data, seed, writers or DEVICES, quick)
        people = draw_people(known, unseen, writers, seed)
        plan = Plan(days, epsilon, seed, Policy.quick(len(people), noise))
        public = Public.of(load_source(data, seed), known)
        figures = _live(known, public, unseen, people, plan, out_dir)
    else:
        known = release_or_quick(release, data, seed, quick)
        population = population_of(data, known, writers, wanted, seed)
        methods_by_name = {name: METHODS[name] for name in chosen}
        trial = Trial(known, population, methods_by_name, wanted, seed)
        figures = _compare(trial, _engine(engine, address), out_dir)
    if json_file is not None:
        write_json(json_file, figures)
    out.print(f"Report: {out_dir / 'index.html'}", markup=False, highlight=False, soft_wrap=True)


def _compare(trial: "Trial", engine: "Engine", out_dir: Path) -> dict[str, Any]:
    """Compare methods, show and write the report, and return its figures."""
    from fedhw.research.reports.writers_report import summary, table, write_report
    from fedhw.research.simulation.experiment import forget, run_experiment

    kept = out_dir.resolve().with_name(f".{out_dir.resolve().name}.unfinished")
    try:
        with progress() as shown:
            bar = shown.add_task("writers", total=len(trial.population))
            experiment = run_experiment(
                trial, engine, kept, lambda writers: shown.advance(bar, writers)
            )
    except KeyboardInterrupt:
        said = f"\nfedhw: cut off; the same command goes on from what is done, kept in {kept}"
        err.print(said, markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(130) from None
    out.print(table(experiment))
    write_report(experiment, out_dir)
    forget(trial, kept)
    return summary(experiment)


def _engine(name: EngineName, address: str | None) -> "Engine":
    if address is not None and name != EngineName.RAY:
        raise InputError(f"address: {address} is for Ray; give --engine ray, too")
    match name:
        case EngineName.LOCAL:
            from fedhw.research.simulation.engines.local import LocalEngine, processors

            return LocalEngine(processors())
        case EngineName.RAY:
            with needs("simulation"):
                from fedhw.research.simulation.engines.ray import RayEngine

            return RayEngine(address)
        case EngineName.FLOWER:
            with needs("client,server,simulation"):
                from fedhw.research.simulation.engines.flower import FlowerEngine

            return FlowerEngine()


def _live(
    release: "Release",
    public: "Public",
    data: "WriterSet",
    people: list[int],
    plan: "Plan",
    out_dir: Path,
) -> dict[str, Any]:
    """Live through the days of a fleet, show and write the report, and return its figures."""
    from fedhw.research.reports.fleet_report import summary, table, write_report
    from fedhw.research.simulation.simulated_fleet import simulate_fleet

    with progress() as shown:
        bar = shown.add_task("days", total=plan.days)
        chronicle = simulate_fleet(
            release, public, data, people, plan, lambda day: shown.advance(bar)
        )
    out.print(table(chronicle))
    write_report(chronicle, out_dir)
    return summary(chronicle)


def _shots(text: str) -> Any:
    if text == "half":
        return "half"
    if not text.isdecimal() or int(text) == 0:
        raise InputError(f"shots: {text!r} is no count; give a whole number from 1 up, or half")
    return int(text)


def _methods(text: str, known: list[str]) -> list[str]:
    asked = known if text == "all" else [name.strip() for name in text.split(",")]
    for name in asked:
        if name not in known:
            raise InputError(f"methods: {name!r} is not known; use some of {','.join(known)}")
    # The global expert is what every gain is measured against.
    return [name for name in known if name in asked or name == "ge"]


def _check_kind(context: typer.Context, fleet: bool) -> None:
    """Raise InputError for options that say nothing of what is simulated."""
    names, wrong = ["days", "epsilon", "noise"], "is for a fleet; give --fleet, too"
    if fleet:
        names, wrong = (
            ["shots", "methods", "engine", "address"],
            "is not for a fleet; leave one of both out",
        )
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise InputError(f"{name}: {context.params[name]} {wrong}")


def _check_json(path: Path, report: Path) -> None:
    if path.is_dir():
        raise InputError(f"json: {path} is a directory; give a file")
    if path.resolve().parent == report.resolve():
        raise InputError(
            f"json: {path} is in the report, which has summary.json; give another place"
        )
