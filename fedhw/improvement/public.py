"""Public data on the server, for rehearsal, which keeps generic accuracy, and for validation."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedhw.data.npz import load_npz, save_npz
from fedhw.data.writers import WriterSet
from fedhw.errors import InputError
from fedhw.release.release import Release
from fedhw.system.atomic import replacing

REHEARSAL, VALIDATION = "rehearsal.npz", "validation.npz"


@dataclass(frozen=True)
class Public:
    """The data that the running expert was trained on, and data that no expert was trained on."""

    rehearsal: WriterSet
    validation: WriterSet

    @property
    def writers(self) -> list[str]:
        """The names of the rehearsed writers."""
        return [self.rehearsal.names[w] for w in np.unique(self.rehearsal.writer)]

    @classmethod
    def of(cls, data: WriterSet, release: Release) -> "Public":
        """Take the training data of a release from `data`, and validate on its own test data.

        Raises InputError where the release was fetched over the network, has other labels or was
        not trained on these writers.
        """
        release.check_fits(data)
        validation = release.generic
        tested = {each.tobytes() for each in validation.observations}
        writers = [w for w, name in enumerate(data.names) if name in release.trained_on]
        rows = [
            row
            for row in np.flatnonzero(np.isin(data.writer, writers))
            if data.observations[row].tobytes() not in tested
        ]
        if not rows:
            raise InputError(
                f"data: none of its {len(data.names)} writers is among those that "
                f"{release.manifest.name} was trained on; give the data that it was made of"
            )
        return cls(data.take(np.array(rows)), validation)

    @classmethod
    def load(cls, directory: Path) -> "Public":
        """Read what `save` wrote; raises InputError where it is missing or damaged."""
        if not directory.is_dir():
            raise InputError(
                f"public: there are no public observations in {directory}; give some with "
                "`fedhw server public DATA RELEASE`"
            )
        return cls(load_npz(directory / REHEARSAL), load_npz(directory / VALIDATION))

    def save(self, directory: Path) -> None:
        """Write both sets to a directory, whole or not at all, in place of what was there."""
        with replacing(directory) as unfinished:
            unfinished.mkdir()
            save_npz(unfinished / REHEARSAL, self.rehearsal)
            save_npz(unfinished / VALIDATION, self.validation)
