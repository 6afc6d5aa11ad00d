"""The manifests against the schemas of Kubernetes, and what they promise."""

import subprocess
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.places import DEPLOY

MANIFESTS = DEPLOY / "kubernetes"


def written() -> list[dict[str, Any]]:
    """The documents of the files that the kustomization names."""
    files = yaml.safe_load((MANIFESTS / "kustomization.yaml").read_text("utf-8"))["resources"]
    return [doc for name in files for doc in yaml.safe_load_all((MANIFESTS / name).read_text())]


def one(kind: str, name: str) -> dict[str, Any]:
    (found,) = (doc for doc in written() if (doc["kind"], doc["metadata"]["name"]) == (kind, name))
    return found


def container() -> dict[str, Any]:
    (only,) = one("StatefulSet", "coordinator")["spec"]["template"]["spec"]["containers"]
    return only


def test_every_file_is_named():
    files = yaml.safe_load((MANIFESTS / "kustomization.yaml").read_text("utf-8"))["resources"]
    assert {*files, "kustomization.yaml"} == {path.name for path in MANIFESTS.iterdir()}


@pytest.mark.parametrize("version", ["1.28", "1.32", "1.36"])
def test_manifests_fit_the_schemas(version: str):
    for document in written():
        kubernetes_validate.validate(document, version, strict=True)
    wrong = one("Service", "devices") | {"spec": {"ports": [{"port": "nine"}]}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, version, strict=True)


@pytest.mark.needs("kubectl")
def test_kustomize_puts_them_together():
    command = ["kubectl", "kustomize", MANIFESTS]
    built = subprocess.run(command, capture_output=True, text=True, check=True)
    documents = list(yaml.safe_load_all(built.stdout))
    for document in documents:
        kubernetes_validate.validate(document, "1.32", strict=True)
    (config,) = (doc["metadata"]["name"] for doc in documents if doc["kind"] == "ConfigMap")
    (stateful,) = (doc for doc in documents if doc["kind"] == "StatefulSet")
    only = stateful["spec"]["template"]["spec"]["containers"][0]
    assert only["env"][0]["valueFrom"]["configMapKeyRef"]["name"] == config
    assert only["image"] == "registry.example.org/fedhw-coordinator:0.1.0"


def test_ports_and_labels_meet():
    pod = one("StatefulSet", "coordinator")["spec"]["template"]
    ports = {port["name"]: port["containerPort"] for port in container()["ports"]}
    for name in ("devices", "metrics"):
        spec = one("Service", name)["spec"]
        assert spec["selector"].items() <= pod["metadata"]["labels"].items()
        assert {port["port"] for port in spec["ports"]} == {
            ports[port["targetPort"]] for port in spec["ports"]
        }
    assert one("StatefulSet", "coordinator")["spec"]["serviceName"] == "metrics"
    probes = [container()[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness")]
    assert {probe["httpGet"]["port"] for probe in probes} == {"metrics"}


def test_metrics_are_for_monitoring_alone_and_nothing_is_called():
    policy = one("NetworkPolicy", "coordinator")["spec"]
    devices, metrics = policy["ingress"]
    assert {port["port"] for port in devices["ports"]} == {"statistics", "flower"}
    assert [port["port"] for port in metrics["ports"]] == ["metrics"]
    assert metrics["from"][0]["namespaceSelector"]["matchLabels"] == {
        "kubernetes.io/metadata.name": "monitoring"
    }
    assert policy["egress"] == []
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    assert {port["port"] for port in one("Service", "devices")["spec"]["ports"]} == {9470, 9471}


def test_the_pod_is_restricted():
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/, restricted."""
    pod = one("StatefulSet", "coordinator")["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container()["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not pod["automountServiceAccountToken"]
    enforced = one("Namespace", "fedhw")["metadata"]["labels"]
    assert enforced["pod-security.kubernetes.io/enforce"] == "restricted"
