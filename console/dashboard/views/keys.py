"""Keys: which programs may call, what they used, and how far they may go. Operators issue and revoke."""

from __future__ import annotations

import json
import shlex
from datetime import timedelta
from typing import Any

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from console.accounts.actions import default_team
from console.audit.actor import actor_of
from console.catalog.queries import list_served_models
from console.dashboard.forms.keys import AccessForm, FindForm, IssueForm, LimitsForm
from console.dashboard.once import ONCE
from console.dashboard.usage_bars import bars
from console.endpoint_registry import endpoints
from console.keys import actions
from console.keys.models import ApiKey
from console.keys.queries import State, find_keys, state_of
from console.keys.scopes import all_scopes, endpoint_scopes
from console.limits.actions import BudgetTooSmall, issue_with_limits, limits_of, set_limits
from console.limits.models import Limit, Ticket
from console.limits.rates import now_ms
from console.policy import Who, permits
from console.usage.by_key import Used, requests_of, used_by, used_by_day
from console.usage.refused_queries import num_refused, refused_of

PER_PAGE = 50
NUM_DAYS = 30
NUM_REQUESTS = 10
NUM_REFUSED = 5


@require_GET
def keys(request: HttpRequest) -> HttpResponse:
    return listing(request, form=IssueForm(initial={"team": default_team()}))


def listing(request: HttpRequest, *, form: IssueForm, status: int = 200) -> HttpResponse:
    now = timezone.now()
    find_form = FindForm(request.GET)
    wish = find_form.wish()
    page = Paginator(find_keys(**wish, now=now).select_related("limit"), PER_PAGE).get_page(
        request.GET.get("page")
    )
    used = used_by([key.public_id for key in page], since=now - timedelta(days=NUM_DAYS))
    rows = [
        {
            "key": key,
            "state": state_of(key, now=now),
            "used": used.get(key.public_id, Used()),
            "limit": limit_of(key),
        }
        for key in page
    ]
    context = {
        "page": page,
        "rows": rows,
        "find_form": find_form,
        "is_narrowed": bool(wish["words"] or wish["state"]),
        "form": form,
        "may_act": permits(Who.OPERATOR, request.user),
        "num_days": NUM_DAYS,
    }
    return render(request, "keys/list.html", context, status=status)


@require_POST
@never_cache
def issue(request: HttpRequest) -> HttpResponse:
    """A reload of what follows issues no second key: the answer is another page, which shows the secret."""
    form = IssueForm(request.POST)
    if not form.is_valid():
        return listing(request, form=form, status=422)
    team = form.cleaned_data["team"]
    name = form.cleaned_data["name"]
    has_namesake = ApiKey.objects.valid_at(timezone.now()).filter(name=name).exists()
    issued = issue_with_limits(actor=actor_of(request), team=team, limits=form.limits(), **form.access())
    shown = {"secret": issued.secret, "curl": curl(request, issued), "has_namesake": has_namesake}
    ONCE.keep(person=request.user.pk, about=issued.key.public_id, what=shown)
    return redirect("dashboard:key_issued", issued.key.public_id)


@require_GET
@never_cache
def issued(request: HttpRequest, public_id: str) -> HttpResponse:
    """The secret, once: it is kept in memory alone, and given out to nobody else and never again."""
    shown = ONCE.take(person=request.user.pk, about=public_id)
    if shown is None:
        messages.warning(request, _("The secret was shown once and is kept nowhere. Lost: revoke this key."))
        return redirect("dashboard:key", public_id)
    return render(request, "keys/issued.html", {"key": find(public_id), **shown})


def curl(request: HttpRequest, issued: actions.IssuedKey) -> str:
    """A first request that this key may make, and that runs as it stands in a shell."""
    path, body = first_request(issued.key)
    lines = [
        f"curl {shlex.quote(request.build_absolute_uri(path))}",
        f'-H "Authorization: Bearer {issued.secret}"',
    ]
    if body is not None:
        lines += ['-H "Content-Type: application/json"', f"-d {shlex.quote(json.dumps(body))}"]
    return " \\\n  ".join(lines)


def first_request(key: ApiKey) -> tuple[str, dict[str, Any] | None]:
    """Its path, and its body where it has one."""
    served = [one.name for one in list_served_models()]
    model = next(iter(key.allowed_models or served), "MODEL")
    for one in endpoints():
        if not key.scopes or one.scope.name in key.scopes:
            return one.path, one.example(model) if one.example else None
    return "/api/v1/keys", None


@require_GET
def key(request: HttpRequest, public_id: str) -> HttpResponse:
    return about(request, find(public_id))


def about(
    request: HttpRequest,
    key: ApiKey,
    *,
    access_form: AccessForm | None = None,
    limits_form: LimitsForm | None = None,
    status: int = 200,
) -> HttpResponse:
    now, limit = timezone.now(), limit_of(key)
    by_day = used_by_day(key.public_id, num_days=NUM_DAYS, today=now.date())
    state = state_of(key, now=now)
    initial = {name: getattr(limits_of(limit), name) for name in LimitsForm.base_fields}
    context: dict[str, Any] = {
        "key": key,
        "state": state,
        # A key that names none may call these, never single revisions or the management API.
        "scopes": [
            label for scope, label in all_scopes().items() if scope in (key.scopes or endpoint_scopes())
        ],
        "num_refused": num_refused(since=now - timedelta(days=NUM_DAYS), owner=key.public_id),
        "refused": refused_of(key.public_id, limit=NUM_REFUSED),
        "limit": limit,
        "buckets": limit.buckets(now_ms=now_ms()) if limit else (),
        "bars": bars(by_day),
        "used": sum(by_day.values(), Used()),
        "num_days": NUM_DAYS,
        "requests": requests_of(key.public_id, limit=NUM_REQUESTS),
        "num_running": Ticket.objects.filter(key=key).count(),
        "may_act": permits(Who.OPERATOR, request.user) and state != State.REVOKED,
        "access_form": access_form or AccessForm(key=key),
        "limits_form": limits_form or LimitsForm(initial=initial),
    }
    return render(request, "keys/key.html", context, status=status)


@require_POST
def change(request: HttpRequest, public_id: str) -> HttpResponse:
    key = find(public_id)
    form = AccessForm(request.POST, key=key)
    if not form.is_valid():
        return about(request, key, access_form=form, status=422)
    try:
        actions.change(actor=actor_of(request), key=key, **form.access())
    except actions.BadKey:  # it was revoked while the form was open
        messages.error(request, _("This key has been revoked and cannot be changed."))
    else:
        messages.success(request, _("Changed. It counts from the key's next request on."))
    return redirect("dashboard:key", key.public_id)


@require_POST
def change_limits(request: HttpRequest, public_id: str) -> HttpResponse:
    key = find(public_id)
    form = LimitsForm(request.POST)
    if form.is_valid():
        try:
            set_limits(actor=actor_of(request), key=key, limits=form.limits())
        except BudgetTooSmall:
            form.add_error("budget_tokens", _("This is less than what is used or reserved already."))
    if form.errors:
        return about(request, key, limits_form=form, status=422)
    messages.success(request, _("The limits are set. They count for requests that begin from now on."))
    return redirect("dashboard:key", key.public_id)


@require_POST
def revoke(request: HttpRequest, public_id: str) -> HttpResponse:
    key = find(public_id)
    if actions.revoke(actor=actor_of(request), key=key):
        messages.success(request, _("%(name)s is revoked.") % {"name": key.name})
    return redirect("dashboard:key", key.public_id)


def find(public_id: str) -> ApiKey:
    return get_object_or_404(ApiKey.objects.select_related("team", "limit"), public_id=public_id)


def limit_of(key: ApiKey) -> Limit | None:
    return getattr(key, "limit", None)  # none: the reverse of a one-to-one raises
