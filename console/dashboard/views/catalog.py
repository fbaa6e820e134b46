"""Models: what is imported, which revision answers with what share, and what is loaded. Read by everybody."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import urlencode

from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.urls import reverse
from django.views.decorators.http import require_GET

from console.audit.actor import actor_of
from console.audit.queries import find_entries
from console.catalog.disk import disk_use
from console.catalog.models import Deployment, Revision, ServedModel
from console.catalog.overview import (
    find_models,
    forced_revision,
    model_rows,
    revisions_of,
    routed_revisions,
    with_related,
)
from console.certificates.status import status_of
from console.dashboard.engine_state import prompts_error
from console.dashboard.forms.catalog import FindModelsForm, KeepingForm
from console.dashboard.revision_actions import available_actions, is_on_the_way
from console.jobs.models import Job
from console.jobs.queries import find_jobs
from console.policy import Who, permits

MODELS_PER_PAGE = 50
REVISIONS_PER_PAGE = 10
NUM_ENTRIES = 20
NUM_JOBS = 10
NUM_CHILDREN = 20
NUM_NAMES = 5


@require_GET
def models(request: HttpRequest) -> HttpResponse:
    form = FindModelsForm(request.GET)
    wish = form.wish()
    page = Paginator(find_models(actor_of(request), **wish), MODELS_PER_PAGE).get_page(
        request.GET.get("page")
    )
    rows = model_rows(page)
    context = {
        "page": page,
        "rows": rows,
        "find_form": form,
        "is_narrowed": any(wish.values()),
        "disk": disk_use(),
        "forced": forced_revision(),
        "jobs": open_jobs(),
        "may_act": permits(Who.OPERATOR, request.user),
    }
    return render(request, "catalog/list.html", context)


@require_GET
def model(request: HttpRequest, name: str) -> HttpResponse:
    found = get_object_or_404(ServedModel, name=name)
    page = Paginator(revisions_of(actor_of(request), found), REVISIONS_PER_PAGE).get_page(
        request.GET.get("page")
    )
    context = {
        "model": found,
        "page": page,
        "rows": rows(page),
        "forced": forced_revision(),
        "may_act": permits(Who.OPERATOR, request.user),
    }
    return render(request, "catalog/model.html", context)


@require_GET
def revision(request: HttpRequest, name: str, revision_id: str) -> HttpResponse:
    return about(request, find(name, revision_id))


def about(
    request: HttpRequest, revision: Revision, *, keeping_form: KeepingForm | None = None, status: int = 200
) -> HttpResponse:
    context = rows([revision])[0] | {
        "forced": forced_revision(),
        "prompts_error": prompts_error(revision.pk),
        "entries": find_entries(actor_of(request), target=revision.pk).order_by("-seq")[:NUM_ENTRIES],
        "jobs": find_jobs(actor_of(request), subject=revision.pk)[:NUM_JOBS],
        "children": revision.children.order_by("-created_at").values_list("pk", "model__name")[:NUM_CHILDREN],
        "may_act": permits(Who.OPERATOR, request.user),
    }
    if keeping_form:
        context["keeping_form"] = keeping_form
    return render(request, "catalog/revision.html", context, status=status)


@require_GET
def state(request: HttpRequest, name: str, revision_id: str) -> HttpResponse:
    """The state alone, asked for while it changes; once it has come to rest the page is loaded anew."""
    found = find(name, revision_id)
    response = render(request, "catalog/partials/state.html", rows([found])[0])
    if not is_on_the_way(found.deployment):
        response["HX-Refresh"] = "true"
    return response


def find(name: str, revision_id: str) -> Revision:
    return get_object_or_404(with_related(Revision.objects.all()), model__name=name, pk=revision_id)


def rows(revisions: Iterable[Revision]) -> list[dict[str, Any]]:
    """What the templates of each of these revisions are rendered with."""
    routed = routed_revisions()
    return [row(revision, routed) for revision in revisions]


def row(revision: Revision, routed: dict[str, set[str]]) -> dict[str, Any]:
    deployment: Deployment = revision.deployment
    keeping = {"is_pinned": deployment.is_pinned, "idle_seconds": deployment.idle_seconds}
    other, own, proof = compared_with(revision), address(revision), status_of(revision)
    return {
        "revision": revision,
        "deployment": deployment,
        "arms": [arm for arm in revision.arms.all() if arm.weight],
        "certificate_status": proof,
        "actions": available_actions(revision, certificate_status=proof, is_alone=not other),
        "is_on_the_way": is_on_the_way(deployment),
        "keeping_form": KeepingForm(initial=keeping, auto_id=f"{revision.pk}_%s"),
        "compared_with": other,
        "compare_url": f"{reverse('dashboard:playground')}?{urlencode([('pane', other), ('pane', own)])}",
        "other_names": sorted(name for name, led in routed.items() if led != {revision.pk})[:NUM_NAMES],
    }


def compared_with(revision: Revision) -> str:
    """As the playground names it: the parent, or what the model's name leads to; "": nothing else."""
    if revision.parent:
        return address(revision.parent)
    is_answering = any(arm.weight == 100 for arm in revision.arms.all())
    return "" if is_answering else revision.model.name


def address(revision: Revision) -> str:
    return f"{revision.model.name}@{revision.pk}"


def open_jobs() -> list[Job]:
    """Imports that nothing in the list shows yet."""
    return list(Job.objects.filter(kind="import", state__in=Job.OPEN).order_by("-created_at")[:NUM_JOBS])
