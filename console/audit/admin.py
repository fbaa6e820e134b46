"""The audit log in Django admin: to search, filter and export, for everybody read-only."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import (
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    HttpResponseNotAllowed,
    StreamingHttpResponse,
)
from django.shortcuts import redirect
from django.urls import URLPattern, path
from django.utils.functional import cached_property
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from unfold.contrib.filters.admin import RangeDateFilter, TextFilter
from unfold.utils import parse_date_str

from console.audit.actions import MAX_REASON, NoAlarm, NoReason, clear_alarm
from console.audit.actor import actor_of
from console.audit.alarm import ALARMS
from console.audit.export import COLUMNS, as_csv, as_lines, streamed
from console.audit.models import Entry
from console.audit.queries import known_actions, last_seq
from console.audit.read_only import ReadOnlyAdmin
from console.audit.watch import WATCH
from console.audit.write import write
from console.spreadsheet import as_sheet

MAX_COUNTED = 10_000  # found entries; who finds more narrows the search


class EntryPaginator(Paginator):  # type: ignore[type-arg]  # generic for the type checker alone
    """Counts no entry of the whole log, whose numbers have no gaps, and not all of what a filter finds."""

    @cached_property
    def count(self) -> int:
        entries: QuerySet[Entry] = self.object_list  # type: ignore[assignment]
        if entries.query.is_empty() or entries.query.where:
            return entries.order_by()[:MAX_COUNTED].count()
        return last_seq()


class ActionFilter(admin.SimpleListFilter):
    title = _("Action")
    parameter_name = "action"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(action, action) for action in known_actions()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Entry]) -> QuerySet[Entry]:
        return queryset.filter(action=self.value()) if self.value() else queryset


class ActorFilter(TextFilter):  # type: ignore[misc]  # Unfold ships no types
    title = _("Actor")
    parameter_name = "actor"

    def queryset(self, request: HttpRequest, queryset: QuerySet[Entry]) -> QuerySet[Entry]:
        return queryset.filter(actor=self.value()) if self.value() else queryset


class DaysFilter(RangeDateFilter):  # type: ignore[misc]  # Unfold ships no types
    """From the first day's midnight to the end of the last; Unfold's own would leave the last day out."""

    def queryset(self, request: HttpRequest, queryset: QuerySet[Entry]) -> QuerySet[Entry]:
        first, last = (self._midnight(end) for end in ("from", "to"))
        if first:
            queryset = queryset.filter(at__gte=first)
        return queryset.filter(at__lt=last + timedelta(days=1)) if last else queryset

    def _midnight(self, end: str) -> datetime | None:
        day = parse_date_str(self.used_parameters.get(f"{self.parameter_name}_{end}", ""))
        return datetime(day.year, day.month, day.day, tzinfo=UTC) if day else None


@admin.register(Entry)
class EntryAdmin(ReadOnlyAdmin):
    list_display = ("number", "moment", "actor_name", "from_address", "what", "on_what")
    list_display_links = ("number",)
    list_filter = (ActionFilter, ActorFilter, ("at", DaysFilter))
    list_filter_submit = True
    list_before_template = "audit/chain.html"
    search_fields = ("actor", "ip", "action", "target", "detail")
    search_help_text = _("Search actor, address, action, target and detail")
    fields = (*list_display, "readable_detail", "prev_hash", "hash")
    readonly_fields = fields
    ordering = ("-seq",)
    list_per_page = 50
    show_full_result_count = False
    paginator = EntryPaginator

    @admin.display(description=_("No."), ordering="seq")
    def number(self, entry: Entry) -> int:
        return entry.seq

    @admin.display(description=_("Time"), ordering="seq")
    def moment(self, entry: Entry) -> str:
        return entry.at.strftime("%Y-%m-%d %H:%M:%S UTC")

    @admin.display(description=_("Actor"))
    def actor_name(self, entry: Entry) -> str:
        return entry.actor

    @admin.display(description=_("Address"))
    def from_address(self, entry: Entry) -> str:
        return entry.ip or "-"

    @admin.display(description=_("Action"))
    def what(self, entry: Entry) -> str:
        return entry.action

    @admin.display(description=_("Target"))
    def on_what(self, entry: Entry) -> str:
        return entry.target or "-"

    @admin.display(description=_("Detail"))
    def readable_detail(self, entry: Entry) -> SafeString:
        return format_html('<pre class="detail-json">{}</pre>', readable(entry.detail))

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Entry], search_term: str
    ) -> tuple[QuerySet[Entry], bool]:
        """The newest that have the words: one walk through the log, which the page's count and rows share."""
        found, has_duplicates = super().get_search_results(request, queryset, search_term)
        if not search_term:
            return found, has_duplicates
        seqs = list(found.order_by("-seq").values_list("seq", flat=True)[:MAX_COUNTED])
        return queryset.filter(seq__in=seqs), False

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        chain = {
            "chain": WATCH.look(),
            "alarm": ALARMS.current(),
            "may_clear": request.user.has_perm("audit.change_entry"),
            "filters": request.GET.urlencode(),
        }
        return super().changelist_view(request, chain | (extra_context or {}))

    def get_urls(self) -> list[URLPattern]:
        site = self.admin_site
        return [
            path("clear-alarm/", site.admin_view(self.clear_alarm), name="audit_entry_clear_alarm"),
            path("export/", site.admin_view(self.export), name="audit_entry_export"),
            path("export.csv", site.admin_view(self.export_csv), name="audit_entry_export_csv"),
            *super().get_urls(),
        ]

    def clear_alarm(self, request: HttpRequest) -> HttpResponseBase:
        """An admin has looked into the alarm and says what came of it."""
        if not request.user.has_perm("audit.change_entry"):
            raise PermissionDenied
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        reason = request.POST.get("reason", "")
        try:
            clear_alarm(actor=actor_of(request), reason=reason)
        except NoAlarm:
            messages.info(request, _("There is no alarm."))
        except NoReason:
            messages.error(
                request, _("A reason of 1 to %(most)d characters is needed.") % {"most": MAX_REASON}
            )
        else:
            messages.success(request, _("The alarm is cleared; the chain is checked anew from here on."))
        return redirect("admin:audit_entry_changelist")

    def export(self, request: HttpRequest) -> HttpResponseBase:
        """The whole log as JSON lines: parts of it could not be checked. Itself an entry."""
        _note(request, "jsonl")
        lines = streamed(Entry.objects.all(), write=as_lines)
        return download(lines, name="audit.jsonl", kind="application/jsonl")

    def export_csv(self, request: HttpRequest) -> HttpResponseBase:
        """What the list finds, as CSV; of a search, the newest 10,000. Itself an entry."""
        entries = self.get_changelist_instance(request).get_queryset(request)
        _note(request, "csv", filters=request.GET.urlencode()[:500])
        lines = streamed(entries, write=as_csv, heading=as_sheet([COLUMNS]))
        return download(lines, name="audit.csv", kind="text/csv; charset=utf-8")


def readable(detail: str) -> str:
    """JSON as people read it; text that is none, as it is."""
    try:
        return json.dumps(json.loads(detail), indent=2, ensure_ascii=False)
    except ValueError:
        return detail


def download(lines: Any, *, name: str, kind: str) -> StreamingHttpResponse:
    response = StreamingHttpResponse(lines, content_type=kind)
    response["Content-Disposition"] = f'attachment; filename="{name}"'
    response["Cache-Control"] = "no-store"
    return response


def _note(request: HttpRequest, form: str, **more: str) -> None:
    detail = {"format": form, **more}
    write(actor=actor_of(request), action="audit.exported", target="audit", detail=detail)
