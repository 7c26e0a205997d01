"""The example for KServe, against the types that KServe's own package brings."""

import ast
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.repository import ROOT

kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="the package kubernetes-validate is missing")

EXAMPLES = ROOT / "deploy" / "kserve"
KINDS = {"ServingRuntime": "V1alpha1ServingRuntime", "InferenceService": "V1beta1InferenceService"}


class Types:
    """KServe's models, read, not imported: importing them takes all that KServe needs."""

    def __init__(self, folder: Path) -> None:
        self._fields: dict[str, dict[str, str]] = {}
        for path in folder.glob("*.py"):
            for item in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(item, ast.ClassDef):
                    tables = {
                        part.targets[0].id: ast.literal_eval(part.value)
                        for part in item.body
                        if isinstance(part, ast.Assign)
                        and isinstance(part.targets[0], ast.Name)
                        and part.targets[0].id in ("openapi_types", "attribute_map")
                    }
                    if len(tables) == 2:
                        names = tables["attribute_map"]
                        self._fields[item.name] = {names[key]: of for key, of in tables["openapi_types"].items()}

    def faults(self, value: Any, of: str, path: str) -> list[str]:
        """Fields that the type does not have, and what Kubernetes' own types in it are."""
        if of.startswith("list["):
            return [fault for item in value for fault in self.faults(item, of[5:-1], path)]
        if of == "V1Container":
            return self._container_faults(value, path)
        if of not in self._fields:
            return []
        fields, faults = self._fields[of], []
        for name, inner in value.items():
            if name in fields:
                faults += self.faults(inner, fields[name], f"{path}.{name}")
            else:
                faults.append(f"{path}.{name}")
        return faults

    def _container_faults(self, container: dict[str, Any], path: str) -> list[str]:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": [container]}}
        try:
            kubernetes_validate.validate(pod, "1.37", strict=True)
        except kubernetes_validate.ValidationError as exc:
            return [f"{path}: {exc}"]
        return []


@pytest.fixture(scope="module")
def types() -> Types:
    spec = importlib.util.find_spec("kserve")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the package kserve is not installed")
    return Types(Path(spec.submodule_search_locations[0]) / "models")


@pytest.fixture(params=sorted(KINDS))
def example(request: pytest.FixtureRequest) -> dict[str, Any]:
    text = (EXAMPLES / f"{request.param.lower()}.yaml").read_text(encoding="utf-8")
    loaded: dict[str, Any] = yaml.safe_load(text)
    assert loaded["kind"] == request.param
    return loaded


def test_kserve_knows_every_field(types: Types, example: dict[str, Any]) -> None:
    assert types.faults(example, KINDS[example["kind"]], "") == []


def test_a_misspelt_field_is_found(types: Types, example: dict[str, Any]) -> None:
    if example["kind"] == "ServingRuntime":
        example["spec"]["containers"][0]["readynessProbe"] = {}
        assert "readynessProbe" in types.faults(example, KINDS[example["kind"]], "")[0]
    else:
        example["spec"]["predictor"]["model"]["storageURI"] = ""
        assert types.faults(example, KINDS[example["kind"]], "") == [".spec.predictor.model.storageURI"]


def test_the_examples_name_each_other() -> None:
    runtime, service = (
        yaml.safe_load((EXAMPLES / f"{kind}.yaml").read_text(encoding="utf-8"))
        for kind in ("servingruntime", "inferenceservice")
    )
    model = service["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["modelFormat"]["name"] in [each["name"] for each in runtime["spec"]["supportedModelFormats"]]
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
