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
    epochs: Annotated[int, typer.Option(min=1)] = 70,
    hold_out: Annotated[
        int | None,
        typer.Option(
            min=0, help="Writers to keep for simulations; 60 by default, or half of fewer than 120."
        ),
    ] = None,
    seed: SeedOption = 0,
) -> None:
    """Train a global expert on many writers and make a release of it.

    An interrupted training continues when the same command is given again.
    """
    from fedhw.data.sources import load_source
    from fedhw.research.commands.quick_release import make_shown_release
    from fedhw.research.training import Training

    training = Training(epochs=epochs, seed=seed)
    writers = load_source(data, seed)
    reached = make_shown_release(out_dir, writers, architecture, training, hold_out)
    told = f"{out_dir}: generic accuracy {reached:.1%}"
    out.print(told, markup=False, highlight=False, soft_wrap=True)
