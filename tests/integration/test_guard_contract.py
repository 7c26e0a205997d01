"""The contract, word for word, as callers meet it without a guard: the tests of test_contract.py once more."""

from typing import Any

import pytest

from integration import test_contract
from support.kserve import Wire


@pytest.fixture(scope="module")
def wire(server: Any) -> Wire:
    return Wire(server.triton_address)


for _name, _test in vars(test_contract).items():
    if _name.startswith("test_") and "wire" in getattr(_test, "__code__", _test).co_varnames:
        globals()[_name] = _test
