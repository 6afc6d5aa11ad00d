"""`fedhw client --replay`: replays a writer's characters through a new agent."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from fedhw.errors import InputError
from fedhw.system.console import err, needs, out, progress, write_json
from fedhw_client.commands.agent_options import HomeOption, ReleaseOption


def replay(
    home: HomeOption = None,
    release: ReleaseOption = None,
    replay: Annotated[
        Path | None,
        typer.Option(help="Do not serve: replay a writer of this npz file through a new agent."),
    ] = None,
    writer: Annotated[str | None, typer.Option(help="The writer to replay.")] = None,
    rate: Annotated[
        float, typer.Option(min=0, help="Characters a second; 0: as fast as it answers.")
    ] = 20.0,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the replay's figures to this file, too.")
    ] = None,
) -> None:
    """Replay a writer through a new agent, and show how well and how fast it recognised."""
    if replay is None or writer is None:
        raise InputError("writer: is missing; name a writer of the file with --writer")
    with needs("client"):
        from fedhw_client.commands.replay_writer import characters_of, replay_writer
        from fedhw_client.store.device_home import Home

    from fedhw.data.sources import load_source
    from fedhw.release.release import Release

    characters = characters_of(load_source(str(replay)), writer)
    place = Home.default() if home is None else Home(home)
    known = Release.load(release or place.release)
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
        outcome = replay_writer(
            characters, writer, rate, known.directory, lambda n: bars.update(bar, completed=n)
        )
    shown = Table("figure", escape(writer))
    for name, value in outcome.as_rows():
        shown.add_row(name, value)
    out.print(shown)
    if json_file is not None:
        write_json(json_file, asdict(outcome))
