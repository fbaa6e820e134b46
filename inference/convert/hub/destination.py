"""Where a redirect of a hub may lead: to hosts of the internet, and to the very address that was looked at.

A hub, or whoever answers for it, must not make this server ask what stands beside it in its own network. A
mirror that stands in this network itself may send us there, too.
"""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any
from urllib.request import getproxies, proxy_bypass

import httpx2

from inference.convert.hub.snapshot import HubRefused, Unreachable

NAT64 = ip_network("64:ff9b::/96")  # IPv4 addresses within IPv6, for networks that have no other


def pinned(place: httpx2.URL, home: httpx2.URL) -> tuple[httpx2.URL, dict[str, str], dict[str, Any]]:
    """The address to connect to, and the header and extension that keep the host's name.

    Raises `HubRefused` for what is not of the internet, unless the hub itself is not.
    """
    if is_proxied(place):  # then the proxy looks names up, and says what may be reached
        return place, {}, {}
    found = addresses(place)
    if not all(is_global(one) for one in found) and all(is_global(one) for one in addresses(home)):
        raise HubRefused(f"the hub redirects to {place.host}, which is not of the internet: not followed")
    name = place.raw_host.decode().rstrip(".")
    return place.copy_with(host=found[0]), {"Host": place.netloc.decode()}, {"sni_hostname": name}


def is_proxied(url: httpx2.URL) -> bool:
    proxies = getproxies()
    return bool(proxies.get(url.scheme) or proxies.get("all")) and not proxy_bypass(url.host)


def addresses(url: httpx2.URL) -> list[str]:
    try:
        found = socket.getaddrinfo(url.host, url.port or url.scheme, type=socket.SOCK_STREAM)
    except OSError as error:
        raise Unreachable(f"{url.host} has no address: {error}") from error
    return [str(one[4][0]) for one in found]


def is_global(text: str) -> bool:
    """Whether an address is one of the internet, in whatever form an IPv4 address is written."""
    address = embedded(ip_address(text))
    return address.is_global and not address.is_multicast


def embedded(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    if isinstance(address, IPv4Address):
        return address
    if address in NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address
