import json
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhw.errors import InputError
from fedhw.invitation import Invitation

GOOD = Invitation(
    device="pen-1",
    token="a token",
    certificate_authority="-----BEGIN CERTIFICATE-----\n",
    statistics="fleet.example.org:9470",
    flower="fleet.example.org:9471",
    release_key="0a" * 32,
    app="0b" * 32,
    window=86_400,
    epsilon=2.0,
    delta=1e-6,
)


def written(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@given(
    device=st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z"),
    token=st.text(st.characters(codec="utf-8")),
    window=st.integers(1, 10**9),
    epsilon=st.floats(0, 1e6, exclude_min=True),
    delta=st.floats(0, 1, exclude_min=True, exclude_max=True),
)
def test_what_is_written_is_read(tmp_path_factory, **fields):
    path = tmp_path_factory.mktemp("invitation") / "pen.enroll"
    invitation = replace(GOOD, **fields)
    path.write_text(invitation.to_json(), encoding="utf-8")
    assert Invitation.load(path) == invitation


BAD = {
    "nothing": "",
    "no JSON": "{",
    "a list": [],
    "a number": 7,
    "deep": "[" * 50_000,
    "very long": asdict(GOOD) | {"token": "x" * 100_000},
    "a field less": {name: value for name, value in asdict(GOOD).items() if name != "app"},
    "a field more": asdict(GOOD) | {"more": 1},
    "another format": asdict(GOOD) | {"format": 2},
    "text for a number": asdict(GOOD) | {"window": "10"},
    "truth for a number": asdict(GOOD) | {"window": True},
    "a fraction of a second": asdict(GOOD) | {"window": 1.5},
    "a number for text": asdict(GOOD) | {"token": 5},
    "null": asdict(GOOD) | {"flower": None},
    "no device": asdict(GOOD) | {"device": ""},
    "a path for a device": asdict(GOOD) | {"device": "../pen"},
    "a line more": asdict(GOOD) | {"device": "pen\n"},
    "a short key": asdict(GOOD) | {"release_key": "0a"},
    "no hexadecimal": asdict(GOOD) | {"app": "z" * 64},
    "no window": asdict(GOOD) | {"window": 0},
    "no epsilon": asdict(GOOD) | {"epsilon": 0},
    "epsilon NaN": json.dumps(asdict(GOOD) | {"epsilon": float("nan")}),
    "epsilon infinite": json.dumps(asdict(GOOD) | {"epsilon": float("inf")}),
    "a sure delta": asdict(GOOD) | {"delta": 1.0},
    "no delta": asdict(GOOD) | {"delta": 0.0},
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_invitation_is_one_sentence(tmp_path, kind):
    path = written(tmp_path / "pen.enroll", BAD[kind])
    with pytest.raises(InputError, match=r"^enroll: ") as caught:
        Invitation.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_file_that_is_not_there_or_cannot_be_read(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name, reason in (
        ("missing", "No such file or directory"),
        (".", "Is a directory"),
        ("binary", "it is not JSON"),
    ):
        with pytest.raises(InputError, match=reason):
            Invitation.load(tmp_path / name)
