from pathlib import Path

import numpy as np
import pytest

from fedhw.data.writers import WriterSet
from fedhw.errors import InputError
from fedhw.handwriting.synthetic import synthetic_writers
from fedhw.improvement.public import REHEARSAL, Public
from fedhw.release.manifest import TRAINING
from fedhw.release.release import Release


def glyphs(data: WriterSet) -> set[bytes]:
    return {glyph.tobytes() for glyph in data.observations}


def test_what_is_judged_by_is_not_rehearsed(
    public: Public, running: Release, launch_data: WriterSet
) -> None:
    assert not glyphs(public.rehearsal) & glyphs(public.validation)
    assert glyphs(public.rehearsal) | glyphs(public.validation) == glyphs(launch_data)
    assert set(public.writers) == running.trained_on


def test_writers_whom_the_release_never_saw_are_left_out(
    running: Release, launch_data: WriterSet, public: Public
) -> None:
    strangers = synthetic_writers(range(500, 503), 40)
    both = WriterSet.of(
        np.concatenate([launch_data.observations, strangers.observations]),
        np.concatenate([launch_data.labels, strangers.labels]),
        np.concatenate([launch_data.writer, strangers.writer + len(launch_data.names)]),
        [*launch_data.names, *strangers.names],
        launch_data.classes,
    )
    assert glyphs(Public.of(both, running).rehearsal) == glyphs(public.rehearsal)
    with pytest.raises(InputError, match="none of its 3 writers"):
        Public.of(strangers, running)


def test_it_is_kept_whole(public: Public, tmp_path: Path) -> None:
    public.save(tmp_path / "public")
    public.save(tmp_path / "public")
    kept = Public.load(tmp_path / "public")
    np.testing.assert_array_equal(kept.rehearsal.observations, public.rehearsal.observations)
    np.testing.assert_array_equal(kept.validation.labels, public.validation.labels)
    assert kept.writers == public.writers


def test_missing_or_damaged_files_are_named(public: Public, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="fedhw server public"):
        Public.load(tmp_path / "nothing")
    public.save(tmp_path / "public")
    (tmp_path / "public" / REHEARSAL).write_bytes(b"PK")
    with pytest.raises(InputError, match=REHEARSAL):
        Public.load(tmp_path / "public")


def test_a_release_that_travelled_has_nothing_to_judge_by(
    running: Release, launch_data: WriterSet, tmp_path: Path
) -> None:
    for path in running.directory.iterdir():
        if path.name != TRAINING:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(InputError, match="travelled"):
        Public.of(launch_data, Release.load(tmp_path))
