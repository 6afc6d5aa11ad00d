"""What it costs to sum a global expert's 66,126 values so that nobody sees one device's.

    python benchmarks/secure_sum.py

All devices and the server in one process, one after another. Devices that drop out do so when their
shares are out, which is the dearest for the server. The peer, in the same run: numpy adds the same
vectors in the clear; for bytes, FedAvg with float32 in both directions. Ours include the global
expert that a device fetches, and are of the messages' fields, without a transport's frames.
"""

import os
import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from rich.console import Console
from rich.progress import track
from tables import show

from fedhw.privacy.secure_sum import (
    Terms,
    advertise,
    bits_for,
    degree,
    graph,
    mask,
    reveal,
    share,
    unmask,
)
from fedhw.release.signing import ReleaseKey

ENTRIES, LARGEST, MINIMUM = 66_126, 4095, 5
MODEL = 4 * ENTRIES
"""Bytes of it as float32."""

RUNS = [
    *((devices, lost, 0.3) for devices in (10, 50, 100, 200) for lost in (0.0, 0.3)),
    *((devices, 0.1, 0.1) for devices in (50, 100, 200)),
]
"""Devices, the share of them that drops out, and the share that the graph is drawn for."""


class Cost(NamedTuple):
    """Seconds of all devices, of the server and of numpy; bytes of one device up and down."""

    neighbours: int
    bits: int
    devices: float
    server: float
    numpy: float
    up: int
    down: int


def measure(devices: int, lost: float, planned: float) -> Cost:
    names = [f"pen-{number}" for number in range(devices)]
    release_key = ReleaseKey(Ed25519PrivateKey.generate())
    report_keys = {name: Ed25519PrivateKey.generate() for name in names}
    certificates = {
        name: release_key.certify(name, key.public_key().public_bytes_raw())
        for name, key in report_keys.items()
    }
    generator = np.random.default_rng(0)
    vectors = generator.integers(-LARGEST, LARGEST, (devices, ENTRIES), endpoint=True)
    terms = Terms(os.urandom(16), ENTRIES, bits_for(devices, LARGEST), MINIMUM, b"")
    survivors = names[round(lost * devices) :]

    began = time.perf_counter()
    begun = {name: advertise(terms, name, report_keys[name], certificates[name]) for name in names}
    of_devices = time.perf_counter() - began

    began = time.perf_counter()
    drawn = graph(names, MINIMUM, planned)
    of_server = time.perf_counter() - began

    began = time.perf_counter()
    shared = {
        name: share(begun[name][0], [begun[n][1] for n in drawn[name]], release_key.public, MINIMUM)
        for name in names
    }
    envelopes = {name: {peer: shared[peer][1][name] for peer in drawn[name]} for name in survivors}
    masked = {
        name: mask(shared[name][0], vector, envelopes[name])
        for name, vector in zip(survivors, vectors[-len(survivors) :], strict=True)
    }
    living = {name: [peer for peer in drawn[name] if peer in masked] for name in survivors}
    shares = {name: reveal(masked[name][0], living[name]) for name in survivors}
    of_devices += time.perf_counter() - began

    began = time.perf_counter()
    keys = {name: keys for name, (_, keys) in begun.items()}
    contents = {name: content for name, (_, content) in masked.items()}
    total = unmask(terms, drawn, keys, contents, shares)
    of_server += time.perf_counter() - began

    began = time.perf_counter()
    plain = vectors[-len(survivors) :].sum(0)
    of_numpy = time.perf_counter() - began
    assert np.array_equal(total, plain)

    last = names[-1]
    up = [keys[last], shared[last][1], contents[last], shares[last]]
    down = [[keys[peer] for peer in drawn[last]], envelopes[last], living[last]]
    return Cost(
        len(drawn[last]),
        terms.bits,
        of_devices,
        of_server,
        of_numpy,
        size(up),
        size(down) + MODEL,
    )


def size(message: object) -> int:
    """Return the bytes of all text, bytes and whole numbers in a message."""
    if isinstance(message, Mapping):
        return size([*message.keys(), *message.values()])
    if isinstance(message, str | bytes):
        return len(message)
    return sum(map(size, message)) if isinstance(message, Iterable) else 2


def main() -> None:
    degree(MINIMUM, MINIMUM, 0.3)  # scipy is imported
    rows = []
    for devices, lost, planned in track(RUNS, "sums", console=Console(stderr=True)):
        cost = measure(devices, lost, planned)
        rows.append(
            [
                *(devices, f"{lost:.0%}", f"{planned:.0%}", cost.neighbours, cost.bits),
                f"{cost.devices / devices * 1000:.0f}",
                f"{cost.server:.2f}",
                f"{cost.server / cost.numpy:.0f}",
                f"{cost.devices + cost.server:.2f}",
                f"{cost.up / 1000:.0f}",
                f"{cost.down / 1000:.0f}",
                f"{(cost.up + cost.down) / (2 * MODEL):.2f}",
            ]
        )
    show(
        [
            *("devices", "dropped", "drawn for", "degree", "bits an entry"),
            *("ms a device", "s on the server", "times numpy's sum", "s in all"),
            *("kB up", "kB down", "of FedAvg's bytes"),
        ],
        rows,
    )


if __name__ == "__main__":
    main()
