"""Secure summation of integer vectors, modulo 2**bits: the server learns only the sum.

The protocol is that of Bonawitz et al. (2017, "Practical Secure Aggregation for Privacy-Preserving
Machine Learning", CCS, doi 10.1145/3133956.3133982) on the k-regular graph of Bell et al. (2020,
"Secure Single-Server Aggregation with (Poly)Logarithmic Overhead", CCS, doi
10.1145/3372297.3417885). Every message goes through the server; a device that does not answer has
dropped out. Device i has neighbours N(i). They and the device itself, h = |N(i)| + 1 holders, have
shares of its secrets; t = ceil(2 h / 3) shares give a secret.

    advertise  i: draws two X25519 pairs, s_i for masks and e_i for envelopes,
                  and sends both public halves, signed with its enrolled report key
               server: draws the graph, sends i the keys of N(i)
    share      i: checks certificates and signatures, draws a seed b_i, splits b_i and s_i (Shamir),
                  and sends each j in N(i) its two shares in an AES-GCM envelope under (e_i, e_j)
               server: passes the envelopes on
    mask       i: sends x_i + PRG(b_i) + sum over j of +-PRG(s_i, s_j) modulo 2**bits, over the
                  neighbours whose envelopes came, + where i < j and - where i > j
               server: says which of them have survived, at least t with i itself
    reveal     i: sends, of each neighbour, its share of b_j where j has survived, of s_j where not
    unmask     server: adds what was masked, subtracts every survivor's PRG(b_i), and the masks
                  between survivors and the dropped; those between survivors have cancelled

Protection. A server that follows the protocol and records everything, together with fewer than t of
the holders of each device's secrets, learns only the sum of the other survivors (Bonawitz section
6; Bell section 3, for the graph). The masks are as strong as X25519, HKDF-SHA256 and AES-256.

A server that deviates from it:
- cannot replace a device's keys by its own: they are signed for this sum, and the report key is
  certified by the release key;
- cannot get both b_j and s_j, which would reveal j's vector. An honest holder reveals one of them,
  once. To get both, the server must tell holders different things and needs 2 t shares of h + c,
  where c of the holders collude; 2 t > h + c as long as c < h / 3;
- can name living devices as dropped and withhold envelopes, differently for each device. An honest
  holder accepts at most h - t of h as dropped, so at most n (h - t) / t of n devices, which is
  half, can be removed, and each is masked with t - 1 others or more. If few collude, a sum has at
  least t - n / 2 devices: a sixth of them in a complete graph. Below 3 n / 4 neighbours there is no
  such bound, so that graph is for a server that is trusted to follow the protocol;
- can choose the participants, and add its own devices if it holds the release key. The certificates
  are only as good as the protection of that key, and `least` counts certified names.
A dishonest device can corrupt the sum unnoticed or halt it, but it cannot learn more than the sum.
What the sum itself reveals about one device is out of scope: noise is added before the protocol.
"""

import math
import os
import secrets
import struct
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from threading import Lock
from typing import NamedTuple

import numpy as np
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from fedhw.errors import InputError
from fedhw.privacy.secret_sharing import VALUE, Share, combine, split
from fedhw.release.signing import verify_device

SIGNED = b"fedhw sum 1:"
"""Prefix of everything that a report key signs here, so that the signature fits nothing else."""

BITS = (2, 32)
"""The least and the most bits of an entry."""

DROPPED = 0.3
"""The share of devices that may drop out, at any point of a sum."""

COLLUDING = 0.1
"""The share of devices that may collude with the server."""

HALTING, BREAKING = 2**-20, 2**-40
"""The highest probability that a graph halts a sum that loses no more devices than `DROPPED`, and
that it protects a device less than a complete graph would."""


class SumError(InputError):
    """A secure sum cannot continue; it ends without revealing anything."""


@dataclass(frozen=True)
class Terms:
    """The terms that all participants of a sum share; every signature and key is bound to them.

    `sum` is 16 random bytes that name the sum. Vectors have `entries` entries of `bits` bits; fewer
    than `minimum` survivors halt the sum. `context` is anything else that must be the same for all.
    Raises InputError where a value is out of range.
    """

    sum: bytes
    entries: int
    bits: int
    minimum: int
    context: bytes

    def __post_init__(self) -> None:
        if len(self.sum) != 16:
            raise InputError(f"sum: {len(self.sum)} bytes are not the name of a sum; draw 16")
        if not BITS[0] <= self.bits <= BITS[1]:
            raise InputError(f"bits: {self.bits} is out of range; give {BITS[0]} to {BITS[1]}")
        if self.minimum < 2:
            raise InputError(f"minimum: {self.minimum} would reveal one device; give 2 or more")
        if not 1 <= self.entries < 2**32:
            raise InputError(f"entries: {self.entries} is not a length; give 1 or more")

    @property
    def digest(self) -> bytes:
        """SHA-256 of all terms."""
        numbers = struct.pack(">3Q", self.entries, self.bits, self.minimum)
        return sha256(b"fedhw sum terms 1:" + self.sum + numbers + self.context).digest()


class Keys(NamedTuple):
    """The public keys of a device for one sum, 32 bytes each.

    `certificate` binds the `report_key` to its name, `signature` the other two to the report key
    and to the sum.
    """

    device: str
    report_key: bytes
    certificate: bytes
    mask_key: bytes
    share_key: bytes
    signature: bytes


@dataclass(frozen=True, eq=False, repr=False)
class _State:
    """The state of a device between two steps, valid for one step only.

    Two vectors under the same masks would reveal their difference, and two lists of survivors both
    secrets of a neighbour. So a step that was begun cannot be repeated, even if it was refused.
    """

    terms: Terms
    keys: Keys
    _taken: Lock = field(default_factory=Lock, init=False)

    def spend(self) -> None:
        if not self._taken.acquire(blocking=False):
            raise SumError("state: this step was taken; begin a new sum")


@dataclass(frozen=True, eq=False, repr=False)
class Advertised(_State):
    """The device after `advertise`."""

    mask_private: bytes
    share_private: bytes


@dataclass(frozen=True, eq=False, repr=False)
class Shared(_State):
    """The device after `share`: `own` is its share of its own seed."""

    mask_private: bytes
    share_private: bytes
    neighbours: Mapping[str, Keys]
    seed: bytes
    own: Share


@dataclass(frozen=True, eq=False, repr=False)
class Masked(_State):
    """The device after `mask`.

    `own` is its share of its own seed; `held` are its shares of each neighbour's mask key and seed.
    Of the device and its neighbours at least `least` must survive.
    """

    own: Share
    held: Mapping[str, tuple[Share, Share]]
    least: int


def bits_for(devices: int, largest: int) -> int:
    """Return the bits for a sum of this many entries from -largest to largest.

    Raises InputError where it needs more than 32.

    >>> bits_for(100, 5)
    10
    """
    bits = max(BITS[0], (devices * largest).bit_length() + 1)
    if bits > BITS[1]:
        raise InputError(
            f"largest: {largest} of {devices} devices sums to {bits} bits and {BITS[1]} are there; "
            "give a smaller one"
        )
    return bits


def threshold(holders: int) -> int:
    """Return how many shares give a secret: two thirds, rounded up."""
    return -(-2 * holders // 3)


def graph(
    devices: Sequence[str], minimum: int, dropped: float = DROPPED
) -> dict[str, tuple[str, ...]]:
    """Draw each device's neighbours: a Harary graph on a random order, complete if necessary.

    Raises SumError where there are fewer devices than the minimum.
    """
    if len(devices) < minimum:
        raise SumError(f"devices: {len(devices)} is below the minimum {minimum}; wait for more")
    order = list(devices)
    secrets.SystemRandom().shuffle(order)
    half, odd = divmod(degree(len(order), minimum, dropped), 2)
    if odd or 2 * half >= len(order) - 1:
        return {one: tuple(other for other in order if other != one) for one in order}
    ring = order * 3
    return {
        one: (*ring[place - half : place], *ring[place + 1 : place + half + 1])
        for place, one in enumerate(order, len(order))
    }


@lru_cache
def degree(devices: int, minimum: int, dropped: float) -> int:
    """Return the smallest sufficient number of neighbours, even or that of a complete graph.

    The shares `dropped` and COLLUDING of the devices, rounded up, are at random places in the
    order. With a probability of at most HALTING, some device has fewer surviving neighbours than
    the threshold or the minimum. With at most BREAKING, some device has enough colluding ones for
    a dishonest server to get both its secrets. Both are tails of the hypergeometric distribution,
    summed over all devices (Bell et al. 2020, section 3). The honest survivors are then connected:
    to separate them, two runs of half the degree must be missing, a probability below 1e-90.
    """
    from scipy.stats import hypergeom

    lost, told = math.ceil(dropped * devices), math.ceil(COLLUDING * devices)
    for k in range(2, devices - 1, 2):
        holders, enough = k + 1, threshold(k + 1)
        halting = hypergeom.sf(k - max(enough, minimum), devices - 1, lost, k)
        breaking = hypergeom.sf(2 * enough - holders - 1, devices - 1, told, k)
        if devices * halting <= HALTING and devices * breaking <= BREAKING:
            return k
    return devices - 1


def advertise(
    terms: Terms, device: str, report_key: Ed25519PrivateKey, certificate: bytes
) -> tuple[Advertised, Keys]:
    """Draw a device's keys for one sum and sign them."""
    mask_key, share_key = X25519PrivateKey.generate(), X25519PrivateKey.generate()
    keys = Keys(
        device,
        report_key.public_key().public_bytes_raw(),
        certificate,
        mask_key.public_key().public_bytes_raw(),
        share_key.public_key().public_bytes_raw(),
        b"",
    )
    keys = keys._replace(signature=report_key.sign(_signed(terms, keys)))
    private = mask_key.private_bytes_raw(), share_key.private_bytes_raw()
    return Advertised(terms, keys, *private), keys


def check_keys(terms: Terms, keys: Keys, authority: str) -> None:
    """Raise SumError unless these are a device's keys for this sum.

    `authority` is the release key, in hexadecimal, which certifies devices.
    """
    try:
        verify_device(keys.device, keys.report_key, keys.certificate, authority)
        report_key = Ed25519PublicKey.from_public_bytes(keys.report_key)
        report_key.verify(keys.signature, _signed(terms, keys))
        for key in (keys.mask_key, keys.share_key):  # fails for a point of low order
            X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(key))
    except (InvalidSignature, ValueError):
        raise SumError(
            f"keys: those of {keys.device[:64]!r} are not signed for this sum by a device of the "
            "fleet; leave it out"
        ) from None


def share(
    state: Advertised, neighbours: Sequence[Keys], authority: str, least: int
) -> tuple[Shared, dict[str, bytes]]:
    """Split the device's two secrets among its neighbours; returns an envelope for each.

    Raises SumError where the sum could have fewer than `least` devices, itself included, or one
    that `authority`, the release key in hexadecimal, has not certified.
    """
    state.spend()
    terms, device = state.terms, state.keys.device
    known = {keys.device: keys for keys in neighbours}
    if len(known) < len(neighbours) or device in known:
        raise SumError("neighbours: a device is there twice; name each once")
    if min(terms.minimum, len(known) + 1) < max(2, least):
        raise SumError(
            f"minimum: the sum has {terms.minimum} devices or more, {len(known)} neighbours, and "
            f"this device hides among {least} or more; wait for more"
        )
    for keys in neighbours:
        check_keys(terms, keys, authority)
    seed, holders = os.urandom(32), sorted((device, *known))
    t = threshold(len(holders))
    shares = zip(
        split(state.mask_private, t, len(holders)), split(seed, t, len(holders)), strict=True
    )
    held = dict(zip(holders, shares, strict=True))
    _, own = held.pop(device)
    envelopes = {}
    for name, (of_mask_key, of_seed) in held.items():
        nonce = os.urandom(12)
        letter = struct.pack(">H", of_seed.point) + of_mask_key.value + of_seed.value
        key = _agreed(terms, b"envelope", state.share_private, known[name].share_key, device, name)
        envelopes[name] = nonce + AESGCM(key).encrypt(nonce, letter, _between(terms, device, name))
    private = state.mask_private, state.share_private
    return Shared(terms, state.keys, *private, known, seed, own), envelopes


def mask(
    state: Shared, vector: NDArray[np.int64], envelopes: Mapping[str, bytes]
) -> tuple[Masked, bytes]:
    """Mask a vector, int64 [entries], modulo 2**bits; returns it packed to `bits` per entry.

    `envelopes` are those of the neighbours, by name; a neighbour without one has dropped out.
    Raises SumError where one is invalid or too few have arrived, and InputError where the vector
    has another shape.
    """
    state.spend()
    terms, device = state.terms, state.keys.device
    if vector.shape != (terms.entries,) or vector.dtype != np.int64:
        raise InputError(
            f"vector: {vector.dtype} {list(vector.shape)} is not int64 [{terms.entries}]; give one "
            "entry for each of the sum's"
        )
    least = max(threshold(len(state.neighbours) + 1), terms.minimum)
    _check_company(envelopes.keys(), state.neighbours.keys(), least)
    held = {name: _opened(state, name, envelope) for name, envelope in envelopes.items()}
    total = (vector & 0xFFFFFFFF).astype(np.uint32) + _seed_mask(terms, device, state.seed)
    for name in held:
        keys = state.neighbours[name]
        total += _pair_mask(terms, state.mask_private, keys.mask_key, device, name)
    return Masked(terms, state.keys, state.own, held, least), _packed(total, terms.bits)


def reveal(state: Masked, survivors: Collection[str]) -> dict[str, Share]:
    """Return a share of each neighbour's seed where it has survived, else of its mask key.

    The device's share of its own seed is included. `survivors` are the neighbours whose masked
    vectors have arrived. Raises SumError where one of them has sent no envelope, or where there are
    too few.
    """
    state.spend()
    _check_company(survivors, state.held.keys(), state.least)
    told = {
        name: of_seed if name in survivors else of_mask_key
        for name, (of_mask_key, of_seed) in state.held.items()
    }
    return {**told, state.keys.device: state.own}


def unmask(
    terms: Terms,
    graph: Mapping[str, Collection[str]],
    keys: Mapping[str, Keys],
    masked: Mapping[str, bytes],
    shares: Mapping[str, Mapping[str, Share]],
) -> NDArray[np.int64]:
    """Return the sum of the survivors' vectors, int64 [entries], exact where it fits in `bits`.

    All arguments are by device: the `graph`, the `keys` of devices whose envelopes were passed on,
    the `masked` vectors of the survivors, and the `shares` from `reveal`. Raises SumError where
    there are too few survivors or shares, or where one of them is invalid.
    """
    if len(masked) < terms.minimum:
        raise SumError(f"masked: {len(masked)} is below the minimum {terms.minimum}; wait for more")
    seeds = {device: _recovered(device, graph[device], shares) for device in masked}
    private = {}
    for device in keys.keys() - masked.keys():
        if not masked.keys().isdisjoint(graph[device]):
            private[device] = _recovered(device, graph[device], shares)
            public = X25519PrivateKey.from_private_bytes(private[device]).public_key()
            if public.public_bytes_raw() != keys[device].mask_key:
                raise SumError(f"shares: those of {device} give another key; begin a new sum")
    total = np.zeros(terms.entries, np.uint32)
    for device, content in masked.items():
        total += _unpacked(content, terms) - _seed_mask(terms, device, seeds[device])
        for gone in private.keys() & set(graph[device]):
            mask_key = keys[device].mask_key
            total -= _pair_mask(terms, private[gone], mask_key, device, gone)
    # Two's complement: the highest bit is the sign.
    unused = 32 - terms.bits
    return ((total << unused).view(np.int32) >> unused).astype(np.int64)


def _signed(terms: Terms, keys: Keys) -> bytes:
    return SIGNED + terms.digest + keys.mask_key + keys.share_key + keys.device.encode()


def _check_company(others: Collection[str], known: Collection[str], least: int) -> None:
    if not set(others) <= set(known):
        raise SumError("devices: one is not a neighbour that has shared; name only those")
    if (left := len(set(others)) + 1) < least:
        raise SumError(
            f"devices: {left} are left with this one and {least} are needed; begin a new sum"
        )


def _between(terms: Terms, sender: str, receiver: str) -> bytes:
    return terms.digest + sender.encode() + b"\0" + receiver.encode()


def _agreed(
    terms: Terms, purpose: bytes, private: bytes, public: bytes, sender: str, receiver: str
) -> bytes:
    """Return the 32-byte key of two devices for one purpose (X25519, RFC 7748; HKDF, RFC 5869)."""
    secret = X25519PrivateKey.from_private_bytes(private).exchange(
        X25519PublicKey.from_public_bytes(public)
    )
    return _derived(purpose, secret, _between(terms, sender, receiver))


def _derived(purpose: bytes, secret: bytes, context: bytes) -> bytes:
    return HKDF(SHA256(), 32, None, b"fedhw sum " + purpose + b":" + context).derive(secret)


def _opened(state: Shared, sender: str, envelope: bytes) -> tuple[Share, Share]:
    """Return this device's shares of a neighbour's mask key and seed."""
    terms, receiver = state.terms, state.keys.device
    public = state.neighbours[sender].share_key
    key = _agreed(terms, b"envelope", state.share_private, public, sender, receiver)
    try:
        letter = AESGCM(key).decrypt(
            envelope[:12], envelope[12:], _between(terms, sender, receiver)
        )
        point, of_mask_key, of_seed = struct.unpack(f">H{VALUE}s{VALUE}s", letter)
    except (InvalidTag, ValueError, struct.error):
        raise SumError(f"envelopes: that of {sender} is damaged; begin a new sum") from None
    return Share(point, of_mask_key), Share(point, of_seed)


def _seed_mask(terms: Terms, device: str, seed: bytes) -> NDArray[np.uint32]:
    return _expanded(_derived(b"seed", seed, terms.digest + device.encode()), terms.entries)


def _pair_mask(
    terms: Terms, private: bytes, public: bytes, device: str, peer: str
) -> NDArray[np.uint32]:
    """Return what `device` adds for `peer`, from the private key of either."""
    first, second = sorted((device, peer))
    drawn = _expanded(_agreed(terms, b"mask", private, public, first, second), terms.entries)
    return drawn if device == first else -drawn


def _expanded(key: bytes, entries: int) -> NDArray[np.uint32]:
    """Return the first words of AES-256 in counter mode; the key is used for nothing else."""
    stream = Cipher(AES(key), CTR(bytes(16))).encryptor().update(bytes(4 * entries))
    return np.frombuffer(stream, "<u4")


def _packed(words: NDArray[np.uint32], bits: int) -> bytes:
    columns = words.astype("<u4").view(np.uint8).reshape(-1, 4)
    lowest = np.unpackbits(columns, axis=1, count=bits, bitorder="little")
    return np.packbits(lowest, bitorder="little").tobytes()


def _unpacked(content: bytes, terms: Terms) -> NDArray[np.uint32]:
    used = terms.entries * terms.bits
    if len(content) != -(-used // 8):
        raise SumError(f"masked: {len(content)} bytes are not a vector of the sum; begin a new sum")
    flat = np.unpackbits(np.frombuffer(content, np.uint8), count=used, bitorder="little")
    columns = np.zeros((terms.entries, 4), np.uint8)
    packed = np.packbits(flat.reshape(-1, terms.bits), axis=1, bitorder="little")
    columns[:, : packed.shape[1]] = packed
    return columns.view("<u4").ravel()


def _recovered(
    device: str, neighbours: Collection[str], shares: Mapping[str, Mapping[str, Share]]
) -> bytes:
    """Return a device's secret from the first shares that are enough."""
    holders = sorted((device, *neighbours))
    found = [shares[name][device] for name in holders if device in shares.get(name, ())]
    enough = threshold(len(holders))
    if len(found) < enough:
        raise SumError(
            f"shares: {len(found)} are there of {device} and {enough} are needed; begin a new sum"
        )
    try:
        return combine(found[:enough])
    except ValueError:
        raise SumError(f"shares: those of {device} are damaged; begin a new sum") from None
