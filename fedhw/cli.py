"""`fedhw ...`: one thin function a command."""

import json
import re
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from fedhw import __version__
from fedhw.errors import InputError
from fedhw.research.commands.export import export
from fedhw.research.local_fleet.command import fleet
from fedhw.system.console import DATA_HELP, MAX_SEED, err, needs, out, progress, write_json
from fedhw_client.commands.client import app as client
from fedhw_server.commands.server import app as server

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fedhw.data.writers import WriterSet
    from fedhw.improvement.public import Public
    from fedhw.release.release import Release
    from fedhw.research.simulation.engines.engine import Engine
    from fedhw.research.simulation.simulated_fleet import Plan
    from fedhw.research.simulation.trial import Trial
    from fedhw_client.connection import Device

Ranked = list[list[tuple[str, float]]]
"""For each glyph the likeliest characters and their probabilities, the best first."""

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Personalise a handwriting recogniser to each writer, on the writer's own device.",
)
app.add_typer(client, name="client")
app.add_typer(server, name="server")
app.command()(export)
app.command()(fleet)


class EngineName(StrEnum):
    """What works on the cohorts of a simulation."""

    LOCAL = "local"
    RAY = "ray"
    FLOWER = "flower"


DEVICES = 300
"""Synthetic writers of a simulated fleet, unless the user wants more or fewer."""

DEVICE_HELP = "Ask the agent of this device."
HOME_HELP = "The agent's home; $FEDHW_HOME or this user's own by default."
PORT_HELP = "The loopback port that the agent listens on, if it does."


def main() -> None:
    """Run the command line; input that cannot be used ends it with one sentence and exit code 2."""
    try:
        app()
    except (InputError, ConnectionError) as error:
        err.print(f"fedhw: {error}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)
    except OSError as error:
        where = error.filename or "input or output"
        message = f"fedhw: {where}: {error.strerror or error}; give a path that can be used"
        err.print(message, markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)


@app.callback(invoke_without_command=True)
def fedhw(
    version: Annotated[bool, typer.Option(help="Print the version and exit.")] = False,
) -> None:
    """Say the version, or leave it to a command."""
    if version:
        out.print(f"fedhw {__version__}", highlight=False)
        raise typer.Exit


@app.command()
def train_expert(
    out_dir: Annotated[Path, typer.Option("--out", help="Release directory to make.")],
    data: Annotated[str, typer.Option(help=DATA_HELP)] = "synthetic",
    architecture: Annotated[str, typer.Option(help="lenet5 or leaf-cnn")] = "lenet5",
    epochs: Annotated[int, typer.Option(min=1)] = 70,
    hold_out: Annotated[
        int | None,
        typer.Option(
            min=0, help="Writers to keep for simulations; 60 by default, or half of fewer than 120."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED)] = 0,
) -> None:
    """Train a global expert on many writers and make a release of it.

    A training that was cut off goes on where it was when the same command is given again.
    """
    from fedhw.data.sources import load_source
    from fedhw.research.commands.simulation_inputs import make_shown_release
    from fedhw.research.training import Training

    reached = make_shown_release(
        out_dir,
        load_source(data, seed),
        architecture,
        Training(epochs=epochs, seed=seed),
        hold_out,
    )
    told = f"{out_dir}: generic accuracy {reached:.1%}"
    out.print(told, markup=False, highlight=False, soft_wrap=True)


@app.command()
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


@app.command()
def cost(
    release: Annotated[Path, typer.Argument(help="Release directory.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Count what one character costs on a device: global expert, local expert, gate."""
    from fedhw.experts.cost import cost_of_gate, cost_of_global, cost_of_local
    from fedhw.experts.mixture import Mixture
    from fedhw.personalization.learner import Learner
    from fedhw.release.release import Release

    expert = Release.load(release).expert
    silent = Mixture.silent(expert, Learner().rank)
    costs = {
        "global expert": cost_of_global(expert),
        "local expert": cost_of_local(silent.local),
        "gate": cost_of_gate(silent.gate),
    }
    whole = costs["global expert"]
    figures = {
        name: {
            "parameters": part.parameters,
            "bytes": part.bytes,
            "macs": part.macs,
            "nanojoules": part.nanojoules,
            "parameter_share": part.parameters / whole.parameters,
            "mac_share": part.macs / whole.macs,
            "energy_share": part.nanojoules / whole.nanojoules,
        }
        for name, part in costs.items()
    }
    if as_json:
        out.print_json(json.dumps(figures))
        return
    shown = Table("part", "parameters", "bytes", "MACs", "energy, nJ", "share of the GE's energy")
    for name, part in costs.items():
        shown.add_row(
            name,
            f"{part.parameters:,}",
            f"{part.bytes:,}",
            f"{part.macs:,}",
            f"{part.nanojoules:,.1f}",
            f"{figures[name]['energy_share']:.2%}",
        )
    out.print(shown)


@app.command()
def recognize(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="[RELEASE] IMAGES...",
            help="Release directory, not with --device; pictures of one character each.",
        ),
    ],
    device: Annotated[bool, typer.Option("--device", help=DEVICE_HELP)] = False,
    home: Annotated[Path | None, typer.Option(help=HOME_HELP)] = None,
    port: Annotated[int | None, typer.Option(help=PORT_HELP, min=1, max=65535)] = None,
) -> None:
    """Recognise characters in pictures, with a release's global expert or with your agent."""
    from fedhw.handwriting.pictures import load_picture

    images = paths if device else paths[1:]
    if not images:
        raise InputError(f"images: there is none after {paths[0]}; give pictures to recognise")
    glyphs = [load_picture(path) for path in images]
    if device:
        ranked = _ranked_by_agent(glyphs, home, port)
    else:
        ranked = _ranked_by_release(glyphs, paths[0])
    shown = Table("character", "probability", "or", "picture")
    for path, ((best, p), *others) in zip(images, ranked, strict=True):
        rest = ", ".join(f"{label} {q:.0%}" for label, q in others)
        shown.add_row(*map(Text, (best, f"{p:.0%}", rest, path.name)))
    out.print(shown)


@app.command()
def learn(
    image: Annotated[Path, typer.Argument(help="Picture of one character.")],
    label: Annotated[str, typer.Argument(help="The character that it is.")],
    device: Annotated[bool, typer.Option("--device", help=DEVICE_HELP)] = False,
    home: Annotated[Path | None, typer.Option(help=HOME_HELP)] = None,
    port: Annotated[int | None, typer.Option(help=PORT_HELP, min=1, max=65535)] = None,
) -> None:
    """Correct one character: your agent stores it and learns from it."""
    from fedhw.handwriting.pictures import load_picture

    if not device:
        raise InputError("device: is missing; add --device, for only your agent learns")
    glyph = load_picture(image)
    with _connected(home, port) as agent:
        name = agent.learn(glyph, label)
    out.print(f"stored as {name}", highlight=False)


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


def _ranked_by_release(glyphs: "list[NDArray[np.uint8]]", release: Path) -> Ranked:
    import numpy as np

    from fedhw.personalization.method import extract_features
    from fedhw.release.release import Release

    known = Release.load(release)
    probabilities = extract_features(known.expert, np.stack(glyphs)[None]).scores[0].softmax(-1)
    return [
        [(known.alphabet[i], p[i].item()) for i in p.argsort(descending=True)[:3].tolist()]
        for p in probabilities
    ]


def _ranked_by_agent(
    glyphs: "list[NDArray[np.uint8]]", home: Path | None, port: int | None
) -> Ranked:
    with _connected(home, port) as agent:
        answers = [agent.recognize(glyph, top_k=3) for glyph in glyphs]
    return [[(c.label, c.probability) for c in answer.candidates] for answer in answers]


def _connected(home: Path | None, port: int | None) -> "Device":
    with needs("client"):
        from fedhw_client.connection import connect

    return connect(home, port)


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


if __name__ == "__main__":
    main()
