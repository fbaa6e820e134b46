"""No public name leads wholly to revisions without proof, as `catalog/certificates.py` has it."""

from __future__ import annotations

from collections.abc import Mapping

from console.catalog.models import Revision
from console.rollouts.machine import ALL


class NotProven(RuntimeError):
    """Why a certificate is missing, for people."""


def require_proof(before: Mapping[str, int], after: Mapping[str, int]) -> None:
    """Raises `NotProven` when `after` gives all of the traffic to revisions without a valid certificate.

    A share of it is a trial, and needs none. What answered alone before may go on to do so.
    """
    missing: dict[str, str] = {}
    for revision in Revision.objects.filter(id__in=[one for one, weight in after.items() if weight]):
        if why := why_not(revision):
            missing[revision.id] = why
    if sum(after[one] for one in missing) < ALL or sum(before.get(one, 0) for one in missing) == ALL:
        return
    raise NotProven("; ".join(missing.values()))


def why_not(revision: Revision) -> str:
    """Empty: the revision may answer alone."""
    if revision.parent_id is None:
        return ""
    newest = revision.certificates.order_by("-created_at").first()
    if newest is None:
        return f"{revision.id} has no certificate yet"
    return "" if newest.has_passed else f"{revision.id} has failed its certificate"
