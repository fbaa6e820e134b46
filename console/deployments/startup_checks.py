"""The hashes of what a start will load, compared while the engine is imported: a thread that hashes leaves
Python to the one that imports.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from django.db import connection

from console.catalog.file_integrity import Look, looks
from console.catalog.files import check_files
from console.catalog.models import Deployment, Revision


class StartupChecks:
    """A comparison counts once, and only while the files look as they did before it."""

    def __init__(self) -> None:
        self._begun: dict[str, Future[dict[str, Look]]] = {}

    def begin(self, revisions: Iterable[Revision]) -> None:
        """One revision after the other, in a thread that ends."""
        threads = ThreadPoolExecutor(1, thread_name_prefix="early-checks")
        for revision in revisions:
            self._begun[revision.pk] = threads.submit(_checked, revision)
        threads.shutdown(wait=False)

    def check(self, revision: Revision) -> None:
        """`check_files`, or what was found by it since the start."""
        begun = self._begun.pop(revision.pk, None)
        if begun is None or begun.result() != looks(revision):
            check_files(revision)


def loaded_first() -> Iterable[Revision]:
    """What a server loads before it is ready: wanted in memory, and a route leads there."""
    wanted = Deployment.objects.filter(wanted=Deployment.Wanted.LOADED, files_deleted_at=None)
    return Revision.objects.filter(deployment__in=wanted, arms__weight__gt=0).distinct()


def _checked(revision: Revision) -> dict[str, Look]:
    try:
        found = looks(revision)  # before the hashes are read
        check_files(revision)
    finally:
        connection.close()  # of this thread alone
    return found


STARTUP_CHECKS = StartupChecks()
