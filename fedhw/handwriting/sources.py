"""The sources of handwriting on the command line; see `fedhw.data.sources`."""

from pathlib import Path

from fedhw.data.writers import WriterSet
from fedhw.errors import InputError
from fedhw.handwriting.digilets import load_digilets
from fedhw.handwriting.emnist import load_emnist, split_in
from fedhw.handwriting.femnist import load_femnist
from fedhw.handwriting.leaf import load_leaf
from fedhw.handwriting.synthetic import SYNTHETIC_CHARACTERS, synthetic_writers
from fedhw.handwriting.unipen import load_unipen

SYNTHETIC_WRITERS = 240


def synthetic(where: str, seed: int) -> WriterSet:
    """`synthetic`: 240 writers who write each of the 62 characters three times."""
    if where:
        raise InputError(f"data: synthetic takes no {where!r}; give synthetic")
    return synthetic_writers(SYNTHETIC_WRITERS, SYNTHETIC_CHARACTERS, seed)


def femnist(where: str, seed: int) -> WriterSet:
    """`femnist` from the hub, or `femnist:FOLDER` of its parquet files or of LEAF's json files."""
    folder = Path(where) if where else None
    if folder is not None and any(folder.glob("*.json")) and not any(folder.glob("*.parquet")):
        return load_leaf(folder)
    return load_femnist(folder)


def emnist(where: str, seed: int) -> WriterSet:
    """`emnist:FOLDER`: the training part of the split that is there, of byclass among several."""
    folder = _folder("emnist", where)
    return load_emnist(folder, split_in(folder), "train")


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
