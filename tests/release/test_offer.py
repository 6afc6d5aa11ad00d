import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedhw.experts.global_expert import build
from fedhw.handwriting.glyph import GLYPH
from fedhw.observation import Labels, ObservationType
from fedhw.release.manifest import FOR_DEVICES, SKETCH, WEIGHTS, Manifest
from fedhw.release.offer import (
    MAX_RELEASE_BYTES,
    Refusal,
    RefusedError,
    State,
    verify_files,
    verify_offer,
)
from fedhw.release.release import Release, read_files
from fedhw.release.signing import ReleaseKey
from fedhw.v1 import release_pb2 as pb
from tests.release.conftest import Vary, largest_scale, too_large

KEY, OTHER = ReleaseKey(Ed25519PrivateKey.generate()), ReleaseKey(Ed25519PrivateKey.generate())


def offered(in_hand: Manifest, key: ReleaseKey = KEY, **changes: Any) -> Manifest:
    content = replace(in_hand, **changes).to_json().encode()
    return verify_offer(content, key.sign(content), KEY.public, in_hand)


def refusal(act: Callable[[], object]) -> Refusal:
    with pytest.raises(RefusedError) as caught:
        act()
    assert "\n" not in str(caught.value)
    return caught.value.reason


def test_words_are_those_of_the_wire() -> None:
    def word(name: str) -> str:
        return name.split("_", 1)[1].lower().replace("_", " ")

    assert {word(name) for name in pb.Adoption.keys()} == {*State, "unspecified"}  # noqa: SIM118
    assert {word(name) for name in pb.Refusal.keys()} == {*Refusal, "unspecified"}  # noqa: SIM118


def test_a_newer_release_may_be_taken_and_the_one_in_hand_is_known(release: Release) -> None:
    in_hand = replace(release.manifest, version=4)
    assert offered(in_hand, version=5).version == 5
    assert offered(in_hand, version=9, restores=2, parent=8).restores == 2
    assert offered(in_hand) == in_hand


@given(st.integers(0, 50), st.integers(0, 50))
def test_only_a_version_above_the_one_in_hand_is_taken(running: int, version: int) -> None:
    in_hand = replace(MANIFEST, version=running)
    if version > running:
        assert offered(in_hand, version=version, validation={}).version == version
    else:
        act = lambda: offered(in_hand, version=version, validation={})  # noqa: E731
        assert refusal(act) is Refusal.VERSION


MANIFEST = Manifest(
    version=1,
    parent=None,
    restores=None,
    architecture="lenet5",
    observation=GLYPH,
    labels=Labels.characters("abc"),
    created="2026-01-02T03:04:05+00:00",
    files=dict.fromkeys(FOR_DEVICES, "0" * 64),
    validation={"generic_accuracy": 0.75},
    privacy={"epsilon": 0.0, "delta": 0.0},
)


def test_a_release_from_before_there_were_registries_gives_way() -> None:
    old = replace(MANIFEST, version=1, format=1)
    content = MANIFEST.to_json().encode()
    assert verify_offer(content, KEY.sign(content), KEY.public, old).version == 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"version": 1}, Refusal.VERSION),
        ({"version": 3, "restores": 1, "labels": Labels.characters("abd")}, Refusal.ALPHABET),
        ({"version": 3, "labels": Labels.characters("abcd")}, Refusal.ALPHABET),
        ({"version": 3, "architecture": "vgg"}, Refusal.ARCHITECTURE),
        ({"version": 3, "files": {"../../etc/passwd": "0" * 64}}, Refusal.ARCHITECTURE),
        ({"version": True}, Refusal.ARCHITECTURE),
        ({"version": 3, "format": 4}, Refusal.ARCHITECTURE),
        ({"version": 3, "observation": ObservationType((28,), "uint8")}, Refusal.ALPHABET),
        ({"version": 3, "parts": {"x": {"required": True, "value": 1}}}, Refusal.ARCHITECTURE),
    ],
)
def test_each_reason_is_told_apart(changes: dict[str, Any], reason: Refusal) -> None:
    in_hand = replace(MANIFEST, version=2)
    assert refusal(lambda: offered(in_hand, **changes)) is reason


def test_nothing_is_read_before_the_signature_holds() -> None:
    for content in (b"", b"{", b"[" * 100_000, MANIFEST.to_json().encode()):
        for signature in (OTHER.sign(content), b"", KEY.sign(content + b" ")):
            act = lambda c=content, s=signature: verify_offer(c, s, KEY.public, MANIFEST)  # noqa: E731
            assert refusal(act) is Refusal.SIGNATURE
    # Signed, it is read, and only then found to be none.
    act = lambda: verify_offer(b"{", KEY.sign(b"{"), KEY.public, MANIFEST)  # noqa: E731
    assert refusal(act) is Refusal.ARCHITECTURE


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_byte_of_a_signed_manifest_may_be_another(data: st.DataObject) -> None:
    content = bytearray(replace(MANIFEST, version=2).to_json().encode())
    signature = KEY.sign(bytes(content))
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    act = lambda: verify_offer(bytes(content), signature, KEY.public, MANIFEST)  # noqa: E731
    assert refusal(act) is Refusal.SIGNATURE


@pytest.fixture(scope="module")
def files(release: Release) -> dict[str, bytes]:
    return read_files(release.directory, release.manifest)


def test_the_files_of_the_manifest_are_taken(release: Release, files: dict[str, bytes]) -> None:
    verify_files(release.manifest, files)


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
def test_no_byte_of_a_file_may_be_another(
    release: Release, files: dict[str, bytes], data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(FOR_DEVICES))
    altered = bytearray(files[name])
    at = data.draw(st.integers(0, len(altered) - 1))
    if data.draw(st.booleans()):
        altered[at] ^= data.draw(st.integers(1, 255))
    else:
        del altered[at:]
    act = lambda: verify_files(release.manifest, files | {name: bytes(altered)})  # noqa: E731
    assert refusal(act) is Refusal.FILES


def test_other_files_are_refused(release: Release, files: dict[str, bytes]) -> None:
    weights, sketch = (files[name] for name in FOR_DEVICES)
    for given_files in (
        {},
        {WEIGHTS: weights},
        files | {"extra.bin": b""},
        files | {"../weights.safetensors": weights},
        {WEIGHTS: sketch, SKETCH: weights},
        {f"./{name}": content for name, content in files.items()},
    ):
        act = lambda given=given_files: verify_files(release.manifest, given)  # noqa: E731
        assert refusal(act) is Refusal.FILES


def test_too_much_is_refused_before_it_is_looked_at(release: Release) -> None:
    act = lambda: verify_files(release.manifest, {WEIGHTS: bytes(MAX_RELEASE_BYTES + 1)})  # noqa: E731
    assert refusal(act) is Refusal.FILES


def not_a_number(tensors: dict[str, torch.Tensor]) -> None:
    tensors["head.bias"][7] = torch.nan


def infinite(tensors: dict[str, torch.Tensor]) -> None:
    tensors["scale"][7] = torch.inf


def other_type(tensors: dict[str, torch.Tensor]) -> None:
    tensors["head.bias"] = tensors["head.bias"].double()


def one_more(tensors: dict[str, torch.Tensor]) -> None:
    tensors["more"] = torch.zeros(1)


def one_less(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["head.bias"]


def float_steps(tensors: dict[str, torch.Tensor]) -> None:
    tensors["steps"] = tensors["steps"].float()


def one_step(tensors: dict[str, torch.Tensor]) -> None:
    tensors["steps"] = tensors["steps"][:1].clone()


def scalar_steps(tensors: dict[str, torch.Tensor]) -> None:
    tensors["steps"] = torch.tensor(1, dtype=torch.int8)


def narrow(tensors: dict[str, torch.Tensor]) -> None:
    tensors["steps"] = tensors["steps"][:, :80].clone()
    tensors["scale"] = tensors["scale"][:80].clone()


@pytest.mark.parametrize(
    "harm",
    [
        {"weights": not_a_number},
        {"weights": other_type},
        {"weights": one_more},
        {"weights": one_less},
        {"sketch": infinite},
        {"sketch": one_more},
        {"sketch": float_steps},
        {"sketch": one_step},
        {"sketch": scalar_steps},
        {"sketch": narrow},
        {"weights": too_large},
        {"sketch": largest_scale},
    ],
    ids=lambda harm: "-".join(f"{k}-{v.__name__}" for k, v in harm.items()),
)
def test_tensors_that_cannot_be_right_are_refused_though_hashed_honestly(
    vary: Vary, harm: dict[str, Any]
) -> None:
    directory = vary("harmed", **harm)
    manifest = Manifest.load(directory / "manifest.json")
    files = read_files(directory, manifest)
    assert refusal(lambda: verify_files(manifest, files)) is Refusal.FILES


def test_another_architecture_and_a_pickle_are_refused(
    release: Release, files: dict[str, bytes], tmp_path: Path
) -> None:
    pickled = tmp_path / "weights.pt"
    torch.save(release.expert.state_dict(), pickled)
    other = safetensors.torch.save(build("leaf-cnn", 62).state_dict())
    for content in (pickled.read_bytes(), other, b"", b"\xff" * 100, json.dumps({}).encode()):
        hashes = release.manifest.files | {WEIGHTS: sha256(content).hexdigest()}
        manifest = replace(release.manifest, files=hashes)
        act = lambda m=manifest, c=content: verify_files(m, files | {WEIGHTS: c})  # noqa: E731
        assert refusal(act) is Refusal.FILES


def test_what_travels_loads_without_what_stays(release_directory: Path, tmp_path: Path) -> None:
    for name in ("manifest.json", *FOR_DEVICES):
        shutil.copy(release_directory / name, tmp_path)
    assert Release.load(tmp_path).travelled
