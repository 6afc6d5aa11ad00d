import base64
import io
import json
import math
import os
import tracemalloc
import unicodedata
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedhw.errors import InputError
from fedhw.handwriting.glyph import GLYPH
from fedhw.observation import Labels, ObservationType
from fedhw_client.store.profile import MAX_PROFILE_BYTES, Profile
from fedhw_client.store.stored_sample import StoredSample

PASSPHRASE = "correct horse"
LABELS = Labels((*"0123456789abcé字", "seven"))
WINDOW = ObservationType((2, 49), "float32")
FIRST = {"observation": {"shape": [28, 28], "dtype": "uint8"}, "labels": list(LABELS)}
OLD = {"alphabet": "0123456789abcé字"}
"""The first line of version 1, whose samples have a glyph."""
HEADER_BYTES = 14 + 16 + 3 + 12
PARAMETERS = 14 + 16

ROWS = [
    StoredSample(
        position, f"sample-{position}", 1.7e9 + position, bytes(range(196)) * 4, label, True, False
    )
    for position, label in enumerate("7éa", 1)
]


NOTHING = Profile([], GLYPH, LABELS)


def text(longest: int) -> st.SearchStrategy[str]:
    return st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=longest)


labels_ = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=64)


@st.composite
def profiles(draw: st.DrawFn) -> Profile:
    labels = Labels(tuple(draw(st.lists(labels_, unique=True, min_size=1, max_size=20))))
    takes = draw(st.sampled_from([GLYPH, WINDOW]))
    ids = draw(st.lists(text(64), unique=True, max_size=6))
    rows = [
        StoredSample(
            position,
            id_,
            draw(st.floats(allow_nan=False, allow_infinity=False)),
            takes.to_bytes(draw(arrays(takes.dtype, takes.shape, elements=st.integers(0, 99)))),
            draw(st.sampled_from(labels.texts)),
            draw(st.booleans()),
            draw(st.booleans()),
        )
        for position, id_ in enumerate(ids, 1)
    ]
    return Profile(rows, takes, labels)


@pytest.fixture(scope="module")
def sealed() -> bytes:
    return Profile(ROWS, GLYPH, LABELS).seal(PASSPHRASE)


def key(salt: bytes) -> AESGCM:
    return AESGCM(Scrypt(salt, 32, 2**15, 8, 1).derive(PASSPHRASE.encode()))


def sealed_by_hand(
    content: bytes, compress: Callable[[bytes], bytes] = zlib.compress, version: int = 2
) -> bytes:
    salt, nonce = os.urandom(16), os.urandom(12)
    header = b"fedhw-profile" + bytes([version]) + salt + bytes([15, 8, 1]) + nonce
    return header + key(salt).encrypt(nonce, compress(content), header)


def opened_by_hand(sealed: bytes) -> bytes:
    header, rest = sealed[:HEADER_BYTES], sealed[HEADER_BYTES:]
    return zlib.decompress(key(header[14:30]).decrypt(header[33:], rest, header))


def lines(*records: object) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def record(**changes: object) -> dict[str, Any]:
    content = base64.b64encode(bytes(GLYPH.nbytes)).decode()
    whole = {"id": "a", "at": 1.5, "label": "7", "ge_right": True, "right": False}
    return {**whole, "observation": content, **changes}


# Each example derives two keys, which is slow on purpose.
@settings(max_examples=25)
@given(profile=profiles(), passphrase=text(40).map(lambda t: t + "12345678"))
def test_what_was_sealed_is_unsealed(profile: Profile, passphrase: str) -> None:
    assert Profile.unseal(profile.seal(passphrase), passphrase) == profile


def test_the_file_is_as_documented(sealed: bytes) -> None:
    first, *rest = map(json.loads, opened_by_hand(sealed).splitlines())
    assert first == FIRST
    assert [line["label"] for line in rest] == list("7éa")
    by_hand = sealed_by_hand(lines(FIRST, record()))
    assert Profile.unseal(by_hand, PASSPHRASE) == Profile(
        [StoredSample(1, "a", 1.5, bytes(GLYPH.nbytes), "7", True, False)], GLYPH, LABELS
    )


def test_a_profile_of_version_1_is_opened() -> None:
    old = record()
    old["glyph"] = old.pop("observation")
    by_hand = sealed_by_hand(lines(OLD, old), version=1)
    assert Profile.unseal(by_hand, PASSPHRASE) == Profile(
        [StoredSample(1, "a", 1.5, bytes(GLYPH.nbytes), "7", True, False)],
        GLYPH,
        Labels.characters(OLD["alphabet"]),
    )


def test_order_is_kept_and_positions_are_numbered_anew() -> None:
    rows = [ROWS[2]._replace(position=900), ROWS[0]._replace(position=17)]
    found = Profile.unseal(Profile(rows, GLYPH, LABELS).seal(PASSPHRASE), PASSPHRASE)
    assert found.rows == [ROWS[2]._replace(position=1), ROWS[0]._replace(position=2)]


def test_numbers_for_times_and_answers_are_read_back() -> None:
    row = ROWS[0]._replace(at=5, ge_right=1, right=0)  # type: ignore[arg-type]
    assert Profile.unseal(Profile([row], GLYPH, LABELS).seal(PASSPHRASE), PASSPHRASE).rows == [row]


def test_nothing_written_shows_in_the_file_or_in_a_log(sealed: bytes) -> None:
    for row in ROWS:
        for plain in (
            row.observation[:16],
            base64.b64encode(row.observation)[:16],
            row.id.encode(),
        ):
            assert plain not in sealed
    assert "".join(LABELS).encode() not in sealed
    assert b"glyph" not in sealed
    assert PASSPHRASE.encode() not in sealed
    assert "sample" not in repr(Profile(ROWS, GLYPH, LABELS))


def test_no_two_files_share_a_salt_or_a_nonce(sealed: bytes) -> None:
    again = Profile(ROWS, GLYPH, LABELS).seal(PASSPHRASE)
    assert again[14:30] != sealed[14:30]
    assert again[33:45] != sealed[33:45]


def test_a_wrong_passphrase_is_told(sealed: bytes) -> None:
    with pytest.raises(InputError, match="passphrase is wrong or the file was altered") as error:
        Profile.unseal(sealed, "battery staple")
    assert "battery" not in str(error.value)


def test_a_passphrase_is_the_same_however_it_was_typed() -> None:
    composed = "pässwörtlich"
    decomposed = unicodedata.normalize("NFD", composed)
    assert composed != decomposed
    assert Profile.unseal(NOTHING.seal(decomposed), composed) == NOTHING


@pytest.mark.parametrize("passphrase", ["", "secrets", "e\u0301" * 7, "\udcff" * 8])
def test_a_weak_or_broken_passphrase_is_refused(sealed: bytes, passphrase: str) -> None:
    for act in (
        lambda: Profile(ROWS, GLYPH, LABELS).seal(passphrase),
        lambda: Profile.unseal(sealed, passphrase),
    ):
        with pytest.raises(InputError, match=r"^passphrase: ") as error:
            act()
        assert not passphrase or passphrase not in str(error.value)


@pytest.mark.parametrize(
    "byte", [*range(0, HEADER_BYTES, 4), 13, PARAMETERS, 31, 32, 45, 100, -16, -1]
)
def test_an_altered_file_is_refused(sealed: bytes, byte: int) -> None:
    for bit in (0, 1, 7):
        altered = bytearray(sealed)
        altered[byte] ^= 1 << bit
        with pytest.raises(InputError, match=r"^profile: "):
            Profile.unseal(bytes(altered), PASSPHRASE)


@pytest.mark.parametrize("length", [0, 5, 13, 14, 30, 33, HEADER_BYTES - 1, HEADER_BYTES, 60, -1])
def test_a_truncated_file_is_refused(sealed: bytes, length: int) -> None:
    with pytest.raises(InputError, match=r"^profile: "):
        Profile.unseal(sealed[:length], PASSPHRASE)


@settings(max_examples=50)
@given(content=st.binary(max_size=200).filter(lambda content: content[:13] != b"fedhw-profile"))
def test_a_file_that_is_no_profile_is_told(content: bytes) -> None:
    with pytest.raises(InputError, match="not a profile"):
        Profile.unseal(content, PASSPHRASE)


def test_a_newer_version_is_told(sealed: bytes) -> None:
    with pytest.raises(InputError, match="version 3 is newer than 2; update fedhw"):
        Profile.unseal(sealed[:13] + b"\x03" + sealed[14:], PASSPHRASE)


@pytest.mark.parametrize(
    "parameters", [(18, 8, 1), (31, 8, 1), (255, 255, 255), (15, 9, 1), (15, 8, 5), (1, 8, 1),
                   (15, 0, 1), (15, 8, 0), (0, 0, 0), (17, 1, 1)]
)  # fmt: skip
def test_hostile_scrypt_parameters_are_refused_untried(
    sealed: bytes, parameters: tuple[int, int, int]
) -> None:
    hostile = sealed[:PARAMETERS] + bytes(parameters) + sealed[PARAMETERS + 3 :]
    # Two of these would take terabytes if they were tried.
    with pytest.raises(InputError, match=f"log2 n = {parameters[0]}, r = {parameters[1]}"):
        Profile.unseal(hostile, PASSPHRASE)


def test_a_file_that_is_too_big_is_refused(sealed: bytes) -> None:
    with pytest.raises(InputError, match=f"more than {MAX_PROFILE_BYTES}"):
        Profile.unseal(sealed + bytes(MAX_PROFILE_BYTES), PASSPHRASE)


def test_a_file_that_grows_too_big_is_refused_before_it_does() -> None:
    inner = io.BytesIO()
    deflate = zlib.compressobj()
    for _ in range(512):
        inner.write(deflate.compress(bytes(2**20)))
    inner.write(deflate.flush())
    bomb = sealed_by_hand(inner.getvalue(), compress=bytes)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=f"more than {MAX_PROFILE_BYTES} bytes"):
            Profile.unseal(bomb, PASSPHRASE)
        assert tracemalloc.get_traced_memory()[1] < 3 * MAX_PROFILE_BYTES
    finally:
        tracemalloc.stop()


def test_more_samples_than_a_profile_holds_are_told() -> None:
    large = ObservationType((2**16,), "uint8")
    row = ROWS[0]._replace(observation=bytes(large.nbytes))
    rows = [row._replace(position=n, id=str(n)) for n in range(2500)]
    with pytest.raises(InputError, match=r"2500 samples take .* forget the oldest"):
        Profile(rows, large, LABELS).seal(PASSPHRASE)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"[" * 4000,
        b"\xff\xfe\xff",
        b"null",
        lines(FIRST | {"labels": 7}),
        lines(FIRST | {"labels": []}),
        lines(FIRST | {"labels": ["a\ud800"]}),
        lines(FIRST | {"labels": ["a", "a"]}),
        lines(FIRST | {"labels": "abc"}),
        lines(FIRST | {"observation": {"shape": [28, 28], "dtype": "float64"}}),
        lines(OLD),
        lines(record()),
        lines(FIRST, record(id="")),
        lines(FIRST, record(id="a" * 65)),
        lines(FIRST, record(id="\ud800")),
        lines(FIRST, record(id=7)),
        lines(FIRST, record(), record()),
        lines(FIRST, record(at=math.nan)),
        lines(FIRST, record(at=math.inf)),
        lines(FIRST, record(at="1.5")),
        lines(FIRST, record(at=10**400)),
        lines(FIRST, record(label="")),
        lines(FIRST, record(label="z")),
        lines(FIRST, record(label="01")),
        lines(FIRST, record(ge_right=1)),
        lines(FIRST, record(right=None)),
        lines(FIRST, record(observation="")),
        lines(FIRST, record(observation="!" + record()["observation"])),
        lines(FIRST, record(observation="é" * 1048)),
        lines(FIRST, record(observation=base64.b64encode(bytes(785)).decode())),
        lines(FIRST, record(more="x" * 200_000)),
        lines(FIRST, {"id": "a"}),
        lines(FIRST) + b"\n",
        lines(FIRST, record())[:-40],
    ],
)
def test_content_that_is_not_valid_is_refused(content: bytes) -> None:
    with pytest.raises(InputError, match=r"^(profile|labels.*|observation): .*; "):
        Profile.unseal(sealed_by_hand(content), PASSPHRASE)


@pytest.mark.parametrize(
    "compress", [bytes, lambda content: zlib.compress(content)[:-5], lambda content: b""]
)
def test_content_that_does_not_decompress_is_refused(compress: Callable[[bytes], bytes]) -> None:
    with pytest.raises(InputError, match="not what fedhw seals"):
        Profile.unseal(sealed_by_hand(lines({"alphabet": "a"}), compress), PASSPHRASE)


def test_what_could_not_be_unsealed_is_not_sealed() -> None:
    for fault in (
        {"id": ""},
        {"at": math.nan},
        {"observation": bytes(783)},
        {"label": "secret"},
        {"label": "\ud800"},
        {"id": ROWS[0].id},
    ):
        with pytest.raises(InputError, match=r"^profile: sample 2 has ") as error:
            Profile([ROWS[0], ROWS[1]._replace(**fault)], GLYPH, LABELS)
        assert "secret" not in str(error.value)
