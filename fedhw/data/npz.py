"""Writers in one npz archive: numpy's own format, plain arrays only, nothing ever unpickled."""

import string
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedhw.data.writers import WriterSet
from fedhw.errors import InputError
from fedhw.observation import Labels
from fedhw.system.atomic import replacing

_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
"""The labels of a file that has neither `classes` nor `alphabet`."""


def load_npz(path: Path) -> WriterSet:
    """Read writers from an npz archive of the layout below.

    Arrays: observations [N, *shape]; labels [N], an index into `classes`; classes str [C], the
    texts of the labels; writer [N], an index into `writers`; writers str [W], the names; order [N],
    ascending in time within a writer. Files of version 0.1 have images uint8 [N, 28, 28] for
    `observations` and alphabet str [] for `classes`, absent for the 62 classes. Integers may have
    any width. Raises InputError when the file or one of its arrays cannot be used.
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
            f"{path}: is not a complete npz file; write it with numpy.savez_compressed"
        ) from error


def save_npz(path: Path, writers: WriterSet) -> None:
    """Write `writers` to a file for `load_npz`; `path` is replaced completely or not at all.

    >>> from tempfile import TemporaryDirectory
    >>> glyphs, classes = np.zeros((2, 28, 28), np.uint8), Labels.characters("012345")
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "ann.npz"
    ...     save_npz(path, WriterSet.of(glyphs, [3, 5], [0, 0], ["ann"], classes))
    ...     load_npz(path).labels.tolist()
    [3, 5]
    """
    # Given a path without ".npz", numpy would add it; an open file keeps its name.
    with replacing(path) as unfinished, unfinished.open("wb") as file:
        np.savez_compressed(
            file,
            observations=writers.observations,
            labels=writers.labels,
            writer=writers.writer,
            writers=np.array(writers.names),
            order=writers.order,
            classes=np.array(writers.classes.texts),
        )


def _writer_set(archive: zipfile.ZipFile) -> WriterSet:
    is_old = "images.npy" in archive.namelist()
    return WriterSet.of(
        observations=_array(archive, "images" if is_old else "observations"),
        labels=_array(archive, "labels"),
        writer=_array(archive, "writer"),
        names=_texts(archive, "writers"),
        classes=_alphabet(archive) if is_old else Labels(tuple(_texts(archive, "classes"))),
        order=_array(archive, "order"),
    )


def _texts(archive: zipfile.ZipFile, field: str) -> list[str]:
    texts = _array(archive, field)
    if texts.ndim != 1 or texts.dtype.kind != "U":
        raise InputError(f"{field}: {texts.dtype} {texts.shape} is not a list of texts; give str")
    return [str(text) for text in texts]


def _alphabet(archive: zipfile.ZipFile) -> Labels:
    if "alphabet.npy" not in archive.namelist():
        return Labels.characters(_ALPHABET)
    alphabet = _array(archive, "alphabet")
    if alphabet.ndim != 0 or alphabet.dtype.kind != "U":
        raise InputError(
            f"alphabet: {alphabet.dtype} {alphabet.shape} is not one text; give str []"
        )
    return Labels.characters(str(alphabet))


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
