"""What can be done with a revision as it stands; and of what cannot, why."""

from __future__ import annotations

from dataclasses import dataclass

from django.utils.translation import gettext as _

from console.catalog.models import Deployment, Revision
from console.certificates.status import CertificateStatus
from inference.architectures import WITH_EXPERTS

State, Wanted = Deployment.State, Deployment.Wanted
ON_THE_WAY = (State.WAITING, State.LOADING, State.UNLOADING)


@dataclass(frozen=True, slots=True)
class RevisionActions:
    """For each action the reason against it; "": it can be done. The actions themselves decide in the end."""

    load: str
    unload: str
    keep: str
    force: str
    settings: str
    quantize: str
    certify: str
    compare: str
    roll_out: str
    delete: str


def available_actions(
    revision: Revision, *, certificate_status: CertificateStatus, is_alone: bool
) -> RevisionActions:
    """`revision` with its deployment and arms; is_alone: there is nothing to compare it with."""
    gone = _("Its files have been deleted.") if revision.deployment.files_deleted_at else ""
    is_wanted = revision.deployment.wanted == Wanted.LOADED
    has_failed = revision.deployment.state == State.FAILED
    return RevisionActions(
        load=gone or (_("It is loaded, or on its way.") if is_wanted and not has_failed else ""),
        unload=gone or ("" if is_wanted else _("It is not loaded.")) or _routed(revision),
        keep=gone,
        force=gone or (_("It is forced already.") if revision.deployment.is_forced else ""),
        settings=gone,
        quantize=gone or _quantized(revision),
        certify=gone or _needless(certificate_status),
        compare=gone or (_("There is no other revision to compare it with.") if is_alone else ""),
        roll_out=gone or _alone(revision),
        delete=gone or _in_route(revision) or (_("Unload it first.") if is_wanted else ""),
    )


def is_on_the_way(deployment: Deployment) -> bool:
    """Whether its state is about to change by itself, so that a page looks again."""
    is_ready, is_wanted = deployment.state == State.READY, deployment.wanted == Wanted.LOADED
    return deployment.state in ON_THE_WAY or (deployment.state != State.FAILED and is_ready != is_wanted)


def _routed(revision: Revision) -> str:
    """Which route sends it requests."""
    for arm in revision.arms.all():
        if arm.weight:
            values = {"name": arm.route.name, "share": arm.weight}
            return _("%(name)s sends it %(share)d %% of its requests.") % values
    return ""


def _in_route(revision: Revision) -> str:
    """Which route has it, if only with a share of nothing."""
    arm = next(iter(revision.arms.all()), None)
    return _("It is part of the route %(name)s.") % {"name": arm.route.name} if arm else ""


def _quantized(revision: Revision) -> str:
    if revision.facts.get("architecture") in WITH_EXPERTS:
        return _("A mixture of experts is not quantized.")
    method = revision.facts.get("quantization")
    return _("It is quantized already: %(method)s.") % {"method": method} if method else ""


def _needless(certificate_status: CertificateStatus) -> str:
    is_needed = certificate_status.kind != "not_needed"
    return "" if is_needed else _("It needs no certificate: its numbers are those of an original.")


def _alone(revision: Revision) -> str:
    for arm in revision.arms.all():
        if arm.weight == 100:
            return _("%(name)s sends it all requests already.") % {"name": arm.route.name}
    return ""
