"""Routes: the public names, what answers to each and in what shares; changed at once, after a preview."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_POST

from console.audit.actor import actor_of
from console.catalog.models import Revision, Route
from console.catalog.routes import BadRoute, shares
from console.dashboard.forms.rollouts import SharesForm
from console.dashboard.rollout_picture import bar
from console.dashboard.views.rollouts import PER_PAGE, may_act, offered
from console.rollouts import actions, queries
from console.rollouts.errors import RolloutRefused
from console.rollouts.forecast import undo_forecast
from console.rollouts.shares import answering


@require_GET
def route(request: HttpRequest, name: str) -> HttpResponse:
    """What a name leads to. With shares in the address: what a switch to them would do."""
    found = find(name)
    now = answering(shares(found))
    form = SharesForm(
        request.GET if "preview" in request.GET else None,
        offered=offered({"another_model": True}),
        arms=now,
        initial={"name": name, "version": found.version},
    )
    return about(request, found, form)


def about(request: HttpRequest, found: Route, form: SharesForm, *, status: int = 200) -> HttpResponse:
    now = shares(found)
    undoable = queries.undoable_of(found)
    revisions = Revision.objects.filter(pk__in=now).select_related("model", "deployment").defer("files")
    by_id = {one.pk: one for one in revisions}
    parts = bar(now)
    context: dict[str, Any] = {
        "route": found,
        "bar": parts,
        "arms": [(part, by_id[part.revision]) for part in parts],
        "active": queries.active_of(found),
        "undoable": undoable,
        "forecast": undo_forecast(found, target=undoable.before) if undoable else None,
        "form": form,
        "page": Paginator(queries.rollouts().filter(route=found), PER_PAGE).get_page(request.GET.get("page")),
        "may_act": may_act(request),
    } | preview_of(form, now)
    return render(request, "rollouts/route.html", context, status=status)


@require_GET
def new(request: HttpRequest) -> HttpResponse:
    form = SharesForm(
        request.GET if "preview" in request.GET else None, offered=offered({"another_model": True})
    )
    return render(request, "rollouts/route_new.html", {"form": form} | preview_of(form, {}))


@require_POST
def switch(request: HttpRequest) -> HttpResponse:
    """Change a route, or make one: the shares are those that were previewed."""
    form = SharesForm(request.POST, offered=offered({"another_model": True}))
    found = Route.objects.filter(name=request.POST.get("name", "")).first()
    if form.is_valid():
        try:
            row = actions.switch(
                actor=actor_of(request),
                route=form.cleaned_data["name"],
                weights=form.weights(),
                version=form.cleaned_data["version"],
            )
        except (RolloutRefused, BadRoute) as refusal:
            form.add_error(None, str(refusal))
        else:
            said = _("Switched: it counts from the next request on.") if row else _("Nothing has changed.")
            messages.success(request, said)
            return redirect("dashboard:route", form.cleaned_data["name"])
    if found is None:
        return render(request, "rollouts/route_new.html", {"form": form}, status=422)
    return about(request, found, form, status=422)


@require_POST
def delete(request: HttpRequest, name: str) -> HttpResponse:
    """Take the name out of service; the row stays, with its history, and the change can be undone."""
    try:
        actions.switch(actor=actor_of(request), route=find(name).name, weights={})
    except RolloutRefused as refusal:
        messages.error(request, str(refusal))
        return redirect("dashboard:route", name)
    messages.success(request, _("%(name)s is out of service: it answers 404.") % {"name": name})
    return redirect("dashboard:rollouts")


def preview_of(form: SharesForm, now: dict[str, int]) -> dict[str, Any]:
    """What the form would do, where it can be done."""
    if not form.is_bound or not form.is_valid():
        return {}
    after = form.weights()
    deployments = queries.deployments_of(after)
    order = [*now, *after]
    return {
        "after": bar(after, order=order),
        "bar": bar(now, order=order),
        "is_same": after == answering(now),
        "to_load": [name for name, one in deployments.items() if one.state != "ready"],
        "leaving": [name for name, weight in now.items() if weight and name not in after],
    }


def find(name: str) -> Route:
    return get_object_or_404(Route, name=name)
