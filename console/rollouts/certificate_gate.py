"""No public name leads wholly to revisions without proof, as `catalog/certificates.py` has it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from django.utils.translation import gettext as _

from console.catalog.models import Revision
from console.certificates.status import NotCertified, require, status_of
from console.rollouts.state_machine import ALL


def require_proof(before: Mapping[str, int], after: Mapping[str, int]) -> None:
    """Raises `NotCertified` when `after` gives all of the traffic to revisions without a valid certificate.

    A share of it is a trial, and needs none. What answered alone before may go on to do so.
    """
    answering = [revision for revision, weight in after.items() if weight]
    missing: dict[str, str] = {}
    for revision in Revision.objects.filter(id__in=answering).select_related("deployment", "parent"):
        try:
            require(revision)
        except NotCertified as error:
            missing[revision.id] = str(error)
    if missing and _percent(after, missing) == ALL and _percent(before, missing) < ALL:
        revision_id, reason = next(iter(missing.items()))
        words = {"revision": revision_id, "reason": reason}
        raise NotCertified(
            _("%(revision)s may not answer everything without a certificate: %(reason)s") % words
        )


def look_at_files(revisions: Iterable[str]) -> None:
    """Before the transaction that decides: files that were touched are hashed, which may take a while."""
    for revision in Revision.objects.filter(id__in=list(revisions)).select_related("deployment", "parent"):
        status_of(revision)


def why_not(revision: Revision) -> str:
    """Why it may not answer alone; empty: it may."""
    found = status_of(revision)
    return "" if found.is_sound else found.reason


def _percent(shares: Mapping[str, int], revisions: Mapping[str, object]) -> int:
    return sum(shares.get(one, 0) for one in revisions)
