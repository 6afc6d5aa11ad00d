"""`fedhw train-expert`: a global expert, trained on many writers, as a release."""

from pathlib import Path
from typing import Annotated

import typer

from fedhw.system.console import DATA_HELP, MAX_SEED, out


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
