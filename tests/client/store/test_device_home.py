import shutil
from pathlib import Path

import pytest

from fedhw.errors import InputError
from fedhw.release.release import Release
from fedhw_client.store.device_home import Home


def test_only_one_agent_is_in_a_home_and_only_its_owner_may_enter(tmp_path):
    home = Home(tmp_path / "deep" / "home")
    with home.occupied():
        assert home.directory.stat().st_mode & 0o777 == 0o700
        with pytest.raises(InputError, match="in use by another agent"), home.occupied():
            pass
    with home.occupied():
        pass


def test_a_home_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InputError, match=r"home: .*file.*--home"),
        Home(tmp_path / "file" / "home").occupied(),
    ):
        pass


def test_a_path_too_long_for_a_socket_says_what_to_do(tmp_path):
    assert Home(tmp_path).socket == tmp_path.resolve() / "agent.sock"
    with pytest.raises(InputError, match="--port"):
        _ = Home(tmp_path / ("x" * 108)).socket


def test_the_default_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("FEDHW_HOME", str(tmp_path))
    assert Home.default() == Home(tmp_path)
    monkeypatch.delenv("FEDHW_HOME")
    assert Home.default().directory.name == "fedhw"
    assert Home.default().directory != Path(tmp_path)


def test_a_release_is_copied_whole(release_directory, tmp_path):
    home = Home(tmp_path)
    home.install(release_directory)
    assert {p.name for p in home.release.iterdir()} == {p.name for p in release_directory.iterdir()}
    home.install(release_directory)
    assert not [p for p in tmp_path.iterdir() if p != home.release]


@pytest.mark.parametrize("name", ["release", "incoming"])
def test_what_a_crash_left_is_put_right(release_directory, tmp_path, name):
    home = Home(tmp_path)
    home.install(release_directory)
    shutil.copytree(home.release, tmp_path / ".incoming.abcdefgh" / "incoming")
    workplace = tmp_path / ".release.abcdefgh"
    shutil.copytree(home.release, workplace / "release")
    before = Release.load(home.release).manifest
    if name == "release":
        home.release.rename(workplace / "replaced")
    with home.occupied():
        assert Release.load(home.release).manifest == before
        assert sorted(path.name for path in tmp_path.iterdir()) == ["agent.lock", "release"]


def test_everything_of_a_home_is_in_it(tmp_path):
    home = Home(tmp_path)
    places = [home.database, home.release, home.incoming, home.held_back, home.enrolment]
    places += [home.ledger, home.token]
    assert len(set(places)) == len(places)
    assert {place.parent for place in places} == {tmp_path}
