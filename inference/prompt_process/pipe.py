"""What goes through the pipes of a prompt process: a JSON object, and token ids as bytes."""

from __future__ import annotations

import json
import os
import select
import struct
import time
from array import array
from collections.abc import Iterable
from typing import Any

SIZES = struct.Struct("<II")  # bytes of the JSON, bytes of the ids
MAX_BYTES = 512 * 2**20  # of either: what is read from a process that runs foreign code is bounded as well
ID_TYPE = "i"
PIECE_BYTES = 2**16  # what a pipe holds


class PipeClosed(Exception):
    """The other end is gone."""


class Pipe:
    """One end. `until` is a moment of time.monotonic(), at which `TimeoutError` is raised; None: never."""

    def __init__(self, *, reads: int, writes: int) -> None:
        self._reads, self._writes = reads, writes
        self._readable, self._writable = select.poll(), select.poll()
        self._readable.register(reads, select.POLLIN)
        self._writable.register(writes, select.POLLOUT)
        os.set_blocking(reads, False)
        os.set_blocking(writes, False)
        self._come = bytearray()  # what was read and not taken yet

    def send(self, said: dict[str, Any], ids: Iterable[int] = (), *, until: float | None = None) -> None:
        text, numbers = json.dumps(said).encode(), array(ID_TYPE, ids).tobytes()
        left = memoryview(SIZES.pack(len(text), len(numbers)) + text + numbers)
        while left:
            try:
                left = left[os.write(self._writes, left[:PIECE_BYTES]) :]
            except BlockingIOError:
                _wait(self._writable, until)
            except OSError as error:
                raise PipeClosed from error

    def receive(self, *, until: float | None = None) -> tuple[dict[str, Any], tuple[int, ...]]:
        num_text, num_numbers = SIZES.unpack(self._take(SIZES.size, until))
        if max(num_text, num_numbers) > MAX_BYTES:
            raise PipeClosed
        said: dict[str, Any] = json.loads(self._take(num_text, until))
        return said, tuple(array(ID_TYPE, self._take(num_numbers, until)))

    def _take(self, num_bytes: int, until: float | None) -> bytes:
        """Each call of the system lets go of the interpreter's lock, which beside other threads comes back
        late: so all that has come is read at once, and nothing is read before something has.
        """
        while len(self._come) < num_bytes:
            _wait(self._readable, until)
            try:
                piece = os.read(self._reads, PIECE_BYTES)
            except BlockingIOError:
                continue
            except OSError as error:
                raise PipeClosed from error
            if not piece:
                raise PipeClosed
            self._come += piece
        taken = bytes(self._come[:num_bytes])
        del self._come[:num_bytes]
        return taken


def _wait(poll: select.poll, until: float | None) -> None:
    if until is None:
        poll.poll()
        return
    left = until - time.monotonic()
    if left <= 0 or not poll.poll(left * 1000):
        raise TimeoutError
