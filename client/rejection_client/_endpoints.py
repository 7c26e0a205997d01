"""Which server gets the next request: the state of each, and the choice between them; no network here.

A request goes to the server with the fewest requests under way, in turn where several have as few. So a server that
was just added gets its share at once, and a slow one gets less. A server that could not be reached, or that stopped
answering, is set aside: it gets no requests until it has answered, in the background, that the model is ready.
"""

import threading
from collections.abc import Callable, Collection, Iterable
from typing import Any

from rejection_client.channels import Address


class Endpoint:
    """One server: its connection and what is known of it."""

    def __init__(self, address: Address, channel: Any, stub: Any) -> None:
        self.address = address
        self.channel = channel
        self.stub = stub
        self.in_flight = 0
        self.has_answered = False
        self.set_aside = False
        self.failures = 0
        """In a row."""
        self.probe_at_s = 0.0
        """When to look again whether it is back."""
        self.live_until_s = 0.0
        """Until when the last look at it, a good one, counts."""
        self.retired = False
        """No longer among the addresses; closed when its last request ends."""


class Endpoints:
    """The servers of one client; threads may share it."""

    def __init__(self, connect: Callable[[Address], Endpoint]) -> None:
        self._connect = connect
        self._lock = threading.Lock()
        self._endpoints: dict[Address, Endpoint] = {}
        self._turn = 0

    def __len__(self) -> int:
        return len(self._endpoints)

    def all(self) -> list[Endpoint]:
        """Every server, set aside or not."""
        with self._lock:
            return list(self._endpoints.values())

    def update(self, addresses: Iterable[Address]) -> list[Endpoint]:
        """Connect to new addresses and retire the missing ones; returns the retired ones without requests."""
        with self._lock:
            before = self._endpoints
            self._endpoints = {address: before.get(address) or self._connect(address) for address in addresses}
            gone = [endpoint for address, endpoint in before.items() if address not in self._endpoints]
            for endpoint in gone:
                endpoint.retired = True
            return [endpoint for endpoint in gone if not endpoint.in_flight]

    def take(self, avoid: Collection[Endpoint]) -> Endpoint | None:
        """Choose a server for a request, rather none of `avoid`; None if there is none to send to now.

        While no server has ever answered, those set aside are tried too, once a request: then it is the address that is
        wrong, and waiting does not help.
        """
        with self._lock:
            fit = [endpoint for endpoint in self._endpoints.values() if not endpoint.set_aside]
            choice = [endpoint for endpoint in fit if endpoint not in avoid] or fit
            if not choice and not any(endpoint.has_answered for endpoint in self._endpoints.values()):
                choice = [endpoint for endpoint in self._endpoints.values() if endpoint not in avoid]
            if not choice:
                return None
            fewest = min(endpoint.in_flight for endpoint in choice)
            choice = [endpoint for endpoint in choice if endpoint.in_flight == fewest]
            self._turn += 1
            chosen = choice[self._turn % len(choice)]
            chosen.in_flight += 1
            return chosen

    def give_back(self, endpoint: Endpoint) -> bool:
        """Count a request as over; True if the server is retired and this was its last."""
        with self._lock:
            endpoint.in_flight -= 1
            return endpoint.retired and not endpoint.in_flight

    def may_come_back(self) -> bool:
        """Whether any server has ever answered."""
        return any(endpoint.has_answered for endpoint in self.all())

    def put_aside(self, endpoint: Endpoint, probe_at_s: float) -> bool:
        """Send no more requests there until `restore`; True if that is news."""
        with self._lock:
            news = not endpoint.set_aside
            endpoint.set_aside = True
            endpoint.live_until_s = 0.0
            endpoint.failures += 1
            endpoint.probe_at_s = max(endpoint.probe_at_s, probe_at_s)
            return news

    def restore(self, endpoint: Endpoint) -> bool:
        """Count a server as answering; True if it was set aside."""
        if endpoint.has_answered and not endpoint.set_aside:
            return False
        with self._lock:
            news, endpoint.set_aside = endpoint.set_aside, False
            endpoint.has_answered = True
            endpoint.failures = 0
            endpoint.probe_at_s = 0.0
            return news

    def due(self, now_s: float, until_s: float) -> list[Endpoint]:
        """Servers set aside whose time to be looked at has come; the next look is not before `until_s`."""
        with self._lock:
            due = [
                endpoint for endpoint in self._endpoints.values() if endpoint.set_aside and endpoint.probe_at_s <= now_s
            ]
            for endpoint in due:
                endpoint.probe_at_s = until_s
            return due
