"""Networks of IP addresses, as settings name them."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address, ip_network


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
