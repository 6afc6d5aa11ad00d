"""The sources of handwriting on the command line; see `fedhw.data.sources`."""

from pathlib import Path

from fedhw.data.writers import WriterSet
from fedhw.errors import InputError
from fedhw.handwriting.digilets import load_digilets
from fedhw.handwriting.emnist import load_emnist
from fedhw.handwriting.femnist import load_femnist
from fedhw.handwriting.synthetic import SYNTHETIC_CHARACTERS, synthetic_writers
from fedhw.handwriting.unipen import load_unipen

SYNTHETIC_WRITERS = 240


def synthetic(where: str, seed: int) -> WriterSet:
    """`synthetic`: 240 writers who write each of the 62 characters three times."""
    if where:
        raise InputError(f"data: synthetic takes no {where!r}; give synthetic")
    return synthetic_writers(SYNTHETIC_WRITERS, SYNTHETIC_CHARACTERS, seed)


def femnist(where: str, seed: int) -> WriterSet:
    """`femnist` from the hub, or `femnist:FOLDER` of its parquet files."""
    return load_femnist(Path(where) if where else None)


def emnist(where: str, seed: int) -> WriterSet:
    """`emnist:FOLDER`: the byclass training split."""
    return load_emnist(_folder("emnist", where), "byclass", "train")


def unipen(where: str, seed: int) -> WriterSet:
    """`unipen:FOLDER`: train_r01_v07."""
    return load_unipen(_folder("unipen", where))


def digilets(where: str, seed: int) -> WriterSet:
    """`digilets:FOLDER`: its `data/preprocessed`."""
    return load_digilets(_folder("digilets", where))


def _folder(name: str, where: str) -> Path:
    if not where:
        raise InputError(f"data: {name} lacks its folder; give {name}:FOLDER")
    return Path(where)
