"""`fedhw simulate`: personalise for many writers, and compare methods."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedhw.errors import InputError
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
from fedhw.system.console import needs, out, progress

if TYPE_CHECKING:
    from fedhw.research.simulation.engines.engine import Engine
    from fedhw.research.simulation.experiment import Experiment
    from fedhw.research.simulation.trial import Trial


class EngineName(StrEnum):
    """The engines of a simulation."""

    LOCAL = "local"
    RAY = "ray"
    FLOWER = "flower"


def simulate_writers(
    out_dir: OutOption = Path("out/simulation"),
    release: ReleaseOption = None,
    data: DataOption = "synthetic",
    writers: WritersOption = None,
    shots: Annotated[
        str, typer.Option(help="Samples of each writer to learn from, or half of them.")
    ] = "half",
    methods: Annotated[
        str | None,
        typer.Option(help="Names separated by commas, or all; by default all but the heavy ones."),
    ] = None,
    engine: Annotated[
        EngineName, typer.Option(help="Where the simulation runs.")
    ] = EngineName.LOCAL,
    address: Annotated[
        str | None,
        typer.Option(help="Address of a running Ray cluster; by default Ray starts here."),
    ] = None,
    seed: SeedOption = 0,
    json_file: JsonOption = None,
) -> None:
    """Personalise for many writers, compare methods, and write a report with pictures."""
    with alone(out_dir):
        check_places(out_dir, json_file)
        asked = ("writers", writers, shots, methods)
        made_from = report_identity(release, data, seed, *asked)
        if is_finished(out_dir, made_from):
            finish(out_dir, json_file)
            return
        from fedhw.release.release import Release
        from fedhw.research.baselines import choose_methods
        from fedhw.research.commands.trained_release import quick_place, release_or_quick
        from fedhw.research.orientation import warn_if_turned
        from fedhw.research.reports.writers_report import table, write_report
        from fedhw.research.simulation.experiment import forget
        from fedhw.research.simulation.population import as_shots, draw_population
        from fedhw.research.simulation.trial import Trial

        wanted, chosen, where = as_shots(shots), choose_methods(methods), _engine(engine, address)
        quick = quick_place(out_dir, data, seed)
        known = Release.load(release_or_quick(release, data, seed, quick))
        population = draw_population(data, known, writers, wanted, seed)
        warn(warn_if_turned(known.expert, population.write(range(min(len(population), 20)))))
        trial = Trial(known, population, chosen, wanted, seed)
        kept = out_dir.resolve().with_name(f".{out_dir.resolve().name}.unfinished")
        experiment = _run(trial, where, kept)
        out.print(table(experiment))
        write_report(experiment, out_dir, made_from)
        forget(trial, kept)
        finish(out_dir, json_file)


def _run(trial: "Trial", engine: "Engine", kept: Path) -> "Experiment":
    """Run a trial with a progress bar."""
    from fedhw.research.simulation.experiment import run_experiment

    with progress() as shown:
        bar = shown.add_task("writers", total=len(trial.population))
        return run_experiment(trial, engine, kept, lambda writers: shown.advance(bar, writers))


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
