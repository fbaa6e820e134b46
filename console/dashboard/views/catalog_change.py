"""What operators do with revisions: load, keep, force, quantize, certify, delete; then back to its page."""

from __future__ import annotations

from collections.abc import Callable

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from console.audit.actor import actor_of
from console.catalog.actions import DeleteRefused, delete_files
from console.catalog.models import Revision
from console.certificates import actions as quantizing
from console.dashboard.forms.catalog import KeepingForm
from console.dashboard.views.catalog import about, find
from console.deployments import actions as deployments
from console.jobs.models import Job

REFUSALS = (
    deployments.DeploymentRefused,
    quantizing.QuantizeRefused,
    quantizing.CertifyRefused,
    DeleteRefused,
)


@require_POST
def load(request: HttpRequest, name: str, revision_id: str) -> HttpResponse:
    found = find(name, revision_id)
    return done(request, found, lambda: deployments.load(actor=actor_of(request), revision=found))


@require_POST
def unload(request: HttpRequest, name: str, revision_id: str) -> HttpResponse:
    found = find(name, revision_id)
    return done(request, found, lambda: deployments.unload(actor=actor_of(request), revision=found))


@require_POST
def keep(request: HttpRequest, name: str, revision_id: str) -> HttpResponse:
    found, form = find(name, revision_id), KeepingForm(request.POST)
    if not form.is_valid():
        return about(request, found, keeping_form=form, status=422)
    return done(
        request,
        found,
        lambda: deployments.set_keeping(actor=actor_of(request), revision=found, **form.cleaned_data),
        _("Saved."),
    )


@require_POST
def force(request: HttpRequest, name: str, revision_id: str) -> HttpResponse:
    found = find(name, revision_id)
    return done(request, found, lambda: deployments.force(actor=actor_of(request), revision=found))


@require_POST
def release(request: HttpRequest) -> HttpResponse:
    deployments.release(actor=actor_of(request))
    messages.success(request, _("All models are served again."))
    return redirect("dashboard:models")


@require_POST
def quantize(request: HttpRequest, name: str, revision_id: str) -> HttpResponse:
    found = find(name, revision_id)
    return done(request, found, lambda: quantizing.start_quantize(actor=actor_of(request), revision=found))


@require_POST
def certify(request: HttpRequest, name: str, revision_id: str) -> HttpResponse:
    found = find(name, revision_id)
    return done(request, found, lambda: quantizing.start_certify(actor=actor_of(request), revision=found))


@require_POST
def delete(request: HttpRequest, name: str, revision_id: str) -> HttpResponse:
    found = find(name, revision_id)
    return done(
        request,
        found,
        lambda: delete_files(actor=actor_of(request), revision=found),
        _("The files are deleted."),
    )


def done(request: HttpRequest, revision: Revision, act: Callable[[], object], said: str = "") -> HttpResponse:
    """Act, and back to the revision; a refusal is said there. A job that was begun is shown instead."""
    try:
        result = act()
    except REFUSALS as refusal:
        messages.error(request, str(refusal))
    else:
        if isinstance(result, Job):
            return redirect("dashboard:job", result.pk)
        if said:
            messages.success(request, said)
    return redirect("dashboard:revision", revision.model.name, revision.pk)
