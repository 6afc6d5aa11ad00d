import urllib.request

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from fedhw_client.agent.agent_metrics import Metrics
from fedhw_client.agent.correction import Correction

GLYPH = np.eye(28, dtype=np.uint8) * 255


def test_prometheus_reads_counts_and_never_content(agent):
    metrics = Metrics(agent)
    port = metrics.serve(0)
    agent.recognize(GLYPH)
    agent.learn([Correction(GLYPH, "Q"), Correction(GLYPH, "Q")])
    metrics.observe(0.0007)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        families = {f.name: f for f in text_string_to_metric_families(answer.read().decode())}
    values = {name: family.samples[0].value for name, family in families.items()}
    assert values["fedhw_device_recognitions"] == 1
    assert values["fedhw_device_corrections"] == 2
    assert values["fedhw_device_kept"] == 2
    assert values["fedhw_device_store_bytes"] > 0
    seconds = families["fedhw_device_recognition_seconds"].samples
    assert {s.labels["le"]: s.value for s in seconds if "le" in s.labels}["0.0005"] == 0
    assert {s.labels["le"]: s.value for s in seconds if "le" in s.labels}["0.001"] == 1
    labels = {name for family in families.values() for s in family.samples for name in s.labels}
    assert labels == {"le", "release"}
