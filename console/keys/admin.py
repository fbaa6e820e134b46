"""Keys in Django admin: issue (the secret is shown once), look, revoke. Nothing else can be changed."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.forms import ModelForm
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse

from console.audit.actor import actor_of
from console.audit.read_only import ReadOnlyAdmin
from console.keys.actions import issue, revoke
from console.keys.models import ApiKey


@admin.register(ApiKey)
class ApiKeyAdmin(ReadOnlyAdmin):
    actions = ("revoke_keys",)
    list_display = (
        "name",
        "public_id",
        "team",
        "created_by",
        "created_at",
        "expires_at",
        "revoked_at",
        "last_used_at",
    )
    list_filter = ("team", "revoked_at")
    search_fields = ("name", "public_id", "created_by")
    ordering = ("-created_at",)
    exclude = ("digest",)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("keys.add_apikey")

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("keys.change_apikey")

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return ("name", "team", "expires_at") if obj is None else super().get_fields(request, obj)

    def save_model(self, request: HttpRequest, obj: ApiKey, form: ModelForm[Any], change: bool) -> None:
        issued = issue(
            actor=actor_of(request),
            name=obj.name,
            team=obj.team,
            expires_at=obj.expires_at,
        )
        obj.pk, obj.public_id = issued.key.pk, issued.key.public_id
        obj.secret_to_show = issued.secret  # type: ignore[attr-defined]  # for response_add, in this request

    def response_add(
        self, request: HttpRequest, obj: ApiKey, post_url_continue: str | None = None
    ) -> HttpResponse:
        """Show the secret in this very answer: a message would leave it in a cookie or a session."""
        context = self.admin_site.each_context(request) | {
            "title": "API key issued",
            "key": obj,
            "opts": self.opts,
        }
        response = TemplateResponse(request, "keys/admin_issued.html", context)
        response["Cache-Control"] = "no-store"
        return response

    @admin.action(description="Revoke the selected keys", permissions=["revoke"])
    def revoke_keys(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> None:
        actor = actor_of(request)
        num_revoked = sum(revoke(actor=actor, key=key) for key in queryset)
        messages.success(request, f"Revoked {num_revoked} keys.")
