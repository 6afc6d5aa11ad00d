"""Peers do the same work: from one task, fedhw and plain torch come to the same average."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from fedhw.experts.global_expert import build
from fedhw.improvement.local_update import flat
from tests.places import ROOT

PEERS = ROOT / "benchmarks" / "peers"


def average(peer: str, folder: Path) -> np.ndarray:
    """Let a peer do the task in a folder, and return the weights that it comes to."""
    ran = subprocess.run(
        [sys.executable, PEERS / peer, "averaging", folder],
        env=os.environ | {"PROCESSES": "1", "OMP_NUM_THREADS": "1"},
        cwd=folder,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    answer = json.loads(ran.stdout.splitlines()[-1])
    assert len(answer["seconds"]) == 2
    assert min(answer["seconds"]) > 0
    return np.load(folder / "weights.npy")


def test_fedhw_and_bare_torch_average_to_the_same_weights(tmp_path: Path) -> None:
    random, start = np.random.default_rng(0), flat(build("lenet5", 62))
    np.savez(
        tmp_path / "averaging.npz",
        images=random.integers(0, 256, (3, 12, 28, 28), np.uint8),
        labels=random.integers(0, 62, (3, 12)),
        weights=start,
        sizes=(2, 3, 2),
        batch=4,
        rate=0.1,
    )
    bare, ours = (average(f"{peer}.py", tmp_path) for peer in ("bare_torch", "fedhw_peer"))
    assert np.abs(bare - start).max() > 1e-2
    np.testing.assert_allclose(ours, bare, atol=1e-5)
