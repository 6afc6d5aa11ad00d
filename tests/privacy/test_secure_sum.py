import os
import random
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import chisquare

from fedhw.errors import InputError
from fedhw.privacy.secret_sharing import Share, combine
from fedhw.privacy.secure_sum import (
    Keys,
    Masked,
    Shared,
    SumError,
    Terms,
    advertise,
    bits_for,
    degree,
    graph,
    mask,
    reveal,
    share,
    threshold,
    unmask,
)
from fedhw.release.signing import ReleaseKey

RELEASE_KEY = ReleaseKey(Ed25519PrivateKey.generate())
AUTHORITY = RELEASE_KEY.public

SHARE, MASK, REVEAL, NEVER = range(4)
"""The step that a device does not take any more."""


@cache
def enrolled(device: str) -> tuple[Ed25519PrivateKey, bytes]:
    key = Ed25519PrivateKey.generate()
    return key, RELEASE_KEY.certify(device, key.public_key().public_bytes_raw())


def cohort(size: int) -> list[str]:
    return [f"pen-{number}" for number in range(size)]


def terms_of(entries: int = 5, bits: int = 16, minimum: int = 2) -> Terms:
    return Terms(os.urandom(16), entries, bits, minimum, b"round 7")


class Transcript(NamedTuple):
    """All that the server has of one sum, and what the devices keep."""

    terms: Terms
    graph: dict[str, tuple[str, ...]]
    keys: dict[str, Keys]
    shared: dict[str, Shared]
    masked: dict[str, bytes]
    states: dict[str, Masked]

    def survivors(self, device: str) -> list[str]:
        return [peer for peer in self.states[device].held if peer in self.masked]

    def revealed(self, by: Collection[str]) -> dict[str, dict[str, Share]]:
        return {device: reveal(self.states[device], self.survivors(device)) for device in by}

    def unmask(self, shares: Mapping[str, Mapping[str, Share]]) -> NDArray[np.int64]:
        return unmask(self.terms, self.graph, self.keys, self.masked, shares)


def until_masked(
    terms: Terms,
    vectors: Mapping[str, NDArray[np.int64]],
    gone: Mapping[str, int],
    dropped: float = 0.3,
) -> Transcript:
    """Run a sum as far as the masked vectors; `gone` says which step some devices miss first."""
    begun = {device: advertise(terms, device, *enrolled(device)) for device in vectors}
    drawn = graph(list(vectors), terms.minimum, dropped)
    some = [device for device in vectors if gone.get(device, NEVER) > SHARE]
    shared, boxes = {}, {}
    for device in some:
        neighbours = [begun[peer][1] for peer in drawn[device]]
        shared[device], boxes[device] = share(begun[device][0], neighbours, AUTHORITY, 2)
    states, masked = {}, {}
    for device in some:
        if gone.get(device, NEVER) > MASK:
            envelopes = {peer: boxes[peer][device] for peer in drawn[device] if peer in boxes}
            states[device], masked[device] = mask(shared[device], vectors[device], envelopes)
    keys = {device: begun[device][1] for device in some}
    return Transcript(terms, drawn, keys, shared, masked, states)


def secure_sum(
    terms: Terms,
    vectors: Mapping[str, NDArray[np.int64]],
    gone: Mapping[str, int],
    dropped: float = 0.3,
) -> NDArray[np.int64]:
    transcript = until_masked(terms, vectors, gone, dropped)
    there = [device for device in transcript.masked if gone.get(device, NEVER) > REVEAL]
    return transcript.unmask(transcript.revealed(there))


def drawn_vectors(devices: Sequence[str], entries: int, seed: int) -> dict[str, NDArray[np.int64]]:
    generator = np.random.default_rng(seed)
    whole = np.iinfo(np.int64)
    return {
        device: generator.integers(whole.min, whole.max, entries, endpoint=True)
        for device in devices
    }


def plain_sum(vectors: Collection[NDArray[np.int64]], bits: int) -> list[int]:
    """What the sum must be: Python's integers, the residue nearest to zero, -2**(bits-1) if two."""
    totals = [sum(column) for column in zip(*(v.tolist() for v in vectors), strict=True)]
    half = 2 ** (bits - 1)
    return [(total + half) % 2**bits - half for total in totals]


@given(st.data())
def test_the_sum_is_exact_or_there_is_none_whoever_drops_out_when(data: st.DataObject) -> None:
    devices = cohort(data.draw(st.integers(3, 12)))
    gone = {
        device: data.draw(st.sampled_from([NEVER] * 5 + [SHARE, MASK, REVEAL]))
        for device in devices
    }
    bits, entries = data.draw(st.integers(2, 32)), data.draw(st.integers(1, 20))
    terms = terms_of(entries, bits, data.draw(st.integers(2, len(devices))))
    vectors = drawn_vectors(devices, entries, data.draw(st.integers(0, 2**32)))
    enough = threshold(len(devices))
    survivors = [device for device in devices if gone[device] > MASK]
    telling = [device for device in devices if gone[device] > REVEAL]
    if len(survivors) >= max(enough, terms.minimum) and len(telling) >= enough:
        assert secure_sum(terms, vectors, gone).tolist() == plain_sum(
            [vectors[device] for device in survivors], bits
        )
    else:
        with pytest.raises(SumError):
            secure_sum(terms, vectors, gone)


@pytest.mark.parametrize(("dropped", "lost"), [(0.3, 18), (0.1, 6)])
def test_sixty_devices_of_which_many_drop_out(dropped: float, lost: int) -> None:
    devices = cohort(60)
    gone = {device: number % 3 for number, device in enumerate(random.sample(devices, lost))}
    vectors = drawn_vectors(devices, 1000, 0)
    survivors = [device for device in devices if gone.get(device, NEVER) > MASK]
    assert secure_sum(terms_of(1000, 20, 10), vectors, gone, dropped).tolist() == plain_sum(
        [vectors[device] for device in survivors], 20
    )


@given(st.integers(1, 1000), st.integers(1, 2**20))
def test_a_sum_fits_in_its_bits_and_in_no_fewer(devices: int, largest: int) -> None:
    if devices * largest >= 2**31:
        with pytest.raises(InputError, match="give a smaller one"):
            bits_for(devices, largest)
        return
    bits = bits_for(devices, largest)
    assert devices * largest < 2 ** (bits - 1)
    assert bits == 2 or devices * largest >= 2 ** (bits - 2)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_sum_there_is_does_not_overflow(sign: int) -> None:
    devices, largest = cohort(5), 51
    terms = terms_of(3, bits_for(5, largest))
    vectors = {device: np.full(3, sign * largest) for device in devices}
    assert terms.bits == 9
    assert secure_sum(terms, vectors, {}).tolist() == [sign * 255] * 3


def test_what_is_masked_looks_like_noise() -> None:
    terms = terms_of(entries=66_126, bits=8)
    transcript = until_masked(terms, {d: np.full(66_126, 77) for d in cohort(4)}, {})
    vectors = [np.frombuffer(content, np.uint8) for content in transcript.masked.values()]
    first, second, *_ = vectors
    everything = sum(vectors[1:], start=first)
    for values in (*vectors, first - second, everything):
        assert chisquare(np.bincount(values, minlength=256)).pvalue > 1e-6
    sums = transcript.unmask(transcript.revealed(transcript.masked))
    assert sums.tolist() == [4 * 77 - 256] * 66_126


def test_what_is_revealed_gives_the_seeds_of_survivors_and_the_keys_of_the_dropped() -> None:
    devices = cohort(7)
    transcript = until_masked(terms_of(), drawn_vectors(devices, 5, 0), {"pen-3": MASK})
    shares = transcript.revealed(transcript.masked)
    assert all(
        told.keys() == set(devices) - ({"pen-3"} - {by}) | {"pen-3"} for by, told in shares.items()
    )
    for device in devices:
        state = transcript.shared[device]
        told = [shares[by][device] for by in shares][: threshold(7)]
        assert combine(told) == (state.mask_private if device == "pen-3" else state.seed)


def test_no_step_is_taken_twice() -> None:
    """Twice masked shows a difference of vectors, twice revealed both secrets of one neighbour."""
    terms, devices = terms_of(), cohort(4)
    begun = {device: advertise(terms, device, *enrolled(device)) for device in devices}
    boxes, states = {}, {}
    for device, (state, _) in begun.items():
        others = [keys for _, keys in begun.values() if keys.device != device]
        states[device], boxes[device] = share(state, others, AUTHORITY, 2)
        with pytest.raises(SumError, match="step was taken"):
            share(state, others, AUTHORITY, 2)
    envelopes = {peer: boxes[peer]["pen-0"] for peer in devices[1:]}
    last, _ = mask(states["pen-0"], np.zeros(5, np.int64), envelopes)
    with pytest.raises(SumError, match="step was taken"):
        mask(states["pen-0"], np.ones(5, np.int64), envelopes)
    reveal(last, devices[1:])
    with pytest.raises(SumError, match="step was taken"):
        reveal(last, devices[1:3])


@pytest.mark.parametrize(
    ("survivors", "told"),
    [
        (["pen-1", "pen-2", "pen-3", "stranger"], "not a neighbour that has shared"),
        (["pen-0", "pen-1", "pen-2", "pen-3"], "not a neighbour that has shared"),
        (["pen-1", "pen-2", "pen-3", "pen-5"], "not a neighbour that has shared"),
        (["pen-1", "pen-2"], "3 are left with this one and 4 are needed"),
        (["pen-1", "pen-2", "pen-2", "pen-2"], "3 are left with this one and 4 are needed"),
    ],
)
def test_a_list_of_survivors_that_cannot_be_is_told_nothing(
    survivors: list[str], told: str
) -> None:
    vectors = drawn_vectors(cohort(6), 5, 0)
    transcript = until_masked(terms_of(), vectors, {"pen-5": SHARE})
    with pytest.raises(SumError, match=told):
        reveal(transcript.states["pen-0"], survivors)


def test_fewer_survivors_than_the_minimum_are_told_nothing() -> None:
    transcript = until_masked(terms_of(minimum=6), drawn_vectors(cohort(6), 5, 0), {})
    with pytest.raises(SumError, match="5 are left with this one and 6 are needed"):
        reveal(transcript.states["pen-0"], cohort(5)[1:])
    shares = transcript.revealed(cohort(6)[1:])
    del transcript.masked["pen-0"]
    with pytest.raises(SumError, match="5 is below the minimum 6"):
        transcript.unmask(shares)


def neighbours_of(terms: Terms, devices: Sequence[str]) -> list[Keys]:
    return [advertise(terms, device, *enrolled(device))[1] for device in devices]


@pytest.mark.parametrize("minimum", [2, 5])
def test_a_device_hides_among_as_many_as_it_wants_to(minimum: int) -> None:
    terms = terms_of(minimum=minimum)
    others = neighbours_of(terms, cohort(4)[1:])
    enough = min(minimum, len(others) + 1)
    state, _ = advertise(terms, "pen-0", *enrolled("pen-0"))
    with pytest.raises(SumError, match=f"hides among {enough + 1} or more"):
        share(state, others, AUTHORITY, enough + 1)
    state, _ = advertise(terms, "pen-0", *enrolled("pen-0"))
    assert share(state, others, AUTHORITY, enough)[1].keys() == {"pen-1", "pen-2", "pen-3"}
    state, _ = advertise(terms, "pen-0", *enrolled("pen-0"))
    with pytest.raises(SumError, match="wait for more"):
        share(state, [], AUTHORITY, 0)


@pytest.mark.parametrize("again", ["pen-0", "pen-1"])
def test_a_device_is_named_once(again: str) -> None:
    terms = terms_of()
    state, _ = advertise(terms, "pen-0", *enrolled("pen-0"))
    with pytest.raises(SumError, match="there twice"):
        share(state, neighbours_of(terms, ["pen-1", "pen-2", again]), AUTHORITY, 2)


@given(st.sampled_from(Keys._fields), st.binary(max_size=64))
def test_keys_are_signed_whole(field: str, other: bytes) -> None:
    terms = terms_of()
    state, _ = advertise(terms, "pen-0", *enrolled("pen-0"))
    sound, keys = neighbours_of(terms, ["pen-1", "pen-2"])
    forged = keys._replace(**{field: other.hex() if field == "device" else other})
    with pytest.raises(SumError, match="are not signed for this sum by a device of the fleet"):
        share(state, [sound, forged], AUTHORITY, 2)


def test_keys_of_a_stranger_or_another_sum_are_refused() -> None:
    terms = terms_of()
    sound, victim = neighbours_of(terms, ["pen-1", "pen-2"])
    # The server knows every certificate and sits in the middle with keys of its own.
    stranger = Ed25519PrivateKey.generate()
    _, unenrolled = advertise(terms, "pen-2", stranger, victim.certificate)
    _, borrowed = advertise(terms, "pen-2", *enrolled("pen-1"))
    [earlier] = neighbours_of(terms_of(), ["pen-2"])
    middle = victim._replace(mask_key=sound.mask_key, share_key=sound.share_key)
    for forged in (unenrolled, borrowed, earlier, middle):
        state, _ = advertise(terms, "pen-0", *enrolled("pen-0"))
        with pytest.raises(SumError, match="those of 'pen-2' are not signed"):
            share(state, [sound, forged], AUTHORITY, 2)
    state, _ = advertise(terms, "pen-0", *enrolled("pen-0"))
    other = ReleaseKey(Ed25519PrivateKey.generate()).public
    with pytest.raises(SumError, match="those of 'pen-1' are not signed"):
        share(state, [sound, victim], other, 2)


def test_a_signed_key_that_agrees_on_nothing_is_refused() -> None:
    """X25519 with a point of small order gives a secret that everybody knows: zero."""
    terms = terms_of()
    report_key, certificate = enrolled("pen-1")
    _, keys = advertise(terms, "pen-1", report_key, certificate)
    signed = b"fedhw sum 1:" + terms.digest + keys.mask_key + bytes(32) + b"pen-1"
    keys = keys._replace(share_key=bytes(32), signature=report_key.sign(signed))
    state, _ = advertise(terms, "pen-0", *enrolled("pen-0"))
    with pytest.raises(SumError, match="not signed for this sum by a device"):
        share(state, [keys], AUTHORITY, 2)


def envelopes_to_pen_0(
    terms: Terms,
) -> tuple[Shared, dict[str, bytes], dict[str, dict[str, bytes]]]:
    begun = {device: advertise(terms, device, *enrolled(device)) for device in cohort(3)}
    states, boxes = {}, {}
    for device, (state, _) in begun.items():
        others = [keys for _, keys in begun.values() if keys.device != device]
        states[device], boxes[device] = share(state, others, AUTHORITY, 2)
    return states["pen-0"], {peer: boxes[peer]["pen-0"] for peer in ("pen-1", "pen-2")}, boxes


@given(st.integers(0, 95), st.integers(0, 7))
def test_no_bit_of_an_envelope_may_be_another(byte: int, bit: int) -> None:
    state, envelopes, _ = envelopes_to_pen_0(terms_of())
    damaged = bytearray(envelopes["pen-1"])
    assert len(damaged) == 96
    damaged[byte] ^= 1 << bit
    with pytest.raises(SumError, match="that of pen-1 is damaged"):
        mask(state, np.zeros(5, np.int64), {**envelopes, "pen-1": bytes(damaged)})


def test_an_envelope_is_from_one_device_to_one_other() -> None:
    for sender, receiver in (("pen-2", "pen-0"), ("pen-1", "pen-2"), ("pen-0", "pen-1")):
        state, envelopes, boxes = envelopes_to_pen_0(terms_of())
        with pytest.raises(SumError, match="that of pen-1 is damaged"):
            mask(state, np.zeros(5, np.int64), {**envelopes, "pen-1": boxes[sender][receiver]})
    for content in (b"", bytes(12), bytes(28)):
        state, envelopes, _ = envelopes_to_pen_0(terms_of())
        with pytest.raises(SumError, match="that of pen-1 is damaged"):
            mask(state, np.zeros(5, np.int64), {**envelopes, "pen-1": content})
    state, envelopes, _ = envelopes_to_pen_0(terms_of())
    with pytest.raises(SumError, match="not a neighbour"):
        mask(state, np.zeros(5, np.int64), {**envelopes, "stranger": envelopes["pen-1"]})


@pytest.mark.parametrize("vector", [np.zeros(4, np.int64), np.zeros((5, 1), np.int64), np.zeros(5)])
def test_a_vector_of_another_shape_is_one_sentence(vector: NDArray[np.int64]) -> None:
    state, envelopes, _ = envelopes_to_pen_0(terms_of())
    with pytest.raises(InputError, match=r"is not int64 \[5\]; give one"):
        mask(state, vector, envelopes)


def test_shares_that_are_false_or_missing_halt_the_sum() -> None:
    devices = cohort(6)
    transcript = until_masked(terms_of(), drawn_vectors(devices, 5, 0), {"pen-5": MASK})
    shares = transcript.revealed(transcript.masked)
    sound = transcript.unmask(shares)
    point, value = shares["pen-0"]["pen-5"]
    for false, told in (
        (Share(point, value[:-1] + bytes([value[-1] ^ 1])), "give another key"),
        (Share(point, value[:-1]), "those of pen-5 are damaged"),
        (Share(0, value), "those of pen-5 are damaged"),
        (shares["pen-1"]["pen-5"], "those of pen-5 are damaged"),
    ):
        with pytest.raises(SumError, match=told):
            transcript.unmask({**shares, "pen-0": {**shares["pen-0"], "pen-5": false}})
    without = {by: {**told} for by, told in shares.items()}
    del without["pen-0"]["pen-5"]
    assert transcript.unmask(without).tolist() == sound.tolist()
    del without["pen-1"]["pen-5"]
    with pytest.raises(SumError, match="3 are there of pen-5 and 4 are needed"):
        transcript.unmask(without)
    transcript.masked["pen-0"] += b"\0"
    with pytest.raises(SumError, match="are not a vector of the sum"):
        transcript.unmask(shares)


def test_terms_are_of_one_sum() -> None:
    terms = Terms(bytes(16), 5, 16, 2, b"")
    others = [
        Terms(b"\1" + bytes(15), 5, 16, 2, b""),
        Terms(bytes(16), 6, 16, 2, b""),
        Terms(bytes(16), 5, 17, 2, b""),
        Terms(bytes(16), 5, 16, 3, b""),
        Terms(bytes(16), 5, 16, 2, b"\0"),
    ]
    assert len({other.digest for other in (terms, *others)}) == 6
    assert Terms(bytes(16), 5, 16, 2, b"").digest == terms.digest


@pytest.mark.parametrize(
    ("field", "value"),
    [("sum", bytes(15)), ("entries", 0), ("bits", 1), ("bits", 33), ("minimum", 1)],
)
def test_terms_out_of_range_are_one_sentence(field: str, value: object) -> None:
    sound: dict[str, object] = {"sum": bytes(16), "entries": 1, "bits": 2, "minimum": 2}
    with pytest.raises(InputError, match=f"^{field}: "):
        Terms(**{**sound, field: value}, context=b"")  # type: ignore[arg-type]


def test_a_state_does_not_show_itself() -> None:
    transcript = until_masked(terms_of(), drawn_vectors(cohort(3), 5, 0), {})
    state = transcript.shared["pen-0"]
    shown = repr(state) + repr(transcript.states["pen-0"])
    for secret in (state.seed, state.mask_private, state.share_private, state.own.value):
        assert repr(secret) not in shown
        assert secret.hex() not in shown


def test_no_third_of_the_holders_helps_a_server_to_both_secrets() -> None:
    for holders in range(2, 1000):
        assert threshold(holders) <= holders
        colluding = (holders - 1) // 3
        # Each honest one tells of one secret, each that colludes of both.
        assert holders + colluding < 2 * threshold(holders)


def test_a_complete_graph_withstands_the_loss_of_three_in_ten() -> None:
    for devices in range(2, 1000):
        assert devices - 3 * devices // 10 >= threshold(devices)


@given(st.integers(2, 80), st.sampled_from([0.0, 0.1, 0.2, 0.3]))
def test_a_graph_has_as_many_neighbours_for_all_and_both_know_it(size: int, dropped: float) -> None:
    devices = cohort(size)
    drawn = graph(devices, 2, dropped)
    assert drawn.keys() == set(devices)
    for device, neighbours in drawn.items():
        assert len(set(neighbours)) == len(neighbours) == degree(size, 2, dropped)
        assert device not in neighbours
        assert all(device in drawn[neighbour] for neighbour in neighbours)


@pytest.mark.parametrize(("dropped", "size"), [(0.0, 200), (0.1, 100), (0.2, 100), (0.3, 200)])
def test_a_sparse_graph_withstands_what_it_was_drawn_for(dropped: float, size: int) -> None:
    devices = cohort(size)
    assert degree(size, 10, dropped) < size - 1
    for _ in range(20):
        drawn = graph(devices, 10, dropped)
        lost = set(random.sample(devices, round(dropped * size)))
        colluding = set(random.sample(devices, size // 10))
        for neighbours in drawn.values():
            holders = len(neighbours) + 1
            assert len(set(neighbours) - lost) >= max(10, threshold(holders))
            assert holders + len(colluding & set(neighbours)) < 2 * threshold(holders)
        left = set(devices) - lost - colluding
        reached, edge = set(), {min(left)}
        while edge:
            reached |= edge
            edge = {peer for device in edge for peer in drawn[device]} & left - reached
        assert reached == left


def test_the_degree_grows_with_what_may_be_lost() -> None:
    degrees = [degree(100, 10, share) for share in (0.05, 0.1, 0.2, 0.3)]
    assert degrees == sorted(degrees)
    assert degree(50, 10, 0.16) > 10
    assert degree(10, 10, 0.3) == 9
    assert degree(400, 10, 0.1) < 100


def test_the_order_of_a_graph_is_drawn() -> None:
    devices = cohort(100)
    assert len({tuple(graph(devices, 2, 0.1)["pen-0"]) for _ in range(5)}) == 5


def test_a_cohort_under_the_minimum_has_no_graph() -> None:
    with pytest.raises(SumError, match="2 is below the minimum 3"):
        graph(cohort(2), 3)
