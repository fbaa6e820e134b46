"""What makes a revision: an import, and other engine settings for files that are here."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST

from console.audit.actor import actor_of
from console.catalog.actions import derive, start_import
from console.catalog.import_request import ImportRefused
from console.catalog.models import Revision
from console.dashboard.forms.catalog import ImportForm, KeepingForm, SettingsForm
from console.dashboard.views.catalog import find
from console.deployments import actions as deployments

COMPUTING = (
    "device", "dtype", "quantization", "kv_dtype", "attention", "batching", "batch_invariant",
    "prefix_caching", "sampling_defaults",
)  # fmt: skip
CAPACITY = ("num_blocks", "max_model_len", "max_batch_tokens", "max_num_seqs", "num_draft_tokens")


@require_http_methods(["GET", "POST"])
def import_model(request: HttpRequest) -> HttpResponse:
    """The form; with GET also while it is filled in, since the fields depend on the source."""
    if request.method == "GET":
        return render(request, "catalog/import.html", {"form": ImportForm(initial=request.GET.dict())})
    form = ImportForm(request.POST)
    if form.is_valid():
        try:
            job = start_import(actor=actor_of(request), **form.wish())
        except ImportRefused as refusal:
            field = refusal.field.removeprefix("engine.")
            form.add_error(field if field in form.fields else None, str(refusal))
        else:
            return redirect("dashboard:job", job.pk)
    return render(request, "catalog/import.html", {"form": form}, status=422)


@require_http_methods(["GET", "POST"])
def settings(request: HttpRequest, name: str, revision_id: str) -> HttpResponse:
    found = find(name, revision_id)
    form = settings_form(request, found)
    keeping_form = KeepingForm(request.POST if request.method == "POST" else None, initial=kept(found))
    if request.method == "POST" and form.is_valid() and keeping_form.is_valid():
        made = derived(request, found, form)
        if made is not None:
            deployments.set_keeping(actor=actor_of(request), revision=made, **keeping_form.cleaned_data)
            return redirect("dashboard:revision", name, made.pk)
    advice = form.advice()
    context = {
        "revision": found,
        "form": form,
        "keeping_form": keeping_form,
        "advice": advice,
        "computing": [(form[field], field, advice[field]) for field in COMPUTING],
        "capacity": [(form[field], field, advice[field]) for field in CAPACITY],
    }
    return render(request, "catalog/settings.html", context, status=422 if form.errors else 200)


@require_POST
def advice(request: HttpRequest, name: str, revision_id: str) -> HttpResponse:
    """What the settings come to as they stand in the form now."""
    form = settings_form(request, find(name, revision_id))
    return render(request, "catalog/partials/advice_list.html", {"advice": form.advice()})


def settings_form(request: HttpRequest, revision: Revision) -> SettingsForm:
    data = request.POST if request.method == "POST" else None
    return SettingsForm(data, revision=revision)


def derived(request: HttpRequest, revision: Revision, form: SettingsForm) -> Revision | None:
    """The revision with these settings; None where there is none to make, which the form then says."""
    if form.engine() == revision.engine:
        form.add_error(None, _("These are the settings that it has already: change one."))
        return None
    try:
        made = derive(actor=actor_of(request), revision=revision, engine=form.engine())
    except ImportRefused as refusal:
        field = refusal.field.removeprefix("engine.")
        form.add_error(field if field in form.fields else None, str(refusal))
        return None
    messages.success(request, _("The revision is made. Load it to try it, or roll it out."))
    return made


def kept(revision: Revision) -> dict[str, Any]:
    deployment = revision.deployment
    return {"is_pinned": deployment.is_pinned, "idle_seconds": deployment.idle_seconds}
