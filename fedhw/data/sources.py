"""Where characters come from, as a user names it on the command line."""

from collections.abc import Sequence
from pathlib import Path

from fedhw.data.npz import load_npz
from fedhw.data.writers import WriterSet
from fedhw.errors import InputError
from fedhw.handwriting.digilets import load_digilets
from fedhw.handwriting.emnist import load_emnist
from fedhw.handwriting.femnist import load_femnist
from fedhw.handwriting.synthetic import synthetic_writers
from fedhw.handwriting.unipen import load_unipen

SYNTHETIC_WRITERS = range(240)
SYNTHETIC_CHARACTERS = 186
"""A synthetic writer writes each of the 62 characters three times."""


def load_source(
    source: str, seed: int = 0, synthetic: Sequence[int] = SYNTHETIC_WRITERS
) -> WriterSet:
    """Load the characters that `source` names.

    `FILE.npz`; `synthetic`, the writers of these numbers by `seed`; `femnist` from the hub;
    `femnist:FOLDER` of parquet files; `emnist:FOLDER`, the byclass training split;
    `unipen:FOLDER`, train_r01_v07; `digilets:FOLDER`, its `data/preprocessed`.
    Raises InputError when there is no such source or it cannot be used.

    >>> load_source("paper.pdf")
    Traceback (most recent call last):
    fedhw.errors.InputError: data: 'paper.pdf' is no source; give FILE.npz, synthetic, femnist, \
femnist:FOLDER, emnist:FOLDER, unipen:FOLDER or digilets:FOLDER
    """
    kind, _, folder = source.partition(":")
    match kind, folder:
        case "synthetic", "":
            return synthetic_writers(synthetic, SYNTHETIC_CHARACTERS, seed)
        case "femnist", _:
            return load_femnist(Path(folder) if folder else None)
        case "emnist", folder if folder:
            return load_emnist(Path(folder), "byclass", "train")
        case "unipen", folder if folder:
            return load_unipen(Path(folder))
        case "digilets", folder if folder:
            return load_digilets(Path(folder))
    if not source.endswith(".npz"):
        raise InputError(
            f"data: {source!r} is no source; give FILE.npz, synthetic, femnist, femnist:FOLDER, "
            "emnist:FOLDER, unipen:FOLDER or digilets:FOLDER"
        )
    return load_npz(Path(source))
