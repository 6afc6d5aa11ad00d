import json
import string
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhw.errors import InputError
from fedhw.handwriting.glyph import GLYPH
from fedhw.observation import DTYPES, MAX_LABELS, Labels, ObservationType
from fedhw.release.manifest import FOR_DEVICES, FOR_RESEARCH, MAX_MANIFEST_BYTES, Manifest

SHA = "0123456789abcdef" * 4
PLAIN = Manifest(
    version=3,
    parent=2,
    restores=1,
    architecture="lenet5",
    observation=ObservationType((49, 32), "float32"),
    labels=Labels(("one", "two", "seven")),
    created="2026-01-02T03:04:05+00:00",
    files=dict.fromkeys((*FOR_DEVICES, *FOR_RESEARCH), SHA),
    validation={"generic_accuracy": 0.75, "generic_characters": 100},
    privacy={"epsilon": 2.0, "delta": 1e-6},
)

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=64)
texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=64)
values = st.lists(st.none() | st.booleans() | names | st.lists(st.integers()), max_size=3)
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
        observation=ObservationType(
            tuple(draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))),
            draw(st.sampled_from(DTYPES)),
        ),
        labels=Labels(tuple(draw(st.sets(texts, min_size=1, max_size=20)))),
        created=draw(st.datetimes(timezones=st.timezones())).isoformat(),
        files={
            name: draw(st.text("0123456789abcdef", min_size=64, max_size=64))
            for name in draw(st.permutations((*FOR_DEVICES, *FOR_RESEARCH, "part-a.bin")))
        },
        validation=draw(st.dictionaries(names, figures, max_size=5)),
        privacy={name: abs(draw(figures)) for name in draw(st.permutations(["epsilon", "delta"]))},
        parts={"a": {"required": False, "file": "part-a.bin"}}
        | {f"b{i}": {"required": False, "value": value} for i, value in enumerate(draw(values))},
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
        ("observation", [28, 28]),
        ("observation", {"shape": [28, 28]}),
        ("observation", {"shape": "28", "dtype": "uint8"}),
        ("labels", "abc"),
        ("labels", {"a": 0}),
        ("parts", []),
        ("parts", {"Wrong name": {"required": False, "value": 1}}),
        ("parts", {"a": {"required": False}}),
        ("parts", {"a": {"required": 1, "value": 1}}),
        ("parts", {"a": {"required": False, "value": 1, "file": "part-a"}}),
        ("parts", {"a": {"required": False, "file": "../part-a"}}),
        ("parts", {"a": {"required": False, "file": "weights.safetensors"}}),
        ("files", PLAIN.files | {"part-a": SHA}),
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
    ("field", "value", "sentence"),
    [
        ("observation", {"shape": [0], "dtype": "uint8"}, r"observation: shape \[0\] is not"),
        ("observation", {"shape": [[]], "dtype": "uint8"}, r"observation: shape \[\[\]\] is not"),
        ("observation", {"shape": [2**40], "dtype": "uint8"}, "observation: .* bytes, over"),
        ("observation", {"shape": [2], "dtype": "object"}, "observation: dtype object is not"),
        ("observation", {"shape": [2], "dtype": None}, "observation: dtype None is not"),
        ("labels", [], "labels: 0 is not 1 to 65536"),
        ("labels", [str(i) for i in range(MAX_LABELS + 1)], "labels: 65537 is not 1 to 65536"),
        ("labels", ["a", 7], r"labels\[1\]: 7 is not a text"),
        ("labels", ["a", ""], r"labels\[1\]: '' is not a text"),
        ("labels", ["a", "b", "a"], r"labels\[2\]: 'a' is also labels\[0\]"),
        ("labels", ["a\n"], r"labels\[0\]: .* has a control character"),
        ("labels", ["\ud800"], r"labels\[0\]: .* has a lone surrogate"),
        ("parts", {"pen": {"required": True, "value": 1}}, "requires the part 'pen', .* update"),
    ],
)
def test_what_a_release_cannot_take_or_call_is_told(
    field: str, value: object, sentence: str
) -> None:
    content = json.dumps(json.loads(PLAIN.to_json()) | {field: value}, indent=2) + "\n"
    with pytest.raises(InputError, match=sentence):
        Manifest.parse(content.encode(), "here")


def test_the_most_labels_of_the_greatest_length_fit() -> None:
    labels = Labels(tuple(f"{i:05}" + "\U0001f600" * 59 for i in range(MAX_LABELS)))
    manifest = replace(PLAIN, labels=labels)
    assert Manifest.parse(manifest.to_json().encode(), "here") == manifest


def test_a_part_that_is_not_known_is_kept_and_its_file_travels() -> None:
    parts = {
        "prior": {"required": False, "file": "part-prior.npz"},
        "x": {"required": False, "value": [1]},
    }
    manifest = replace(PLAIN, parts=parts, files=PLAIN.files | {"part-prior.npz": SHA})
    again = Manifest.parse(manifest.to_json().encode(), "here")
    assert again.parts == parts
    assert again.for_devices == (*FOR_DEVICES, "part-prior.npz")


@pytest.mark.parametrize("value", ["NaN", '"\\ud800"', "[" * 9999 + "]" * 9999])
def test_a_part_that_cannot_be_written_again_is_refused(value: str) -> None:
    parts = {"x": {"required": False, "value": "here"}}
    content = replace(PLAIN, parts=parts).to_json().replace('"here"', value)
    with pytest.raises(InputError, match="fetch the release again"):
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
        (PLAIN.to_json().replace('"format": 3', '"format": 4'), "format 4 .* update fedhw"),
        (PLAIN.to_json().replace('"format": 3', '"format": 0'), "format 0 .* update fedhw"),
        (PLAIN.to_json().replace('"format": 3', '"format": 1'), "not a manifest"),
        (PLAIN.to_json().replace('"format": 3', '"format": true'), "not a manifest"),
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
    assert (manifest.observation, manifest.labels) == (GLYPH, Labels(("a", "b")))


def test_format_2_is_what_it_was() -> None:
    content = (
        '{\n  "version": 2,\n  "parent": 1,\n  "restores": null,\n  "architecture": "lenet5",\n'
        '  "alphabet": "aé字",\n  "created": "2026-01-02T03:04:05+00:00",\n  "files": {\n'
        f'    "weights.safetensors": "{SHA}",\n    "sketch.safetensors": "{SHA}"\n  }},\n'
        '  "validation": {},\n  "privacy": {\n    "epsilon": 2.0,\n    "delta": 1e-06\n  },\n'
        '  "format": 2\n}\n'
    )
    manifest = Manifest.parse(content.encode(), "here")
    assert manifest.to_json() == content
    assert manifest.digest == sha256(content.encode()).hexdigest()
    assert (manifest.observation, manifest.labels) == (GLYPH, Labels(("a", "é", "字")))
    assert manifest.parts == {}


@pytest.mark.parametrize("more", ["observation", "labels", "parts"])
def test_an_older_format_has_nothing_of_the_newer(more: str) -> None:
    content = json.loads(replace(PLAIN, format=2, labels=Labels(("a",))).to_json()) | {more: {}}
    with pytest.raises(InputError, match="not a manifest"):
        Manifest.parse(json.dumps(content, indent=2).encode(), "here")


def test_a_manifest_that_could_not_be_read_is_not_written() -> None:
    with pytest.raises(ValueError, match="JSON"):
        replace(PLAIN, validation={"accuracy": float("nan")}).to_json()
