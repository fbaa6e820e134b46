"""The stub engine in a server that watches its own event loop: how long it was kept from turning."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from inference.config import PlacementConfig
from tests.stub_engine import StubEngine

TICK_SECONDS = 0.005
FILE = "loop.txt"  # in DATA_DIR: milliseconds


class WatchedEngine(StubEngine):
    """Notes the most processor time that the loop's thread spent between two ticks.

    Processor time, not the clock's: other programs of the machine may not make a turn of the loop look long.
    """

    def __init__(self, config: PlacementConfig) -> None:
        super().__init__(config)
        self._file = Path(config.data_dir) / FILE

    async def start(self) -> None:
        await super().start()
        self._watch = asyncio.create_task(self._look())

    async def _look(self) -> None:
        most, spent = 0.0, time.thread_time()
        while True:
            await asyncio.sleep(TICK_SECONDS)
            before, spent = spent, time.thread_time()
            if not self._file.exists():
                most = 0.0
            if spent - before > most or not self._file.exists():
                most = spent - before
                self._file.write_text(f"{most * 1000:.1f}")
