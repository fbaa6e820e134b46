"""The thread that computes, for all engines of the process: a step of each in turn."""

from __future__ import annotations

import threading
import time
from typing import Protocol


class LoopedEngine(Protocol):
    """What the loop asks of an engine."""

    next_turn_at: float | None  # time.monotonic(): without a command, not before that
    has_ended: threading.Event  # no turn will come any more

    def is_due(self) -> bool: ...

    def turn(self) -> None: ...


class EngineLoop:
    """One thread for all engines of the process, a step of each in turn; it ends with the last of them.

    Of threads with a team of OpenMP workers each, there would soon be more workers than cores, and then all
    of them sleep between operations: beside a revision that had merely been used, decode took twice as long.
    """

    def __init__(self) -> None:
        self.wake = threading.Condition()
        self._engines: list[LoopedEngine] = []
        self._thread: threading.Thread | None = None

    def add(self, engine: LoopedEngine) -> None:
        with self.wake:
            self._engines.append(engine)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="engines", daemon=True)
                self._thread.start()

    def remove(self, engine: LoopedEngine) -> None:
        """Wait until the engine's last turn is over, and the thread where it was the only one."""
        engine.has_ended.wait()
        with self.wake:
            thread = self._thread
            self._engines.remove(engine)
            self.wake.notify_all()
            self.wake.wait_for(lambda: self._engines or self._thread is None)
            has_ended = self._thread is None
        if has_ended and thread is not None:
            thread.join()

    def _run(self) -> None:
        while True:
            with self.wake:
                while not (due := [engine for engine in self._engines if engine.is_due()]):
                    if not self._engines:
                        self._thread = None
                        self.wake.notify_all()
                        return
                    self.wake.wait(self._idle_seconds())
            for engine in due:
                engine.turn()

    def _idle_seconds(self) -> float | None:
        moments = [engine.next_turn_at for engine in self._engines if engine.next_turn_at is not None]
        return max(0.0, min(moments) - time.monotonic()) if moments else None
