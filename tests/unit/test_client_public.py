"""What users may import is what is meant to be public, and the exception tree is drawn as it is."""

import ast
import importlib
import inspect
import pkgutil
import re
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

import rejection_client
from rejection_client import Prediction, errors


def test_all_names_exactly_the_public_names():
    public = {
        name
        for name, value in vars(rejection_client).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert public == set(rejection_client.__all__)
    assert rejection_client.__all__ == sorted(rejection_client.__all__)


def test_every_exception_is_exported():
    defined = {name for name, value in vars(errors).items() if inspect.isclass(value)}
    assert defined == set(errors.__all__)
    assert defined <= set(rejection_client.__all__)


def test_modules_are_private_but_for_the_errors_and_the_command():
    modules = {module.name for module in pkgutil.iter_modules(rejection_client.__path__)}
    assert {name for name in modules if not name.startswith("_")} == {"errors", "cli"}
    assert Path(rejection_client.__file__).with_name("py.typed").exists()


def test_the_drawn_tree_is_the_tree():
    drawn = re.findall(r"^ +(?:[├└]── )?(\w+Error)\b", errors.__doc__, flags=re.MULTILINE)
    assert drawn[0] == "RejectionError"
    assert sorted(drawn) == errors.__all__
    for name in drawn[1:]:
        assert getattr(errors, name).__bases__ == (errors.RejectionError,)


def test_every_public_thing_is_documented():
    for name in rejection_client.__all__:
        assert inspect.getdoc(getattr(rejection_client, name)), name


def test_the_library_does_not_print():
    for module in pkgutil.iter_modules(rejection_client.__path__):
        if module.name in {"cli", "_output", "__main__"}:
            continue
        source = inspect.getsource(importlib.import_module(f"rejection_client.{module.name}"))
        calls = [node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
        assert not [call for call in calls if isinstance(call, ast.Name) and call.id == "print"], module.name


def test_a_prediction_cannot_be_changed():
    prediction = Prediction(
        label="REJECTION", score=0.9, probabilities={"NORMAL": 0.1, "REJECTION": 0.9}, token_count=3
    )
    with pytest.raises(FrozenInstanceError):
        prediction.score = 0.1  # type: ignore[misc]
    assert not hasattr(prediction, "__dict__")
