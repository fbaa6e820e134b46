"""Models and revisions in Django admin: to be read; changes go through `actions.py`."""

from __future__ import annotations

from django.contrib import admin

from console.audit.read_only import ReadOnlyAdmin
from console.catalog.models import Revision, ServedModel


@admin.register(ServedModel)
class ServedModelAdmin(ReadOnlyAdmin):
    list_display = ["name", "created_at"]
    search_fields = ["name"]


@admin.register(Revision)
class RevisionAdmin(ReadOnlyAdmin):
    list_display = ["id", "model", "source", "created_at"]
    list_filter = ["model"]
    search_fields = ["id", "source"]
