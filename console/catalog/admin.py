"""Models and revisions in Django admin: to be read; changes go through `actions.py`."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from console.catalog.models import Revision, ServedModel


class ReadOnly(admin.ModelAdmin):  # type: ignore[type-arg]  # generic for the type checker alone
    """Shows everything, changes nothing."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(ServedModel)
class ServedModelAdmin(ReadOnly):
    list_display = ["name", "current", "created_at"]
    search_fields = ["name"]


@admin.register(Revision)
class RevisionAdmin(ReadOnly):
    list_display = ["id", "model", "source", "created_at"]
    list_filter = ["model"]
    search_fields = ["id", "source"]
