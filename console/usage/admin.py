"""The ledger in Django admin: read-only."""

from __future__ import annotations

from django.contrib import admin

from console.audit.read_only import ReadOnlyAdmin
from console.usage.models import UsageRecord


@admin.register(UsageRecord)
class UsageRecordAdmin(ReadOnlyAdmin):
    list_display = (
        "created_at",
        "request_id",
        "owner",
        "model",
        "transport",
        "outcome",
        "finish_reason",
        "error_code",
        "prompt_tokens",
        "completion_tokens",
        "total_seconds",
    )
    list_filter = ("outcome", "transport", "endpoint", "model", "team", "created_at")
    search_fields = ("request_id", "owner", "end_user", "error_code")
    ordering = ("-created_at",)
    show_full_result_count = False
