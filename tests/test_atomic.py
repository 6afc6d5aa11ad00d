from pathlib import Path

import pytest

from fedhw.atomic import replacing


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "figures.json"
    target.write_text("old")

    def fail_halfway() -> None:
        with replacing(target) as unfinished:
            unfinished.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_halfway()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_never_replaces_a_directory(tmp_path: Path) -> None:
    target = tmp_path / "letters"
    target.mkdir()
    (target / "kept").touch()

    def write() -> None:
        with replacing(target) as unfinished:
            unfinished.touch()

    with pytest.raises(IsADirectoryError):
        write()
    assert [path.name for path in target.iterdir()] == ["kept"]


def test_a_directory_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "report"
    for name in ("first", "second"):
        with replacing(target) as unfinished:
            unfinished.mkdir()
            (unfinished / name).touch()
    assert [path.name for path in target.iterdir()] == ["second"]
    assert list(tmp_path.iterdir()) == [target]


def test_an_old_directory_survives_when_nothing_was_written(tmp_path: Path) -> None:
    target = tmp_path / "report"
    target.mkdir()
    (target / "kept").touch()
    with pytest.raises(FileNotFoundError), replacing(target):
        pass
    assert [path.name for path in target.iterdir()] == ["kept"]
