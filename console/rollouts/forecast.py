"""What going back would take, said before anybody decides: seconds, memory, and what would have to leave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from django.utils.translation import gettext as _

from console.catalog.models import Deployment, Route
from console.catalog.routes import shares
from console.deployments import memory_budget
from console.rollouts.shares import answering

GB, MB = 1e9, 1e6


@dataclass(frozen=True, slots=True)
class Forecast:
    """Of a change of shares."""

    num_revisions: int  # before and after the change together
    missing: tuple[str, ...]  # that would have to be loaded
    need_bytes: int  # for those, measured or estimated
    taken_bytes: int  # by all of them, once loaded
    budget_bytes: int
    fits: bool  # if need be once others have left
    would_leave: tuple[str, ...]  # what would be unloaded to make room
    seconds: float | None  # until the loads are over; None: one was never loaded here

    @property
    def is_instant(self) -> bool:
        return not self.missing

    @property
    def sentence(self) -> str:
        """For people: "Undo is instant: both revisions are loaded (2.1 GB of 6.0 GB)."."""
        if self.is_instant:
            words = {"taken": gigabytes(self.taken_bytes), "budget": gigabytes(self.budget_bytes)}
            if self.num_revisions == 2:
                return _("Undo is instant: both revisions are loaded (%(taken)s of %(budget)s).") % words
            return _("Undo is instant: everything is loaded (%(taken)s of %(budget)s).") % words
        return " ".join((self._need(), self._duration()))

    def _need(self) -> str:
        words = {
            "need": gigabytes(self.need_bytes),
            "leaves": ", ".join(self.would_leave),
        }
        if self.would_leave:
            return _("Undo needs %(need)s: no, it would have to unload %(leaves)s.") % words
        if not self.fits:
            return _("Undo needs %(need)s: no, it does not fit into memory.") % words
        return _("Undo needs %(need)s: yes, it fits.") % words

    def _duration(self) -> str:
        if self.seconds is None:
            return _("How long loading takes is not known yet; requests wait for it.")
        return _("Loading takes about %(seconds)s s; requests wait for it.") % {
            "seconds": max(1, round(self.seconds))
        }


def gigabytes(number: int) -> str:
    if number >= GB / 10:
        return _("%(number)s GB") % {"number": f"{number / GB:.1f}"}
    return _("%(number)s MB") % {"number": f"{number / MB:.0f}"}


def undo_forecast(route: Route, *, target: Mapping[str, int]) -> Forecast:
    """What it takes to lead the route back to `target`."""
    now, then = answering(shares(route)), answering(target)
    rows = Deployment.objects.filter(pk__in=now.keys() | then.keys()).select_related("revision")
    deployments = {one.pk: one for one in rows}
    needs = {name: memory_budget.need_of(one).bytes for name, one in deployments.items()}
    missing = [one for one in deployments.values() if one.pk in then and one.state != Deployment.State.READY]
    fit = memory_budget.fits(wanted=list(then))
    giving_way = tuple(now.keys() - then.keys())  # answers nothing any more after the undo
    fits_then = fit.fits or fit.need <= fit.free + sum(needs[one] for one in giving_way)
    times = [one.load_seconds for one in missing]
    return Forecast(
        num_revisions=len(deployments),
        missing=tuple(one.pk for one in missing),
        need_bytes=sum(needs[one.pk] for one in missing),
        taken_bytes=sum(needs.values()),
        budget_bytes=fit.budget,
        fits=fits_then,
        would_leave=fit.would_leave if fit.fits else giving_way if fits_then else (),
        seconds=None if None in times else sum(one for one in times if one),
    )
