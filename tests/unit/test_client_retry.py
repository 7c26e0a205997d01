"""Which server gets a request, and when a refused one may be sent again."""

import itertools
from collections.abc import Collection, Iterable

import pytest

from rejection_client._endpoints import Endpoint, Endpoints
from rejection_client._retry import RetryBudget, backoff_s
from rejection_client.channels import Address


def test_the_reserve_comes_first() -> None:
    budget = RetryBudget(0.05, 3)
    assert [budget.take_retry() for _ in range(4)] == [True, True, True, False]


@pytest.mark.parametrize("requests", [20, 100, 1000, 10_000])
def test_retries_are_a_share_of_the_requests(requests: int) -> None:
    budget = RetryBudget(0.05, 3)
    retries = 0
    for _ in range(requests):
        budget.add_request()
        retries += budget.take_retry()
    assert retries <= 3 + 0.05 * requests
    assert retries >= 0.05 * requests - 1


def test_a_quiet_time_saves_up_no_more_than_the_reserve() -> None:
    budget = RetryBudget(0.5, 3)
    for _ in range(1000):
        budget.add_request()
    assert sum(budget.take_retry() for _ in range(1000)) == 3


def test_no_retries_if_none_are_wanted() -> None:
    budget = RetryBudget(0, 0)
    for _ in range(1000):
        budget.add_request()
    assert not budget.take_retry()


def test_pauses_double_up_to_a_limit_and_differ() -> None:
    for failures, longest_s in ((1, 0.1), (2, 0.2), (3, 0.4), (6, 2.0), (10_000, 2.0)):
        pauses = [backoff_s(failures, 0.1, 2.0) for _ in range(200)]
        assert longest_s / 2 <= min(pauses) < max(pauses) <= longest_s
        assert len(set(pauses)) > 100


def addresses(names: Iterable[str]) -> list[Address]:
    return [Address(name, name) for name in names]


@pytest.fixture
def three() -> Endpoints:
    endpoints = Endpoints(lambda address: Endpoint(address, None, None))
    endpoints.update(addresses("abc"))
    return endpoints


def take(endpoints: Endpoints, avoid: Collection[Endpoint] = ()) -> Endpoint:
    """The server chosen for a request, where there is one."""
    endpoint = endpoints.take(avoid)
    assert endpoint is not None
    return endpoint


def turn(endpoints: Endpoints, count: int, avoid: Collection[Endpoint] = ()) -> list[str]:
    """Names of servers chosen for requests that end at once."""
    names = []
    for _ in range(count):
        endpoint = take(endpoints, avoid)
        names.append(endpoint.address.target)
        endpoints.give_back(endpoint)
    return names


def named(endpoints: Endpoints, name: str) -> Endpoint:
    return next(endpoint for endpoint in endpoints.all() if endpoint.address.target == name)


def test_servers_take_turns(three: Endpoints) -> None:
    assert sorted(turn(three, 30)) == list("a" * 10 + "b" * 10 + "c" * 10)


def test_the_least_busy_server_is_next(three: Endpoints) -> None:
    assert sorted(take(three).address.target for _ in range(6)) == list("aabbcc")
    three.give_back(named(three, "b"))
    assert take(three).address.target == "b"


def test_a_server_added_later_gets_requests_at_once(three: Endpoints) -> None:
    for _ in range(6):
        three.take(())
    assert three.update(addresses("abcd")) == []
    assert [take(three).address.target for _ in range(2)] == ["d", "d"]


def test_a_server_removed_gets_no_more_and_is_closed_after_its_last_request(three: Endpoints) -> None:
    busy = next(endpoint for endpoint in iter(lambda: take(three), None) if endpoint.address.target == "a")
    assert [endpoint.address.target for endpoint in three.update(addresses("bc"))] == []
    assert set(turn(three, 10)) <= {"b", "c"}
    while busy.in_flight > 1:
        assert not three.give_back(busy)
    assert three.give_back(busy)


def test_a_server_set_aside_gets_nothing_until_it_is_back(three: Endpoints) -> None:
    three.restore(named(three, "b"))
    assert three.put_aside(named(three, "a"), 10.0)
    assert not three.put_aside(named(three, "a"), 11.0)
    assert set(turn(three, 10)) == {"b", "c"}
    assert three.due(10.5, 12.0) == []
    assert [endpoint.address.target for endpoint in three.due(11.5, 12.5)] == ["a"]
    assert three.due(12.0, 13.0) == []
    assert three.restore(named(three, "a"))
    assert set(turn(three, 10)) == {"a", "b", "c"}


def test_what_was_tried_is_tried_last(three: Endpoints) -> None:
    a, b = named(three, "a"), named(three, "b")
    assert turn(three, 3, avoid={a, b}) == ["c", "c", "c"]
    assert set(turn(three, 9, avoid=three.all())) == {"a", "b", "c"}


def test_none_is_left_once_a_server_that_answered_is_gone(three: Endpoints) -> None:
    three.restore(named(three, "a"))
    for endpoint in three.all():
        three.put_aside(endpoint, 1.0)
    assert three.take(()) is None
    assert three.may_come_back()


def test_while_none_ever_answered_each_is_tried_once(three: Endpoints) -> None:
    for endpoint in three.all():
        three.put_aside(endpoint, 1.0)
    tried: set[Endpoint] = set()
    for _ in range(3):
        tried.add(take(three, tried))
    assert len(tried) == 3
    assert three.take(tried) is None
    assert not three.may_come_back()


def test_turns_are_fair_with_any_number() -> None:
    for count in range(1, 7):
        endpoints = Endpoints(lambda address: Endpoint(address, None, None))
        endpoints.update(addresses("abcdef"[:count]))
        names = turn(endpoints, 10 * count)
        assert {len(list(group)) for _, group in itertools.groupby(sorted(names))} == {10}
