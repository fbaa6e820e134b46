"""The kinds of work that there are: a name, where it runs, and the function that does it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from django.utils.functional import Promise

from console.audit.actor import Actor
from console.jobs.models import Job

MAX_DEATHS = 3  # a job whose process died is begun again, but not for ever


class Cancelled(BaseException):
    """Somebody asked for an end. Not an `Exception`, so that no library swallows it."""


class JobFailed(Exception):
    """The work cannot be done; the message says why, for people, and `code` for programs."""

    def __init__(self, message: str, *, code: str = "failed") -> None:
        super().__init__(message)
        self.code = code


class JobContext(Protocol):
    """What a kind's function gets. Its methods may be called from any thread of the job."""

    @property
    def job_id(self) -> str: ...

    @property
    def actor(self) -> Actor: ...

    @property
    def arguments(self) -> Mapping[str, Any]: ...

    def progress(self, stage: str, fraction: float) -> None:
        """Say how far it has come (0 to 1); cheap, so say it often. Raises `Cancelled` as `check` does."""

    def check(self) -> None:
        """Raises `Cancelled` where somebody asked for an end, or the process is about to end itself."""

    def log(self, text: str) -> None:
        """Add a line to the job's log."""


Function = Callable[[JobContext], Mapping[str, Any]]  # -> the job's result


@dataclass(frozen=True, slots=True)
class Kind:
    name: str
    label: str | Promise
    where: Job.Where
    function: Function  # may be begun again after a crash: it must do so cleanly


KINDS: dict[str, Kind] = {}


def kind(name: str, *, label: str | Promise, where: Job.Where) -> Callable[[Function], Function]:
    """Register the decorated function as the work of a kind. Raises `JobFailed` for what people can mend."""

    def register(function: Function) -> Function:
        KINDS[name] = Kind(name, label, where, function)
        return function

    return register
