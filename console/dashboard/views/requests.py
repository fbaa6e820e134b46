"""Requests: the log of what was asked and how it ended, one request's waterfall, and the log as CSV."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

from asgiref.sync import sync_to_async
from django.core.paginator import Paginator
from django.http import Http404, HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_GET

from console.audit.actor import actor_of
from console.audit.write import write
from console.dashboard.forms.request_filter import RequestFilterForm
from console.dashboard.request_export import as_csv
from console.dashboard.waterfall_text import lines, sentences
from console.database.async_read import read
from console.usage.log import LogFilter, Mark, find_request, log_page, usual_seconds
from console.usage.refused_queries import name_callers, num_refused, refused
from monitoring.live import BOARD
from monitoring.waterfall import waterfall

ROWS_PER_PAGE = 50
DAY = timedelta(days=1)


@require_GET
def log(request: HttpRequest) -> HttpResponse:
    form = RequestFilterForm(request.GET)
    log_filter = form.log_filter()
    form.say_if_many()
    filters = {name: str(value) for name, value in request.GET.items() if value and name in form.fields}
    if request.GET.get("show") == "refused":
        return refused_page(request, form, log_filter, filters)
    if log_filter.request_id and find_request(log_filter.request_id):
        return redirect("dashboard:request", request_id=log_filter.request_id)
    page = log_page(
        log_filter,
        limit=ROWS_PER_PAGE,
        before=Mark.parse(request.GET.get("before", "")),
        after=Mark.parse(request.GET.get("after", "")),
    )
    context: dict[str, Any] = {
        "form": form,
        "page": page,
        "query": urlencode(filters),
        "num_refused": num_refused(since=timezone.now() - DAY),
        "is_filtered": bool(filters),
        "newer": urlencode(filters | {"after": str(page.newer)}) if page.newer else "",
        "older": urlencode(filters | {"before": str(page.older)}) if page.older else "",
    }
    return render(request, "dashboard/requests.html", context)


def refused_page(
    request: HttpRequest, form: RequestFilterForm, log_filter: LogFilter, filters: dict[str, Any]
) -> HttpResponse:
    """Those that were refused, with the limit that refused them."""
    page = Paginator(refused(log_filter), ROWS_PER_PAGE).get_page(request.GET.get("page"))
    context: dict[str, Any] = {
        "form": form,
        "refused": page,
        "rows": name_callers(list(page.object_list)),
        "query": urlencode(filters),
        "num_refused": num_refused(since=timezone.now() - DAY),
        "is_filtered": bool(filters),
    }
    return render(request, "dashboard/requests.html", context)


@require_GET
async def export(request: HttpRequest) -> StreamingHttpResponse:
    """The same rows, all of them, as they are read."""
    log_filter = await read(lambda: RequestFilterForm(request.GET).log_filter())
    await sync_to_async(note_export)(request)
    response = StreamingHttpResponse(as_csv(log_filter), content_type="text/csv; charset=utf-8")
    name = timezone.now().strftime("requests-%Y%m%d-%H%M%S.csv")
    response["content-disposition"] = f'attachment; filename="{name}"'
    return response


def note_export(request: HttpRequest) -> None:
    detail = {"format": "csv", "filters": request.GET.urlencode()[:500]}
    write(actor=actor_of(request), action="requests.exported", target="requests", detail=detail)


@require_GET
def one(request: HttpRequest, request_id: str) -> HttpResponse:
    """One request: facts, and where its time went."""
    row = find_request(request_id)
    if row is None:
        if BOARD.find(request_id):
            return redirect("dashboard:live")
        raise Http404
    drawn = waterfall(row.spans)
    usual = usual_seconds(row)
    context = {
        "row": row,
        "waterfall": drawn,
        "lines": lines(drawn),
        "sentences": sentences(drawn, row),
        "waited": drawn.seconds("handover", "queue"),
        "waited_percent": drawn.percent("handover", "queue"),
        "charged": row.prompt_tokens + row.completion_tokens,
        "usual": usual,
        "times_usual": row.total_seconds / usual if usual else None,
    }
    return render(request, "dashboard/request.html", context)
