"""`fedhw client`: the agent of a device, and what it has told."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from fedhw.errors import InputError
from fedhw.system.console import err, needs, out, progress, say, write_json
from fedhw_client.commands.agent_options import HomeOption
from fedhw_client.commands.privacy import privacy

app = typer.Typer(invoke_without_command=True)
app.command()(privacy)


@app.callback()
def client(
    context: typer.Context,
    home: HomeOption = None,
    release: Annotated[
        Path | None,
        typer.Option(help="Release directory to install in the home; needed the first time."),
    ] = None,
    enroll: Annotated[
        Path | None,
        typer.Option(help="Join a fleet with the invitation that its operator gave; once."),
    ] = None,
    per_day: Annotated[
        float | None,
        typer.Option(
            "--epsilon-per-day", help="The most that reports may cost a day; 4 by default."
        ),
    ] = None,
    in_all: Annotated[
        float | None,
        typer.Option("--epsilon-in-all", help="The most that they may cost in all; 40 by default."),
    ] = None,
    least_cohort: Annotated[
        int | None,
        typer.Option(min=2, help="Add to sums over that many devices or more; 20 by default."),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, help="Listen on loopback TCP, not on the unix socket; 0: a free one."
        ),
    ] = None,
    pad: Annotated[bool, typer.Option("--pad", help="Serve the pad, a page to write on.")] = False,
    pad_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port of the pad; a free one by default.")
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Serve Prometheus metrics on loopback; 0: a free one."),
    ] = None,
    keep_days: Annotated[
        float | None, typer.Option(help="Forget corrections that are older, by this clock.")
    ] = None,
    replay: Annotated[
        Path | None,
        typer.Option(help="Do not serve: replay a writer of this npz file through a new agent."),
    ] = None,
    writer: Annotated[str | None, typer.Option(help="The writer to replay.")] = None,
    rate: Annotated[
        float | None,
        typer.Option(min=0, help="Characters a second, 20 by default; 0: as fast as it answers."),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the replay's figures to this file, too.")
    ] = None,
) -> None:
    """Run the agent of this device: it recognises, is corrected, and learns."""
    context.obj = home
    if context.invoked_subcommand is not None:
        return
    with needs("client"):
        from fedhw_client.store.device_home import Home

    place = Home.default() if home is None else Home(home)
    for_serving = {
        "enroll": enroll,
        "epsilon-per-day": per_day,
        "epsilon-in-all": in_all,
        "least-cohort": least_cohort,
        "port": port,
        "pad": pad or None,
        "pad-port": pad_port,
        "metrics-port": metrics_port,
        "keep-days": keep_days,
    }
    for_replay = {"writer": writer, "rate": rate, "json": json_file}
    for name, value in (for_serving if replay else for_replay).items():
        if value is not None:
            use = "not for a replay; leave it out" if replay else "for a replay; give --replay, too"
            raise InputError(f"{name}: {value} is {use}")
    if replay is not None:
        _replay(replay, writer, 20.0 if rate is None else rate, release or place.release, json_file)
        return
    if pad_port is not None and not pad:
        raise InputError(f"pad-port: {pad_port} is for the pad; give --pad, too")
    if keep_days is not None and not 0 < keep_days < math.inf:
        raise InputError(f"keep-days: {keep_days} is no time to keep; give a number above 0")
    for name, value in (("epsilon-per-day", per_day), ("epsilon-in-all", in_all)):
        if value is not None and enroll is None:
            raise InputError(f"{name}: {value:g} is agreed when a device joins; give --enroll, too")
    with needs("client"):
        from fedhw_client.agent.agent_process import DEFAULT_COHORT, DEFAULT_LIMITS, Settings, run

    limits = (
        None
        if per_day is None and in_all is None
        else replace(
            DEFAULT_LIMITS,
            per_day=DEFAULT_LIMITS.per_day if per_day is None else per_day,
            in_all=DEFAULT_LIMITS.in_all if in_all is None else in_all,
        )
    )
    run(
        Settings(
            home=place,
            release=release,
            invitation=enroll,
            limits=limits,
            least_cohort=least_cohort or DEFAULT_COHORT,
            port=port,
            pad_port=(pad_port or 0) if pad else None,
            metrics_port=metrics_port,
            keep_days=keep_days,
        ),
        say,
    )


def _replay(
    file: Path, writer: str | None, rate: float, release: Path, json_file: Path | None
) -> None:
    with needs("client"):
        from fedhw_client.commands.replay_writer import characters_of
        from fedhw_client.commands.replay_writer import replay as run_through

    from fedhw.data.npz import load_npz
    from fedhw.release.release import Release

    if writer is None:
        raise InputError("writer: is missing; name a writer of the file with --writer")
    characters = characters_of(load_npz(file), writer)
    known = Release.load(release)
    known.check_fits(characters)
    if not known.travelled and writer in known.trained_on:
        err.print(
            f"note: the release was trained on {writer}; its accuracy alone is better than for "
            "anybody new",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    with progress() as bars:
        bar = bars.add_task("replaying", total=len(characters))
        outcome = run_through(
            characters, writer, rate, release, lambda n: bars.update(bar, completed=n)
        )
    shown = Table("figure", writer)
    shown.add_row("characters", f"{outcome.samples}")
    shown.add_row("global expert alone", f"{outcome.ge_accuracy:.1%}")
    shown.add_row("with local expert and gate", f"{outcome.moe_accuracy:.1%}")
    for name, took in (("recognise", outcome.recognize_ms), ("correct", outcome.learn_ack_ms)):
        shown.add_row(f"to {name}, median and p99", f"{took.p50:.2f} and {took.p99:.2f} ms")
    shown.add_row("agent's memory", f"{outcome.rss_mb:.0f} MiB")
    out.print(shown)
    if json_file is not None:
        write_json(json_file, outcome.as_dict())
