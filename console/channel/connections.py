"""Open connections, bounded in all and by address. Where there is no room for another, the one that has
been waiting longest with no request under way gives its place up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable

from console.addresses import client_of

Close = Callable[[], None]


class Connections:
    """Belongs to one event loop. `is_exempt`: addresses that stand for many clients, such as a proxy's."""

    def __init__(
        self, *, most: int, most_per_address: int, is_exempt: Callable[[str], bool] = lambda address: False
    ) -> None:
        self._most = most
        self._most_per_address = most_per_address
        self._is_exempt = is_exempt
        self._addresses: dict[Hashable, str] = {}  # connection -> its address
        self._counts: Counter[str] = Counter()
        self._waiting: dict[str, dict[Hashable, Close]] = {}  # by address; dicts are in order of arrival
        self._all_waiting: dict[Hashable, None] = {}

    def __len__(self) -> int:
        return len(self._addresses)

    def enter(self, connection: Hashable, address: str, close: Close) -> bool:
        """A new connection, which waits for its first request. False: there is no room."""
        is_bound = not self._is_exempt(address)
        address = client_of(address)
        if is_bound and self._counts[address] >= self._most_per_address and not self._evict(address):
            return False
        if len(self._addresses) >= self._most and not self._evict():
            return False
        self._addresses[connection] = address
        self._counts[address] += 1
        self.wait(connection, close)
        return True

    def wait(self, connection: Hashable, close: Close) -> None:
        """It has no request under way: `close` may be called to make room."""
        address = self._addresses.get(connection)
        if address is not None:
            self._waiting.setdefault(address, {})[connection] = close
            self._all_waiting[connection] = None

    def work(self, connection: Hashable) -> None:
        """A whole request of it has come and is being answered."""
        address = self._addresses.get(connection)
        if address is not None and connection in self._all_waiting:
            del self._all_waiting[connection]
            mine = self._waiting[address]
            del mine[connection]
            if not mine:
                del self._waiting[address]

    def leave(self, connection: Hashable) -> None:
        """It is closed; may be told twice."""
        self.work(connection)
        address = self._addresses.pop(connection, None)
        if address is None:
            return
        self._counts[address] -= 1
        if not self._counts[address]:
            del self._counts[address]

    def _evict(self, address: str | None = None) -> bool:
        waiting = self._all_waiting if address is None else self._waiting.get(address, {})
        oldest = next(iter(waiting), None)
        if oldest is None:
            return False
        close = self._waiting[self._addresses[oldest]][oldest]
        self.leave(oldest)
        close()
        return True
