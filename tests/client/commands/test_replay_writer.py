import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from fedhw.data.npz import save_npz
from fedhw.errors import InputError
from fedhw.handwriting.synthetic import synthetic_writers
from fedhw.release.manifest import FOR_RESEARCH
from fedhw_client.commands.replay_writer import characters_of


def test_a_writers_characters_come_in_the_order_of_writing(unseen_writers):
    name = unseen_writers.names[2]
    characters = characters_of(unseen_writers, name)
    assert set(characters.writer) == {list(characters.names).index(name)}
    assert np.all(np.diff(characters.order.astype(int)) > 0)
    with pytest.raises(InputError, match="nobody"):
        characters_of(unseen_writers, "nobody")


def test_a_replay_goes_through_a_real_agent(release_directory, unseen_writers, tmp_path):
    few = unseen_writers.take(unseen_writers.rows_of(1)[:60])
    save_npz(tmp_path / "writers.npz", few)
    command = [sys.executable, "-m", "fedhw", "client", "--release", str(release_directory)]
    command += ["--replay", str(tmp_path / "writers.npz"), "--writer", unseen_writers.names[1]]
    command += ["--json", str(tmp_path / "figures.json"), "--home", str(tmp_path / "mine")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert list(figures) == [
        "writer",
        "samples",
        "ge_accuracy",
        "moe_accuracy",
        "recognize_ms",
        "learn_ack_ms",
        "rss_mb",
    ]
    assert figures["writer"] == unseen_writers.names[1]
    assert figures["samples"] == 60
    assert 0 < figures["ge_accuracy"] <= 1
    assert 0 < figures["recognize_ms"]["p50"] <= figures["recognize_ms"]["p99"]
    assert 0 < figures["rss_mb"] < 400
    assert f"{figures['moe_accuracy']:.1%}" in done.stdout
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize("travelled", [False, True])
def test_it_is_noted_that_the_release_has_seen_the_writer_where_that_is_known(
    release_directory, release, tmp_path, travelled
):
    [name, *_] = sorted(release.trained_on)
    writers = synthetic_writers(30, 150)
    characters = writers.take(writers.rows_of(list(writers.names).index(name))[:5])
    save_npz(tmp_path / "writers.npz", characters)
    shutil.copytree(release_directory, tmp_path / "release")
    if travelled:
        for left_out in FOR_RESEARCH:
            (tmp_path / "release" / left_out).unlink()
    command = [sys.executable, "-m", "fedhw", "client", "--rate", "0"]
    command += ["--release", str(tmp_path / "release"), "--home", str(tmp_path / "mine")]
    command += ["--replay", str(tmp_path / "writers.npz"), "--writer", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert ("note: the release was trained on" in done.stderr) == (not travelled)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--replay", "missing.npz", "--writer", "me"], "missing.npz"),
        (["--replay", "missing.npz"], "writer"),
        (["--writer", "me"], "writer"),
        (["--rate", "3"], "rate"),
    ],
)
def test_what_a_replay_cannot_use_is_one_sentence(tmp_path, arguments, named):
    command = [sys.executable, "-m", "fedhw", "client", "--home", str(tmp_path / "home")]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("fedhw: ")
    assert named in done.stderr
    assert done.stderr.count("\n") == 1
