"""Rollouts: where each stands and how its arms do; operators start, hold, decide and take back."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_POST

from console.audit.actor import actor_of
from console.audit.queries import find_entries
from console.catalog.models import Revision, Route
from console.catalog.routes import BadRoute, shares
from console.dashboard.forms.rollouts import PRESETS, StartForm
from console.dashboard.rollout_picture import bar, walk
from console.policy import Who, permits
from console.rollouts import actions, queries
from console.rollouts.action_table import ROLLOUT_ACTIONS
from console.rollouts.arm_stats import since
from console.rollouts.certificate_gate import why_not
from console.rollouts.errors import RolloutRefused
from console.rollouts.forecast import undo_forecast
from console.rollouts.models import Rollout
from console.rollouts.shares import answering
from console.rollouts.state_machine import ALL, BadSteps
from console.rollouts.transition import target_of

PER_PAGE = 20
ROUTES_PER_PAGE = 50
MAX_ACTIVE = 20
MAX_OFFERED = 200
NUM_ENTRIES = 50


@require_GET
def page(request: HttpRequest) -> HttpResponse:
    ended = queries.rollouts(actor_of(request)).exclude(state__in=queries.ACTIVE_STATES)
    names = Paginator(queries.routes(actor_of(request)), ROUTES_PER_PAGE).get_page(request.GET.get("routes"))
    context = active(request) | {
        "routes": [route_row(route) for route in names],
        "routes_page": names,
        "page": Paginator(ended, PER_PAGE).get_page(request.GET.get("page")),
    }
    return render(request, "rollouts/list.html", context)


@require_GET
def active_now(request: HttpRequest) -> HttpResponse:
    """The list's moving part."""
    return render(request, "rollouts/partials/active.html", active(request))


def active(request: HttpRequest) -> dict[str, Any]:
    rows = list(queries.active_rollouts(actor_of(request))[: MAX_ACTIVE + 1])
    return {
        "active": [picture(row) for row in rows[:MAX_ACTIVE]],
        "has_more": len(rows) > MAX_ACTIVE,
        "may_act": may_act(request),
    }


def may_act(request: HttpRequest) -> bool:
    return permits(Who.OPERATOR, request.user)


def route_row(route: Route) -> dict[str, Any]:
    weights = {arm.revision_id: arm.weight for arm in route.arms.all()}
    return {
        "route": route,
        "bar": bar(answering(weights)),
        "kept": [name for name, weight in weights.items() if not weight],
        "active": queries.active_of(route),
    }


@require_GET
def rollout(request: HttpRequest, pk: int) -> HttpResponse:
    return render(request, "rollouts/rollout.html", about(request, find(request, pk)))


@require_GET
def rollout_now(request: HttpRequest, pk: int) -> HttpResponse:
    """The page's moving part."""
    return render(request, "rollouts/partials/rollout_now.html", about(request, find(request, pk)))


def about(request: HttpRequest, row: Rollout) -> dict[str, Any]:
    entries = find_entries(actor_of(request), target=target_of(row)).order_by("-seq")[:NUM_ENTRIES]
    undoable = queries.undoable_of(row.route)
    is_undoable = undoable is not None and undoable.pk == row.pk
    return picture(row) | {
        "entries": entries,
        "may_act": may_act(request),
        "is_undoable": is_undoable,
        "kept": queries.kept_for_undo(row.route) if is_undoable else [],
        "why_not": why_not(row.candidate) if row.candidate and row.is_active else "",
        "forecast": undo_forecast(row.route, target=row.before) if row.is_active or is_undoable else None,
    }


def picture(row: Rollout) -> dict[str, Any]:
    """What both the list and the page show of a rollout."""
    position, now = row.position(), timezone.now()
    order = [*row.before, *([row.candidate_id] if row.candidate_id else row.after)]
    weights = answering(shares(row.route)) if row.is_active else row.after or row.before
    moment = row.step_since if row.is_active else row.created_at
    figures = since(route=row.route.name, revisions=dict.fromkeys(order), moment=moment, until=row.ended_at)
    return {
        "rollout": row,
        "bar": bar(weights, order=order),
        "before": bar(row.before, order=order),
        "steps": walk(position, now=now),
        "is_at_last": position.is_at_last,
        "seconds_left": position.seconds_left(now),
        "since": moment,
        "arms": list(zip(bar(dict.fromkeys(order, 0)), figures, strict=True)),
        "candidate": row.candidate,
        "deployment": row.candidate.deployment if row.candidate else None,
    }


@require_POST
def act(request: HttpRequest, pk: int, action: str) -> HttpResponse:
    if action not in ROLLOUT_ACTIONS:
        raise Http404
    chosen = ROLLOUT_ACTIONS[action]
    wish: dict[str, Any] = {"rollout": find(request, pk).pk, "reason": request.POST.get("reason", "")[:300]}
    if (version := request.POST.get("version", "")).isdecimal():
        wish["version"] = int(version)
    if chosen.can_be_forced:
        wish["is_forced"] = request.POST.get("force") == "on"
    try:
        chosen.run(actor=actor_of(request), **wish)
    except RolloutRefused as refusal:
        messages.error(request, str(refusal))
    else:
        messages.success(request, str(chosen.said))
    return redirect("dashboard:rollout", pk)


@require_GET
def new(request: HttpRequest) -> HttpResponse:
    """The form; its choices are in the address, so that other pages lead here with a candidate."""
    wish = {name: value for name, value in request.GET.items() if name in StartForm.base_fields and value}
    form = StartForm(initial=wish, offered=offered(wish), preset=request.GET.get("preset", ""))
    return form_page(request, form, wish=wish)


@require_POST
def start(request: HttpRequest) -> HttpResponse:
    form = StartForm(request.POST, offered=offered(request.POST.dict()))
    if not form.is_valid():
        return form_page(request, form, wish=request.POST.dict(), status=422)
    found = form.cleaned_data
    try:
        row = actions.start(
            actor=actor_of(request),
            route=found["route"].name,
            candidate=found["candidate"],
            steps=form.steps(),
            another_model=found["another_model"],
            version=found["version"],
            reason=found["reason"],
        )
    except (RolloutRefused, BadRoute, BadSteps) as refusal:
        form.add_error(None, str(refusal))
        return form_page(request, form, wish=request.POST.dict(), status=422)
    messages.success(request, _("The rollout has begun: the candidate is loaded first."))
    return redirect("dashboard:rollout", row.pk)


def form_page(
    request: HttpRequest, form: StartForm, *, wish: dict[str, Any], status: int = 200
) -> HttpResponse:
    """Beside the form stands what its route and its candidate are now."""
    chosen = chosen_route(wish)
    known = Revision.objects.select_related("model", "deployment")
    wished = {one.pk for one in offered(wish)} & {wish.get("candidate", "")}
    revision = known.filter(pk__in=wished).first()
    if revision is None and not wish.get("another_model"):
        revision = best_candidate(chosen)
    if not form.is_bound:
        form.initial["candidate"] = revision.pk if revision else ""
    context = {
        "form": form,
        "presets": list(PRESETS),
        "route": chosen,
        "bar": bar(answering(shares(chosen))) if chosen else [],
        "is_busy": chosen is not None and queries.active_of(chosen) is not None,
        "candidate": revision,
        "deployment": revision.deployment if revision else None,
        "why_not": why_not(revision) if revision else "",
        "is_answering_all": bool(chosen and revision and shares(chosen).get(revision.pk) == ALL),
    }
    if chosen and not form.is_bound:
        form.initial["version"] = chosen.version
    return render(request, "rollouts/new.html", context, status=status)


def chosen_route(wish: dict[str, Any]) -> Route | None:
    routes = list(StartForm.routes())
    return next((one for one in routes if one.name == wish.get("route")), routes[0] if routes else None)


def best_candidate(route: Route | None) -> Revision | None:
    """The newest revision of the route's models that does not answer yet, and no other model's."""
    if route is None:
        return None
    now = answering(shares(route))
    others = Revision.objects.select_related("model", "deployment").exclude(pk__in=now)
    there = others.filter(deployment__files_deleted_at=None, model__in=queries.models_of(route))
    return there.order_by("-created_at").first()


def offered(wish: dict[str, Any]) -> list[Revision]:
    """The revisions of the chosen route's models; of every model once that is ticked."""
    route = None if wish.get("another_model") else chosen_route(wish)
    return queries.offered_revisions(limit=MAX_OFFERED, route=route)


def find(request: HttpRequest, pk: int) -> Rollout:
    return get_object_or_404(queries.rollouts(actor_of(request)), pk=pk)
