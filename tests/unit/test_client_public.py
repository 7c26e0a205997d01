"""What users may import is what is meant to be public, and the exception tree is drawn as it is."""

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

import rejection_client
from rejection_client import AsyncRejectionClient, NoPositiveLabelError, Prediction, RejectionClient, errors


def test_all_names_exactly_the_public_names() -> None:
    public = {
        name
        for name, value in vars(rejection_client).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert {*public, "__version__"} == set(rejection_client.__all__)
    assert rejection_client.__all__ == sorted(rejection_client.__all__)


def test_every_exception_is_exported() -> None:
    defined = {name for name, value in vars(errors).items() if inspect.isclass(value)}
    assert defined == set(errors.__all__)
    assert defined <= set(rejection_client.__all__)


def test_modules_are_private_but_for_those_meant_for_callers() -> None:
    modules = {module.name for module in pkgutil.iter_modules(rejection_client.__path__)}
    assert {name for name in modules if not name.startswith("_")} == {
        "channels",
        "cli",
        "errors",
        "llm_guard",
        "protocol",
    }
    assert Path(rejection_client.__file__).with_name("py.typed").exists()


def test_the_drawn_tree_is_the_tree() -> None:
    drawn = re.findall(r"^ +(?:[├└]── )?(\w+Error)\b", errors.__doc__, flags=re.MULTILINE)
    assert drawn[0] == "RejectionError"
    assert sorted(drawn) == errors.__all__
    for name in drawn[1:]:
        assert getattr(errors, name).__bases__ == (errors.RejectionError,)


def test_every_public_thing_is_documented() -> None:
    for name in rejection_client.__all__:
        assert inspect.getdoc(getattr(rejection_client, name)), name


def test_the_library_does_not_print() -> None:
    for module in pkgutil.iter_modules(rejection_client.__path__):
        if module.name in {"cli", "_output", "_commands", "__main__"}:
            continue
        source = inspect.getsource(importlib.import_module(f"rejection_client.{module.name}"))
        calls = [node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
        assert not [call for call in calls if isinstance(call, ast.Name) and call.id == "print"], module.name


def test_a_prediction_cannot_be_changed() -> None:
    prediction = Prediction(label="REJECTION", scores={"NORMAL": 0.1, "REJECTION": 0.9}, token_count=3, truncated=False)
    with pytest.raises(FrozenInstanceError):
        prediction.label = "NORMAL"  # type: ignore[misc]
    assert not hasattr(prediction, "__dict__")


def test_is_rejection_is_strict() -> None:
    prediction = Prediction("REJECTION", {"NORMAL": 0.25, "REJECTION": 0.75}, 3, False, "REJECTION")
    assert prediction.is_rejection()
    assert prediction.is_rejection(0.74)
    assert not prediction.is_rejection(0.75)


def test_a_model_without_a_positive_label_has_no_verdict() -> None:
    prediction = Prediction("two", {"one": 0.2, "two": 0.7, "three": 0.6}, 3, False)
    for verdict in (lambda: prediction.score, prediction.is_rejection):
        with pytest.raises(NoPositiveLabelError, match=r"one of one, two, three as positive_label"):
            verdict()
    assert prediction.labels_above(0.5) == ("two", "three")
    assert prediction.labels_above(0.7) == ()


def methods(client: type[object]) -> dict[str, Callable[..., object]]:
    names = {"__init__", "__enter__", "__exit__", "__aenter__", "__aexit__"}
    return {
        name: value
        for name, value in vars(client).items()
        if inspect.isfunction(value) and (name in names or not name.startswith("_"))
    }


def test_both_clients_are_equal_method_for_method() -> None:
    """Same names, same parameters with the same defaults and types; awaited answers are the same."""
    sync, asynchronous = methods(RejectionClient), methods(AsyncRejectionClient)
    assert list(sync) == [
        name.replace("__aenter__", "__enter__").replace("__aexit__", "__exit__") for name in asynchronous
    ]
    for name, ours, theirs in zip(sync, sync.values(), asynchronous.values(), strict=True):
        parameters, answer = signature(ours)
        other_parameters, other_answer = signature(theirs)
        assert parameters == other_parameters, name
        assert answer == other_answer, name
        if name != "__init__":
            assert inspect.iscoroutinefunction(theirs) or inspect.isasyncgenfunction(theirs), name
        assert inspect.getdoc(ours), name
        assert inspect.getdoc(theirs), name


def signature(method: Callable[..., object]) -> tuple[list[tuple[object, ...]], str]:
    """Parameters and answer, with asyncio's iterators named as the plain ones."""

    def plain(annotation: object) -> str:
        return re.sub(r"\bAsyncGenerator\[(.*), None\]", r"Generator[\1, None, None]", str(annotation))

    found = inspect.signature(method)
    either = "collections.abc.Iterable[str] | collections.abc.AsyncIterable[str]"
    parameters: list[tuple[object, ...]] = [
        (p.name, p.kind, p.default, str(p.annotation).replace(either, "collections.abc.Iterable[str]"))
        for p in found.parameters.values()
    ]
    return parameters, plain(found.return_annotation)


def test_importing_the_package_or_the_command_imports_neither_grpc_nor_numpy() -> None:
    """They are imported with the first client: `rejection --help` and whoever only imports the package go without."""
    heavy = {"grpc", "numpy", "tritonclient", "google.protobuf", "asyncio", "punkt", "llm_guard", "torch"}
    for module in ("rejection_client", "rejection_client.cli", "rejection_client.llm_guard"):
        assert imported(f"import {module}") & heavy == set(), module


def test_a_client_imports_grpc_and_no_more_of_the_rest() -> None:
    modules = imported("import rejection_client; rejection_client.RejectionClient()")
    assert {"grpc", "tritonclient.grpc.service_pb2"} <= modules
    assert {"punkt", "llm_guard", "torch"} & modules == set()


def imported(code: str) -> set[str]:
    """Names of the modules that a new process has imported by then."""
    code = f"import sys; before = set(sys.modules); {code}; print(*set(sys.modules) - before)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    return set(run.stdout.split())
