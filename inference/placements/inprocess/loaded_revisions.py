"""The revisions that are in this process's memory, and those on their way into it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from inference.host import Served
from inference.placements.inprocess.threaded_engine import ThreadedEngine
from inference.protocol.errors import NotReady, UnknownRevision
from inference.protocol.stats import RevisionStats


@dataclass(slots=True)
class LoadedRevision:
    """A revision in memory: what was loaded of it, and its engine as other threads may use it."""

    served: Served
    engine: ThreadedEngine
    is_leaving: bool = False

    @property
    def is_serving(self) -> bool:
        return self.engine.is_alive and not self.is_leaving

    def stats(self) -> RevisionStats:
        return replace(self.engine.stats, prompts=self.served.prompts.stats())

    def stop(self) -> None:
        """Blocks until its engine and its prompt process have ended."""
        self.engine.stop()
        self.served.prompts.close()


class LoadedRevisions:
    """By id. Iterating sees those that were there when it began."""

    def __init__(self) -> None:
        self._loaded: dict[str, LoadedRevision] = {}
        self._loading: set[str] = set()

    def __iter__(self) -> Iterator[LoadedRevision]:
        return iter(tuple(self._loaded.values()))

    def get(self, revision: str) -> LoadedRevision | None:
        return self._loaded.get(revision)

    def serving(self, revision: str) -> LoadedRevision:
        """The revision, where it takes requests. Raises `UnknownRevision`, or `NotReady` with the reason."""
        loaded = self._loaded.get(revision)
        if loaded is None:
            if revision in self._loading:
                raise NotReady(f"revision {revision} is loading", retry_after_seconds=5.0)
            raise UnknownRevision(f"no revision {revision} is served here")
        if loaded.is_leaving:
            raise NotReady(f"revision {revision} is being unloaded")
        if not loaded.engine.is_alive:
            raise NotReady(f"revision {revision}: {loaded.engine.stats.error}", retry_after_seconds=10.0)
        return loaded

    def add(self, revision: str, loaded: LoadedRevision) -> None:
        self._loaded[revision] = loaded

    def pop(self, revision: str) -> LoadedRevision | None:
        return self._loaded.pop(revision, None)

    def pop_all(self) -> tuple[LoadedRevision, ...]:
        loaded, self._loaded = tuple(self._loaded.values()), {}
        return loaded

    @contextmanager
    def loading(self, revision: str) -> Iterator[None]:
        """Meanwhile who asks for the revision is told that it is loading."""
        self._loading.add(revision)
        try:
            yield
        finally:
            self._loading.discard(revision)
