from pathlib import Path

import pytest

from fedhw.system.atomic import recover, replacing


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


def cut_off(target: Path, after: str) -> None:
    """What a crash leaves on the disk, after the first or before the first of the two steps."""
    workplace = target.with_name(f".{target.name}.12345678")
    (workplace / target.name).mkdir(parents=True)
    (workplace / target.name / "new").touch()
    if after == "the first step":
        target.rename(workplace / "replaced")


@pytest.mark.parametrize("after", ["the first step", "nothing"])
def test_a_crash_is_recovered_from(tmp_path: Path, after: str) -> None:
    target, other = tmp_path / "report", tmp_path / "report.2"
    for path in (target, other):
        path.mkdir()
        (path / "kept").touch()
    cut_off(target, after)
    recover(target)
    assert [path.name for path in target.iterdir()] == ["kept"]
    assert sorted(tmp_path.iterdir()) == [target, other]


def test_recovering_from_nothing_changes_nothing(tmp_path: Path) -> None:
    target = tmp_path / "report"
    recover(target)
    assert list(tmp_path.iterdir()) == []


def test_what_is_durable_is_replaced_just_so(tmp_path: Path) -> None:
    target = tmp_path / "report"
    for name in ("first", "second"):
        with replacing(target, durable=True) as unfinished:
            (unfinished / "deep").mkdir(parents=True)
            (unfinished / "deep" / name).write_text(name)
    assert [path.name for path in target.rglob("*")] == ["deep", "second"]
    assert list(tmp_path.iterdir()) == [target]
