"""Writers in one npz archive: numpy's own format, plain arrays only, nothing ever unpickled."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedhw.data.writers import WriterSet
from fedhw.errors import InputError
from fedhw.handwriting.alphabet import BYCLASS
from fedhw.system.atomic import replacing


def load_npz(path: Path) -> WriterSet:
    """Read writers from an npz archive of the layout below.

    Arrays: images uint8 [N, 28, 28], ink 255 on paper 0, upright; labels [N], an index into the
    alphabet; writer [N], an index into `writers`; writers str [W], the names; order [N], ascending
    in time within a writer; alphabet str [], absent for the 62 classes. Whole numbers of any width
    are taken. Raises InputError when the file or one of its arrays cannot be used.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _writer_set(archive)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file; give the path of an npz file") from error
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path}: is no npz file, or cut short; write it with numpy.savez_compressed"
        ) from error


def save_npz(path: Path, writers: WriterSet) -> None:
    """Write `writers` so that `load_npz` reads the same; `path` is replaced whole or not at all.

    >>> from tempfile import TemporaryDirectory
    >>> glyphs = np.zeros((2, 28, 28), np.uint8)
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "ann.npz"
    ...     save_npz(path, WriterSet.of(glyphs, labels=[3, 5], writer=[0, 0], names=["ann"]))
    ...     load_npz(path).labels.tolist()
    [3, 5]
    """
    # An open file, because numpy adds ".npz" to a path that lacks it.
    with replacing(path) as unfinished, unfinished.open("wb") as file:
        np.savez_compressed(
            file,
            images=writers.images,
            labels=writers.labels,
            writer=writers.writer,
            writers=np.array(writers.names),
            order=writers.order,
            alphabet=np.array(writers.alphabet),
        )


def _writer_set(archive: zipfile.ZipFile) -> WriterSet:
    names = _array(archive, "writers")
    if names.ndim != 1 or names.dtype.kind != "U":
        raise InputError(
            f"writers: {names.dtype} {names.shape} is not a list of names; give str [W]"
        )
    return WriterSet.of(
        images=_array(archive, "images"),
        labels=_array(archive, "labels"),
        writer=_array(archive, "writer"),
        names=[str(name) for name in names],
        order=_array(archive, "order"),
        alphabet=_alphabet(archive),
    )


def _alphabet(archive: zipfile.ZipFile) -> str:
    if "alphabet.npy" not in archive.namelist():
        return BYCLASS
    alphabet = _array(archive, "alphabet")
    if alphabet.ndim != 0 or alphabet.dtype.kind != "U":
        raise InputError(
            f"alphabet: {alphabet.dtype} {alphabet.shape} is not one text; give str []"
        )
    return str(alphabet)


def _array(archive: zipfile.ZipFile, field: str) -> NDArray[Any]:
    try:
        with archive.open(f"{field}.npy") as member:
            return np.lib.format.read_array(member, allow_pickle=False)
    except KeyError as error:
        raise InputError(f"{field}: the file has no such array; add it") from error
    # Damaged bytes make zipfile, zlib and numpy's header parser raise a dozen unrelated classes.
    except Exception as error:
        raise InputError(
            f"{field}: is damaged or holds Python objects; save it again as a plain array"
        ) from error
