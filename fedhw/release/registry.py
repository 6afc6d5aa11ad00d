"""The releases that a coordinator has published: signed, in one directory, each under its name."""

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from fedhw.errors import InputError
from fedhw.release.manifest import FORMAT, MANIFEST, MAX_MANIFEST_BYTES, Manifest
from fedhw.release.release import Release, open_files, read_files
from fedhw.release.signing import ReleaseKey, SignatureError, verify
from fedhw.release.trial import try_out
from fedhw.system.atomic import replacing

SIGNATURE = "manifest.sig"
_NAME = re.compile(r"v([1-9][0-9]{0,9})-[0-9a-f]{8}")


class Parcel(NamedTuple):
    """A release as devices fetch it: the manifest, its signature, and files by name."""

    manifest: bytes
    signature: bytes
    files: dict[str, bytes]


class Registry:
    """The releases that were published with one key; several processes may use it at once.

    Versions only grow, so a device has one rule: take a version above the one in hand. A release is
    never changed or removed. Every method raises InputError when a file is damaged or was signed
    with another key, or when the disk fails.
    """

    def __init__(self, directory: Path, key: ReleaseKey) -> None:
        self._directory = directory
        self._key = key

    def versions(self) -> list[Manifest]:
        """Return all published manifests, the oldest first."""
        return [self._manifest(place) for _, place in sorted(self._places().items())]

    @property
    def latest(self) -> Manifest | None:
        """The newest manifest, None before anything was published."""
        places = self._places()
        return self._manifest(places[max(places)]) if places else None

    def manifest(self, version: int) -> Manifest:
        """Return a version's manifest; raises InputError for one that is not there."""
        return self._manifest(self._place(version))

    def release(self, version: int) -> Release:
        """Return a version; raises InputError for one that is not there."""
        place = self._place(version)
        self._manifest(place)
        return Release.load(place)

    def parcel(self, version: int) -> Parcel:
        """Return a version as devices fetch it; raises InputError for one that is not there."""
        place = self._place(version)
        manifest = self._manifest(place)
        signed = _content(place / MANIFEST), _content(place / SIGNATURE)
        return Parcel(*signed, read_files(place, manifest))

    def publish(self, directory: Path) -> Manifest:
        """Publish the release in a directory as the newest version.

        Raises InputError for one that cannot be loaded or fails when it is tried, that has other
        observations or labels than the fleet's corrections, or that has the same files as the
        newest version.
        """
        manifest = Manifest.load(directory / MANIFEST)
        files = read_files(directory, manifest)
        try_out(manifest.name, *open_files(manifest, files))
        return self._publish(replace(manifest, restores=None), files)

    def rollback(self, version: int) -> Manifest:
        """Publish an older version's files again, as the newest version.

        Raises InputError for a version that is not there or whose files are those of the newest.
        """
        manifest, place = self.manifest(version), self._place(version)
        return self._publish(replace(manifest, restores=version), read_files(place, manifest))

    def _publish(self, manifest: Manifest, files: dict[str, bytes]) -> Manifest:
        with self._locked():
            newest = self.latest
            if newest is not None:
                _check_follows(newest, manifest)
            published = replace(
                manifest,
                version=1 if newest is None else newest.version + 1,
                parent=None if newest is None else newest.version,
                format=FORMAT,
            )
            content = published.to_json().encode()
            signed = {MANIFEST: content, SIGNATURE: self._key.sign(content)}
            with replacing(self._directory / published.name, durable=True) as unfinished:
                unfinished.mkdir()
                for name, part in (signed | files).items():
                    (unfinished / name).write_bytes(part)
            return published

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes from publishing, and remove what their crashes have left."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            lock = os.open(self._directory / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                for unfinished in self._directory.glob(".v*-*.????????"):
                    shutil.rmtree(unfinished, ignore_errors=True)
                yield
            finally:
                os.close(lock)
        except OSError as error:
            raise InputError(
                f"registry: {self._directory} cannot be written ({error.strerror}); free some "
                "space or make it writable"
            ) from None

    def _places(self) -> dict[int, Path]:
        try:
            found = [(_NAME.fullmatch(place.name), place) for place in self._directory.iterdir()]
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise InputError(
                f"registry: {self._directory} cannot be read ({error.strerror}); give the "
                "directory that was published to"
            ) from None
        return {int(match[1]): place for match, place in found if match is not None}

    def _place(self, version: int) -> Path:
        places = self._places()
        if version not in places:
            known = ", ".join(map(str, sorted(places))) or "none yet"
            raise InputError(f"version: {version} was never published; give one of these: {known}")
        return places[version]

    def _manifest(self, place: Path) -> Manifest:
        content = _content(place / MANIFEST)
        try:
            verify(content, _content(place / SIGNATURE), self._key.public)
        except SignatureError:
            raise InputError(
                f"registry: {place} is damaged or was signed with another key; restore it, or give "
                "the key that it was published with"
            ) from None
        manifest = Manifest.parse(content, place / MANIFEST)
        if manifest.name != place.name:
            raise InputError(f"registry: {place} holds {manifest.name}; give it its name back")
        return manifest


def _check_follows(newest: Manifest, manifest: Manifest) -> None:
    for field in ("labels", "observation"):
        given, wanted = getattr(manifest, field), getattr(newest, field)
        if given != wanted:
            raise InputError(
                f"{field}: {given} is not the fleet's {wanted}; publish a release of the same, "
                "since people's corrections are in it"
            )
    if manifest.parts == newest.parts and all(
        manifest.files[name] == newest.files[name] for name in manifest.for_devices
    ):
        raise InputError(
            f"release: its files are those of {newest.name}, the newest; publish another one"
        )


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise InputError(
            f"registry: {path} cannot be read ({error.strerror}); restore it from a copy"
        ) from None
