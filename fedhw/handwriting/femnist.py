"""FEMNIST (LEAF, arXiv 1812.01097) as Flower Labs publishes it: `flwrlabs/femnist` on the hub."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedhw.data.writers import WriterSet
from fedhw.errors import InputError
from fedhw.handwriting.alphabet import BYCLASS
from fedhw.handwriting.glyph import SIDE
from fedhw.system.console import needs

if TYPE_CHECKING:
    from datasets import Dataset

COLUMNS = ("image", "writer_id", "character")


def load_femnist(folder: Path | None = None) -> WriterSet:
    """Read FEMNIST from the hub, or from the parquet files in `folder`.

    FEMNIST does not tell when a character was written: the order is that of the rows. Glyphs come
    as LEAF made them, scaled from the whole 128 x 128 field, so they are smaller in their frame
    than those of EMNIST.
    Raises InputError if the `simulation` extra, the network, a file or a column is missing, or a
    row cannot be used.
    """
    with needs("simulation"):
        import datasets  # noqa: F401
        import flwr_datasets  # noqa: F401
    dataset = _from_hub() if folder is None else _from_folder(folder)
    _check_schema(dataset)
    writer_ids = [str(name) for name in dataset["writer_id"][:]]
    names = list(dict.fromkeys(writer_ids))
    index = {name: i for i, name in enumerate(names)}
    return WriterSet.of(
        observations=np.stack([_ink(dataset, row) for row in range(len(dataset))]),
        labels=np.asarray(dataset["character"][:]),
        writer=[index[name] for name in writer_ids],
        names=names,
        classes=BYCLASS,
    )


def _from_hub() -> "Dataset":
    from flwr_datasets import FederatedDataset

    femnist = FederatedDataset(dataset="flwrlabs/femnist", partitioners={}, shuffle=False)
    try:
        return femnist.load_split("train")
    # The hub's client raises its own, its HTTP library's and the system's errors.
    except Exception as error:
        raise InputError(
            f"femnist: the hub did not give flwrlabs/femnist ({type(error).__name__});"
            " connect to the network or give a folder of its parquet files"
        ) from error


def _from_folder(folder: Path) -> "Dataset":
    # Not through FederatedDataset, which reports every load to Flower's telemetry: a folder is
    # read without the network. The temporary cache leaves no second copy of the handwriting.
    from datasets import Dataset
    from datasets.exceptions import DatasetsError

    files = [str(file) for file in sorted(folder.glob("*.parquet"))]
    if not files:
        raise InputError(f"{folder}: holds no .parquet file; give the folder of FEMNIST's files")
    try:
        with TemporaryDirectory() as cache:
            return Dataset.from_parquet(files, cache_dir=cache, keep_in_memory=True)
    except (DatasetsError, OSError, ValueError) as error:
        raise InputError(
            f"{folder}: its parquet files are empty, damaged or unlike each other;"
            " download them again"
        ) from error


def _check_schema(dataset: "Dataset") -> None:
    from datasets import ClassLabel, Image

    for column in COLUMNS:
        if column not in dataset.column_names:
            raise InputError(f"{column}: the files have no such column; use flwrlabs/femnist")
        if dataset.data.column(column).null_count:
            raise InputError(f"{column}: some rows have no value; drop them")
    if not isinstance(dataset.features["image"], Image):
        raise InputError("image: the column does not hold pictures; use flwrlabs/femnist")
    character = dataset.features["character"]
    if not isinstance(character, ClassLabel) or character.names != list(BYCLASS):
        raise InputError("character: classes are not 0-9, A-Z, a-z in this order; reorder them")


def _ink(dataset: "Dataset", row: int) -> NDArray[np.uint8]:
    """Glyph [28, 28], ink 255 on paper 0; FEMNIST's own ink is dark on white paper."""
    try:
        picture = dataset[row]["image"].convert("L")
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"image: row {row} is no readable picture; drop the row") from error
    if picture.size != (SIDE, SIDE):
        raise InputError(f"image: row {row} has size {picture.size}, not 28 x 28; resize it")
    return 255 - np.asarray(picture)
