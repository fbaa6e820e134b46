"""Admin pages that show and change nothing, for superusers too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.http import HttpRequest
from unfold.admin import ModelAdmin

if TYPE_CHECKING:
    from django.contrib import admin

    Base = admin.ModelAdmin[Any]  # Unfold ships no types
else:
    Base = ModelAdmin


class ReadOnlyAdmin(Base):
    actions: Any = None

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
