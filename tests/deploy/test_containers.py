"""The images and the compose file, as far as they can be judged without an engine."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.places import DEPLOY

ROOT = DEPLOY.parent
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILES = sorted((DEPLOY / "docker").glob("*.Dockerfile"))


def instructions(dockerfile: Path) -> dict[str, list[str]]:
    """What each instruction was given, continued lines joined."""
    text = re.sub(r"^#.*\n", "", dockerfile.read_text("utf-8"), flags=re.M).replace("\\\n", " ")
    given: dict[str, list[str]] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        word, rest = line.split(maxsplit=1)
        given.setdefault(word, []).append(rest)
    return given


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.stem)
def test_an_image_runs_as_nobody_in_particular(dockerfile: Path):
    given = instructions(dockerfile)
    assert given["FROM"] == ["python:3.11-slim"]
    assert given["USER"] == ["10001:10001"]
    (home,) = given["VOLUME"]
    assert given["WORKDIR"] == [home]
    assert any(f"HOME={home}" in line for line in given["ENV"])


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.stem)
def test_an_image_looks_after_its_health(dockerfile: Path):
    (check,) = instructions(dockerfile)["HEALTHCHECK"]
    program, option, code = json.loads(check[check.index("[") :])
    assert (program, option) == ("python", "-c")
    compile(code, "healthcheck", "exec")


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.stem)
def test_torch_is_the_cpus_and_pinned(dockerfile: Path):
    torch, ours = instructions(dockerfile)["RUN"][:2]
    assert "--index-url https://download.pytorch.org/whl/cpu torch" in torch
    assert "--constraint /constraints.txt" in torch
    assert "--constraint /source/constraints.txt" in ours
    extra = re.search(r"/source\[(\w+)\]", ours)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert extra is not None
    assert extra[1] in project["optional-dependencies"]


def test_the_build_sees_what_the_package_is_made_of_and_nothing_else():
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    rules = [line for line in lines if not line.startswith("#")]
    assert rules[0] == "*"
    seen = {rule[1:] for rule in rules if rule.startswith("!")}
    content = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    packages = content["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    project = content["project"]
    assert seen == {
        *(package.split("/")[0] for package in packages),
        *project["license-files"],
        project["readme"],
        "constraints.txt",
        "pyproject.toml",
    }


def test_images_of_others_are_pinned():
    for service in SERVICES.values():
        if "build" not in service:
            assert re.search(r":v?\d+\.\d+\.\d+$", service["image"])


def test_services_are_confined():
    for service in SERVICES.values():
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "privileged" not in service
        assert "mem_limit" in service


def test_the_world_reaches_the_ports_for_devices_and_no_other():
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert sorted(port for port in published if not port.startswith("127.0.0.1:")) == [
        "9470:9470",
        "9471:9471",
    ]
    assert COMPOSE["networks"]["watching"] == {"internal": True}
    assert SERVICES["agent"]["networks"] == ["devices"]
    assert "watching" in SERVICES["coordinator"]["networks"]


def test_what_is_mounted_exists():
    for service in SERVICES.values():
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (DEPLOY / source).is_dir()
                assert volume.endswith(":ro")
            else:
                assert source in COMPOSE["volumes"]
    for service in SERVICES.values():
        if "build" in service:
            assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).is_file()


def test_grafana_finds_its_dashboard_and_its_datasource():
    provisioning = DEPLOY / "grafana" / "provisioning"
    provider = yaml.safe_load((provisioning / "dashboards" / "fedhw.yml").read_text("utf-8"))
    source = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text("utf-8"))
    folder = provider["providers"][0]["options"]["path"]
    assert f"./grafana/dashboards:{folder}:ro" in SERVICES["grafana"]["volumes"]
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (DEPLOY / "grafana" / "dashboards" / Path(home).name).is_file()
    assert source["datasources"][0]["url"] == "http://prometheus:9090"
    scraped = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text("utf-8"))
    (target,) = scraped["scrape_configs"][0]["static_configs"][0]["targets"]
    assert target == "coordinator:9472"
    assert "coordinator" in SERVICES


def test_no_file_holds_a_secret():
    secret = re.compile(r"(?i)\b(password|passwd|token|secret)[\"']?\s*[:=]\s*\S|BEGIN [A-Z ]*KEY")
    for path in DEPLOY.rglob("*"):
        if path.is_file():
            assert not secret.search(path.read_text("utf-8")), path
