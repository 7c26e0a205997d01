"""The contract, word for word, as callers meet it behind the guard: the tests of test_contract.py once more."""

from collections.abc import Iterator
from typing import Any

import pytest

from integration import test_contract
from integration.guard_process import GuardProcess
from support.kserve import Wire


@pytest.fixture(scope="module")
def wire(server: Any) -> Iterator[Wire]:
    with GuardProcess(server.grpc_address) as guard:
        yield Wire(guard.address)


for _name, _test in vars(test_contract).items():
    if _name.startswith("test_") and "wire" in getattr(_test, "__code__", _test).co_varnames:
        globals()[_name] = _test
