"""Who a caller is, as far as bounds are concerned."""

from __future__ import annotations

import ipaddress

__all__ = ["peer_of"]


def peer_of(name: object) -> str:
    """A key for the address of a socket's peer (`getpeername`).

    Of IPv6 the first 64 bits count, as who has one address there has them all; a socket without addresses has "".
    """
    if not isinstance(name, tuple):
        return ""
    host = str(name[0]).partition("%")[0]
    if ":" not in host:
        return host
    address = ipaddress.IPv6Address(host)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))
