"""People and teams in Django admin. Nobody is deleted: people are deactivated, and the ledger names teams."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from allauth.account.models import EmailAddress
from allauth.usersessions.models import UserSession
from django.contrib import admin
from django.contrib.auth.admin import UserAdmin
from django.contrib.auth.models import Group
from django.db import transaction
from django.forms import BaseModelFormSet, ModelForm
from django.http import HttpRequest, HttpResponse
from unfold.admin import ModelAdmin, TabularInline
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

from console.accounts.actions import save_team, save_user
from console.accounts.models import Membership, Team, User
from console.audit.actor import actor_of
from console.audit.read_only import ReadOnlyAdmin
from console.audit.write import write

if TYPE_CHECKING:
    PersonAdmin = UserAdmin[User]
    Inline = admin.TabularInline[Membership, User]
else:

    class PersonAdmin(UserAdmin, ModelAdmin):
        form, add_form, change_password_form = UserChangeForm, UserCreationForm, AdminPasswordChangeForm

    Inline = TabularInline

admin.site.unregister(EmailAddress)  # would be changed without an audit entry, and nobody reads it
admin.site.unregister(UserSession)  # each person sees their own in the console
admin.site.unregister(Group)  # what people may do follows from their role


class MembershipInline(Inline):
    model = Membership
    extra = 0


@admin.register(Team)
class TeamAdmin(ReadOnlyAdmin):
    list_display = ("name", "created_at")
    fields = ("name",)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("accounts.add_team")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("accounts.change_team")

    def save_model(self, request: HttpRequest, obj: Team, form: ModelForm[Any], change: bool) -> None:
        save_team(actor=actor_of(request), team=obj)


@admin.register(User)
class PeopleAdmin(PersonAdmin):
    actions = None
    list_display = ("username", "role", "is_active", "last_login")
    list_filter = ("role", "is_active")
    fieldsets = ((None, {"fields": ("username", "password", "email", "role", "is_active")}),)
    add_fieldsets = ((None, {"fields": ("username", "usable_password", "password1", "password2", "role")}),)
    filter_horizontal = ()

    def get_inlines(self, request: HttpRequest, obj: User | None) -> Any:
        return () if obj is None else (MembershipInline,)

    def get_readonly_fields(self, request: HttpRequest, obj: User | None = None) -> Any:
        """Roles and disabling belong to the console's Operators page, which keeps the last admin."""
        return () if obj is None else ("role", "is_active")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: User, form: ModelForm[Any], change: bool) -> None:
        save_user(actor=actor_of(request), user=obj, changed=form.changed_data)

    def save_formset(
        self, request: HttpRequest, form: ModelForm[Any], formset: BaseModelFormSet[Any, Any], change: bool
    ) -> None:
        super().save_formset(request, form, formset, change)
        if formset.has_changed():
            names = Membership.objects.filter(user=form.instance).values_list("team__name", flat=True)
            self._audit(request, "user.teams_changed", form.instance, {"teams": sorted(names)})

    @transaction.atomic
    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> HttpResponse:
        response = super().user_change_password(request, id, form_url)
        if request.method == "POST" and response.status_code == 302:  # anything else is the form, refused
            user = User.objects.get(pk=id)
            self._audit(request, "user.password_reset", user, {})
        return response

    def _audit(self, request: HttpRequest, action: str, user: User, detail: dict[str, Any]) -> None:
        target = f"user:{user.get_username()}"
        write(actor=actor_of(request), action=action, target=target, detail=detail)
