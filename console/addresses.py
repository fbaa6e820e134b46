"""IP addresses: networks as settings name them, and how many addresses are one client."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv6Address, ip_address, ip_network


class Networks:
    """`"10.0.0.5" in Networks(["10.0.0.0/8"])`. What is no address, as of a Unix socket, is in none."""

    def __init__(self, names: Iterable[str]) -> None:
        self._networks = [ip_network(one, strict=False) for one in names]

    def __contains__(self, host: str) -> bool:
        if not self._networks:
            return False
        try:
            address = ip_address(host)
        except ValueError:
            return False
        return any(address in network for network in self._networks)


def client_of(host: str) -> str:
    """Whom an address is counted for: an IPv6 client has a whole /64 of them."""
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if not isinstance(address, IPv6Address):
        return host
    return str(address.ipv4_mapped or ip_network((int(address) >> 64 << 64, 64)))
