"""The audit log in Django admin: to search, filter and export, for everybody read-only."""

from __future__ import annotations

from django.contrib import admin
from django.http import HttpRequest, StreamingHttpResponse
from django.urls import URLPattern, path

from console.audit.export import as_lines
from console.audit.models import Entry
from console.audit.read_only import ReadOnlyAdmin
from console.audit.signals import address
from console.audit.verify import in_order
from console.audit.write import write


@admin.register(Entry)
class EntryAdmin(ReadOnlyAdmin):
    change_list_template = "audit/entries.html"
    list_display = ("seq", "at", "actor", "ip", "action", "target")
    list_filter = ("action", "at")
    search_fields = ("actor", "ip", "action", "target", "detail")
    ordering = ("-seq",)
    list_per_page = 50
    show_full_result_count = False

    def get_urls(self) -> list[URLPattern]:
        export = self.admin_site.admin_view(self.export)
        return [path("export/", export, name="audit_entry_export"), *super().get_urls()]

    def export(self, request: HttpRequest) -> StreamingHttpResponse:
        """The whole log as JSON lines: parts of it could not be checked. Itself an entry."""
        write(actor=request.user.get_username(), ip=address(request), action="audit.exported", target="audit")
        response = StreamingHttpResponse(as_lines(in_order()), content_type="application/jsonl")
        response["Content-Disposition"] = 'attachment; filename="audit.jsonl"'
        return response
