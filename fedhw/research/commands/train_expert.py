"""`fedhw train-expert`: train a global expert on many writers and make a release of it."""

from pathlib import Path
from typing import Annotated

import typer

from fedhw.research.commands.options import DataOption, SeedOption
from fedhw.system.console import out
from fedhw.system.plugins import ARCHITECTURES, installed


def train_expert(
    out_dir: Annotated[Path, typer.Option("--out", help="Release directory to make.")],
    data: DataOption = "synthetic",
    architecture: Annotated[
        str, typer.Option(help=f"One of {', '.join(installed(ARCHITECTURES))}.")
    ] = "lenet5",
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the data.")] = 70,
    hold_out: Annotated[
        int | None,
        typer.Option(
            min=0, help="Writers to keep for simulations; 60 by default, or half of fewer than 120."
        ),
    ] = None,
    seed: SeedOption = 0,
) -> None:
    """Train a global expert on many writers and make a release of it.

    An interrupted training continues when the same command is given again, and a finished one is
    taken as it is.

    For example: fedhw train-expert --data writers.npz --out release
    """
    from fedhw.research.commands.trained_release import train_or_reuse

    reached = train_or_reuse(out_dir, data, architecture, epochs, hold_out, seed)
    told = f"{out_dir}: generic accuracy {reached:.1%}"
    out.print(told, markup=False, highlight=False, soft_wrap=True)
