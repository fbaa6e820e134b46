"""What to load and unload next, decided from what is wanted and what is there. Pure: time is an argument."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

GRACE_SECONDS = 10.0  # after traffic moved away: who chose before that still finds the revision

FORCED = "another model is forced"
UNWANTED = "not wanted any more"
IDLE = "idle"  # the reason of what went because nobody asked for it


@dataclass(frozen=True, slots=True)
class Wish:
    """A deployment whose files are there, as far as a decision needs it."""

    revision: str
    need: int  # bytes; estimated, or measured at an earlier load
    is_wanted: bool = False
    is_pinned: bool = False
    is_forced: bool = False
    idle_seconds: float = 0.0  # 0: never for idleness
    used_at: float = 0.0  # the last request, or else when it came
    retry_at: float = 0.0  # after a failed load: not before


@dataclass(frozen=True, slots=True)
class Holding:
    """A revision that is in memory, or on its way in or out."""

    revision: str
    bytes: int
    is_loading: bool = False
    is_leaving: bool = False


@dataclass(frozen=True, slots=True)
class Traffic:
    """What routes send a revision."""

    weight: int = 0  # the largest share that a route gives it
    left_at: float | None = None  # when the last share was taken from it


@dataclass(frozen=True, slots=True)
class Load:
    revision: str


@dataclass(frozen=True, slots=True)
class Unload:
    revision: str
    reason: str
    is_rest: bool = False  # it is still wanted: from now on it is not, until a request or a person wakes it


@dataclass(frozen=True, slots=True)
class Wait:
    """It cannot be loaded now."""

    revision: str
    reason: str


Step = Load | Unload | Wait


def decide(
    deployments: Sequence[Wish],
    loaded: Sequence[Holding],
    budget: int,
    now: float,
    in_flight: Mapping[str, int],
    routes: Mapping[str, Traffic],
) -> list[Step]:
    """Steps to take now, independent of each other. Nothing is loaded while something else is."""
    return Decision(deployments, loaded, budget, now, in_flight, routes).steps()


class Decision:
    """One look at the whole."""

    def __init__(
        self,
        deployments: Sequence[Wish],
        loaded: Sequence[Holding],
        budget: int,
        now: float,
        in_flight: Mapping[str, int],
        routes: Mapping[str, Traffic],
    ) -> None:
        self._wishes = {wish.revision: wish for wish in deployments}
        self._forced = next((wish.revision for wish in deployments if wish.is_forced), None)
        self._loaded = loaded
        self._budget = budget
        self._now = now
        self._in_flight = in_flight
        self._routes = routes

    def steps(self) -> list[Step]:
        unloads: list[Step] = []
        for holding in self._loaded:
            step = self._leave_of(holding)
            if step is not None:
                unloads.append(step)
        leaving = {step.revision for step in unloads}
        return unloads + self._loads(leaving)

    def _leave_of(self, holding: Holding) -> Unload | None:
        """Why a revision should go whether or not anybody needs its room."""
        revision = holding.revision
        if not self._may_go_now(holding):
            return None
        if self._forced is not None and revision != self._forced:
            return Unload(revision, FORCED)
        wish = self._wishes.get(revision)
        if wish is None or not (wish.is_wanted or wish.is_forced):
            is_free = self._is_without_traffic(revision) or (wish is not None and self._is_idle(wish))
            return Unload(revision, UNWANTED) if is_free else None
        if self._is_idle(wish) and not (wish.is_pinned or wish.is_forced):
            return Unload(revision, IDLE, is_rest=True)
        return None

    def _loads(self, leaving: set[str]) -> list[Step]:
        """At most one load, and room made for it; what cannot come in says why."""
        steps: list[Step] = []
        here = {holding.revision for holding in self._loaded}
        free = self._budget - sum(holding.bytes for holding in self._loaded)
        coming_free = sum(
            holding.bytes for holding in self._loaded if holding.is_leaving or holding.revision in leaving
        )
        is_loading = any(holding.is_loading for holding in self._loaded)
        is_room_taken = False
        for wish in self._pending(here):
            if is_loading or is_room_taken:
                steps.append(Wait(wish.revision, "another revision is being loaded"))
            elif wish.need <= free:
                steps.append(Load(wish.revision))
                is_loading = True
            elif wish.need <= free + coming_free:
                steps.append(Wait(wish.revision, "memory is being freed"))
                is_room_taken = True
            elif evicted := self._evicted_for(wish, free + coming_free, leaving):
                steps += evicted
                steps.append(Wait(wish.revision, "memory is being freed"))
                is_room_taken = True
            else:
                steps.append(Wait(wish.revision, self._shortage(wish, free + coming_free)))
        return steps

    def _pending(self, here: set[str]) -> list[Wish]:
        """What should be loaded and is not, the most urgent first."""
        due = [
            wish
            for wish in self._wishes.values()
            if wish.revision not in here
            and wish.retry_at <= self._now
            and (wish.is_forced if self._forced is not None else wish.is_wanted)
        ]
        return sorted(due, key=lambda wish: (-self._weight(wish.revision), not wish.is_pinned, -wish.used_at))

    def _evicted_for(self, wish: Wish, free: int, leaving: set[str]) -> list[Step]:
        """The least recently used that make room for it; nothing where even all of them would not do."""
        candidates = [
            holding
            for holding in self._loaded
            if holding.revision not in leaving and self._may_go_now(holding) and self._may_make_room(holding)
        ]
        candidates.sort(key=lambda holding: self._wishes[holding.revision].used_at)
        steps: list[Step] = []
        for holding in candidates:
            steps.append(Unload(holding.revision, f"made room for {wish.revision}", is_rest=True))
            free += holding.bytes
            if wish.need <= free:
                return steps
        return []

    def _may_make_room(self, holding: Holding) -> bool:
        wish = self._wishes.get(holding.revision)
        return (
            wish is not None
            and not (wish.is_pinned or wish.is_forced)
            and (self._is_without_traffic(holding.revision) or self._is_idle(wish))
        )

    def _may_go_now(self, holding: Holding) -> bool:
        return not (holding.is_leaving or holding.is_loading or self._in_flight.get(holding.revision))

    def _is_without_traffic(self, revision: str) -> bool:
        traffic = self._routes.get(revision, Traffic())
        if traffic.weight:
            return False
        return traffic.left_at is None or self._now - traffic.left_at >= GRACE_SECONDS

    def _is_idle(self, wish: Wish) -> bool:
        return bool(wish.idle_seconds) and self._now - wish.used_at >= wish.idle_seconds

    def _weight(self, revision: str) -> int:
        return self._routes.get(revision, Traffic()).weight

    def _shortage(self, wish: Wish, free: int) -> str:
        if wish.need > self._budget:
            return f"needs {_mb(wish.need)}, more than the whole budget of {_mb(self._budget)}"
        return f"needs {_mb(wish.need)}, and {_mb(max(0, free))} of {_mb(self._budget)} are free"


def _mb(num_bytes: int) -> str:
    return f"{num_bytes / 10**6:,.0f} MB"
