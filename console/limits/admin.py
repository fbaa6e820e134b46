"""Budgets and reservations in Django admin: read-only, for a change of budget is an action of its own."""

from __future__ import annotations

from django.contrib import admin

from console.audit.read_only import ReadOnlyAdmin
from console.limits.models import Limit, Ticket


@admin.register(Limit)
class LimitAdmin(ReadOnlyAdmin):
    list_display = ("key", "budget_tokens", "used_tokens", "requests_per_minute", "tokens_per_minute")
    search_fields = ("key__name", "key__public_id")


@admin.register(Ticket)
class TicketAdmin(ReadOnlyAdmin):
    list_display = ("created_at", "request_id", "owner", "model", "prompt_tokens", "output_tokens", "server")
    search_fields = ("request_id", "owner")
    ordering = ("-created_at",)
