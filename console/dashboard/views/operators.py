"""Operators: who has an account, in which role; an admin creates, disables and gives new passwords."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from console.accounts import actions
from console.accounts.models import User
from console.accounts.roles import Role
from console.audit.actor import actor_of
from console.dashboard.forms.operators import NewOperatorForm, RoleForm
from console.dashboard.once import ONCE

ONCE_ABOUT = "operator"


@require_GET
@never_cache
def people(request: HttpRequest) -> HttpResponse:
    """With the password that was just made, once."""
    shown = ONCE.take(person=request.user.pk, about=ONCE_ABOUT) or {}
    return page(request, form=NewOperatorForm(), **shown)


def page(request: HttpRequest, *, form: NewOperatorForm, status: int = 200, **shown: str) -> HttpResponse:
    context: dict[str, Any] = {
        "people": User.objects.order_by("-is_active", "username"),
        "roles": Role.choices,
        "form": form,
        "may_change": request.user.is_admin,  # type: ignore[union-attr]  # the policy let a User in
        **shown,
    }
    return render(request, "dashboard/operators.html", context, status=status)


@require_POST
@never_cache
def create(request: HttpRequest) -> HttpResponse:
    """The page again, by a redirect, with the new account's password: shown once, kept nowhere."""
    form = NewOperatorForm(request.POST)
    if not form.is_valid():
        return page(request, form=form, status=422)
    username, password = form.cleaned_data["username"], actions.generated_password()
    role = Role(form.cleaned_data["role"])
    actions.create_user(actor=actor_of(request), username=username, password=password, role=role)
    return shown_once(request, username, password)


@require_POST
@never_cache
def reset_password(request: HttpRequest, pk: int) -> HttpResponse:
    person = get_object_or_404(User, pk=pk)
    password = actions.reset_password(actor=actor_of(request), username=person.username)
    return shown_once(request, person.username, password)


@require_POST
def change_role(request: HttpRequest, pk: int) -> HttpResponse:
    person, form = get_object_or_404(User, pk=pk), RoleForm(request.POST)
    if form.is_valid():
        try:
            actions.change_role(
                actor=actor_of(request), username=person.username, role=Role(form.cleaned_data["role"])
            )
        except actions.LastAdmin:
            messages.error(request, last_admin())
        else:
            messages.success(request, _("%(name)s has a new role.") % {"name": person.username})
    return redirect("dashboard:operators")


@require_POST
def set_active(request: HttpRequest, pk: int) -> HttpResponse:
    person, is_active = get_object_or_404(User, pk=pk), request.POST.get("is_active") == "true"
    try:
        actions.set_active(actor=actor_of(request), username=person.username, is_active=is_active)
    except actions.LastAdmin:
        messages.error(request, last_admin())
    else:
        text = _("%(name)s may sign in again.") if is_active else _("%(name)s is disabled and signed out.")
        messages.success(request, text % {"name": person.username})
    return redirect("dashboard:operators")


def shown_once(request: HttpRequest, username: str, password: str) -> HttpResponse:
    ONCE.keep(person=request.user.pk, about=ONCE_ABOUT, what={"username": username, "password": password})
    return redirect("dashboard:operators")


def last_admin() -> str:
    return _("This is the only admin: make somebody else an admin first.")
