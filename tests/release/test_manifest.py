import json
import string
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhw.errors import InputError
from fedhw.release.manifest import FOR_DEVICES, FOR_RESEARCH, MAX_MANIFEST_BYTES, Manifest

SHA = "0123456789abcdef" * 4
PLAIN = Manifest(
    version=3,
    parent=2,
    restores=1,
    architecture="lenet5",
    alphabet="abc",
    created="2026-01-02T03:04:05+00:00",
    files=dict.fromkeys((*FOR_DEVICES, *FOR_RESEARCH), SHA),
    validation={"generic_accuracy": 0.75, "generic_characters": 100},
    privacy={"epsilon": 2.0, "delta": 1e-6},
)

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=64)
figures = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**300), 10**300)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    version = draw(st.integers(0, 2**31 - 1))
    earlier = st.none() if version == 0 else st.none() | st.integers(0, version - 1)
    return Manifest(
        version=version,
        parent=draw(earlier),
        restores=draw(earlier),
        architecture=draw(names),
        alphabet="".join(draw(st.sets(st.characters(codec="utf-8"), min_size=1, max_size=80))),
        created=draw(st.datetimes(timezones=st.timezones())).isoformat(),
        files={
            name: draw(st.text("0123456789abcdef", min_size=64, max_size=64))
            for name in draw(st.permutations((*FOR_DEVICES, *FOR_RESEARCH)))
        },
        validation=draw(st.dictionaries(names, figures, max_size=5)),
        privacy={name: abs(draw(figures)) for name in draw(st.permutations(["epsilon", "delta"]))},
    )


@given(manifests())
def test_what_is_parsed_is_what_was_written(manifest: Manifest) -> None:
    again = Manifest.parse(manifest.to_json().encode(), "here")
    assert again == manifest
    assert again.to_json() == manifest.to_json()
    assert again.digest == manifest.digest


@given(manifests(), st.data())
def test_one_byte_more_less_or_other_is_another_manifest_or_none(
    manifest: Manifest, data: st.DataObject
) -> None:
    content = manifest.to_json().encode()
    at = data.draw(st.integers(0, len(content) - 1))
    byte = data.draw(st.binary(max_size=2))
    altered = content[:at] + byte + content[at + 1 :]
    try:
        parsed = Manifest.parse(altered, "here")
    except InputError:
        return
    assert parsed.to_json().encode() == altered
    assert (parsed.digest == manifest.digest) == (altered == content)


@given(st.binary(max_size=200) | st.text(string.printable, max_size=200).map(str.encode))
def test_no_bytes_do_more_than_be_refused(content: bytes) -> None:
    with pytest.raises(InputError, match="here"):
        Manifest.parse(content, "here")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(st.sampled_from(sorted(vars(PLAIN))), json_values)
def test_any_value_anywhere_is_taken_as_it_is_or_refused(field: str, value: object) -> None:
    found = json.loads(PLAIN.to_json()) | {field: value}
    content = (json.dumps(found, indent=2) + "\n").encode()
    try:
        parsed = Manifest.parse(content, "here")
    except InputError:
        return
    assert parsed.to_json().encode() == content


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", True),
        ("version", -1),
        ("version", 2**31),
        ("version", 1.0),
        ("version", "3"),
        ("parent", 3),
        ("parent", False),
        ("restores", 4),
        ("restores", "1"),
        ("architecture", ""),
        ("architecture", "x" * 65),
        ("architecture", "\ud800"),
        ("alphabet", ""),
        ("alphabet", "aa"),
        ("alphabet", ["a", "b"]),
        ("alphabet", "".join(map(chr, range(1000, 2025)))),
        ("created", "yesterday"),
        ("created", "2026-01-02T03:04:05"),
        ("created", "2026-01-02\ud80003:04:05+00:00"),
        ("files", {}),
        ("files", {FOR_DEVICES[0]: SHA}),
        ("files", PLAIN.files | {"../../evil": SHA}),
        ("files", PLAIN.files | {"weights.pickle": SHA}),
        ("files", PLAIN.files | {FOR_DEVICES[0]: SHA.upper()}),
        ("files", PLAIN.files | {FOR_DEVICES[0]: SHA + "\n"}),
        ("files", PLAIN.files | {FOR_DEVICES[0]: 7}),
        ("validation", {"accuracy": float("nan")}),
        ("validation", {"accuracy": float("inf")}),
        ("validation", {"accuracy": True}),
        ("validation", {"accuracy": 10**400}),
        ("validation", {"": 1.0}),
        ("validation", []),
        ("privacy", {"epsilon": 1.0}),
        ("privacy", {"epsilon": 1.0, "delta": -1e-9}),
        ("privacy", {"epsilon": float("nan"), "delta": 0.0}),
        ("privacy", {"epsilon": 1.0, "delta": 0.0, "more": 1.0}),
    ],
)
def test_a_field_out_of_its_range_is_named(field: str, value: object) -> None:
    content = json.dumps(json.loads(PLAIN.to_json()) | {field: value}, indent=2) + "\n"
    with pytest.raises(InputError, match=f"^release: {field} in here is .*; fetch"):
        Manifest.parse(content.encode(), "here")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (PLAIN.to_json()[:-1], "not as fedhw has written it"),
        (PLAIN.to_json() + " ", "not as fedhw has written it"),
        (PLAIN.to_json().replace("  ", " "), "not as fedhw has written it"),
        (
            PLAIN.to_json().replace('"version": 3', '"version": 9,\n  "version": 3'),
            "not as fedhw has written it",
        ),
        (PLAIN.to_json().replace('"format": 2', '"format": 3'), "format 3 .* update fedhw"),
        (PLAIN.to_json().replace('"format": 2', '"format": 0'), "format 0 .* update fedhw"),
        (PLAIN.to_json().replace('"format": 2', '"format": 1'), "not a manifest"),
        (PLAIN.to_json().replace('"format": 2', '"format": true'), "not a manifest"),
        (PLAIN.to_json().replace("restores", "retsores"), "not a manifest"),
        ("[" * MAX_MANIFEST_BYTES, "cannot be read"),
        (PLAIN.to_json() + " " * MAX_MANIFEST_BYTES, f"over {MAX_MANIFEST_BYTES} bytes"),
    ],
)
def test_what_is_no_manifest_is_told_why(content: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        Manifest.parse(content.encode(), "here")


def test_a_file_too_large_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(InputError, match=f"over {MAX_MANIFEST_BYTES} bytes"):
        Manifest.load(path)


def test_an_older_format_is_what_it_was() -> None:
    content = (
        '{\n  "version": 1,\n  "parent": null,\n  "architecture": "lenet5",\n'
        '  "alphabet": "ab",\n  "created": "2026-01-02T03:04:05+00:00",\n  "files": {\n'
        f'    "weights.safetensors": "{SHA}",\n    "sketch.safetensors": "{SHA}"\n  }},\n'
        '  "validation": {},\n  "format": 1\n}\n'
    )
    manifest = Manifest.parse(content.encode(), "here")
    assert manifest.to_json() == content
    assert (manifest.restores, manifest.privacy) == (None, {"epsilon": 0.0, "delta": 0.0})


def test_a_manifest_that_could_not_be_read_is_not_written() -> None:
    with pytest.raises(ValueError, match="JSON"):
        replace(PLAIN, validation={"accuracy": float("nan")}).to_json()
