"""The ledger: requests that have ended, filtered and page by page, and what a time range used in all."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta

from django.http import Http404
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from console.api.strict import Base, PageQuery, Strict, listed, query_of
from console.usage.log import LogFilter, Mark, find_request, log_page
from console.usage.models import Outcome, Transport
from console.usage.queries import totals_since


class RequestShown(Base):
    request_id = serializers.CharField()
    owner = serializers.CharField(help_text="a key's id, or user:<number>")
    model = serializers.CharField()
    revision = serializers.CharField()
    endpoint = serializers.CharField()
    transport = serializers.ChoiceField(Transport.choices, allow_blank=True)
    outcome = serializers.ChoiceField(Outcome.choices)
    finish_reason = serializers.CharField(allow_blank=True)
    error_code = serializers.CharField(allow_blank=True)
    prompt_tokens = serializers.IntegerField()
    cached_tokens = serializers.IntegerField()
    completion_tokens = serializers.IntegerField()
    num_choices = serializers.IntegerField()
    queue_seconds = serializers.FloatField()
    ttft_seconds = serializers.FloatField(allow_null=True)
    total_seconds = serializers.FloatField()
    end_user = serializers.CharField(allow_blank=True)
    created_at = serializers.DateTimeField()
    settled_at = serializers.DateTimeField()


class RequestsQuery(PageQuery):
    """All conditions together."""

    request_id = serializers.CharField(required=False, max_length=100, help_text="or how it begins")
    owner = serializers.CharField(required=False, max_length=150, help_text="a name or an id")
    model = serializers.CharField(required=False, max_length=200)
    outcome = serializers.ChoiceField(Outcome.choices, required=False)
    error_code = serializers.CharField(required=False, max_length=60)
    endpoint = serializers.CharField(required=False, max_length=100)
    transport = serializers.ChoiceField(Transport.choices, required=False)
    arrived_from = serializers.DateTimeField(required=False)
    arrived_until = serializers.DateTimeField(required=False)
    min_seconds = serializers.FloatField(required=False, min_value=0)


class UsageQuery(Strict):
    since = serializers.DateTimeField(required=False, help_text="a day ago, unless it is given")


class UsageShown(Base):
    since = serializers.DateTimeField()
    num_requests = serializers.IntegerField()
    num_failed = serializers.IntegerField()
    num_cancelled = serializers.IntegerField()
    prompt_tokens = serializers.IntegerField()
    cached_tokens = serializers.IntegerField()
    completion_tokens = serializers.IntegerField()


class Requests(APIView):
    @extend_schema(parameters=[RequestsQuery], responses=listed(RequestShown, "Request"))
    def get(self, request: Request) -> Response:
        """List requests that have ended, newest first."""
        query = query_of(request, RequestsQuery)
        limit, cursor = query.pop("limit"), query.pop("cursor", None)
        before = Mark.parse(cursor) if cursor is not None else None
        if cursor is not None and before is None:
            raise serializers.ValidationError({"cursor": ["It was never given out."]}, code="invalid_cursor")
        page = log_page(LogFilter(**query), limit=limit, before=before)
        shown = RequestShown(page.rows, many=True).data
        return Response({"data": shown, "next": str(page.older) if page.older else None})


class OneRequest(APIView):
    @extend_schema(responses=RequestShown)
    def get(self, request: Request, request_id: str) -> Response:
        """A request that has ended."""
        row = find_request(request_id)
        if row is None:
            raise Http404
        return Response(RequestShown(row).data)


class Usage(APIView):
    @extend_schema(parameters=[UsageQuery], responses=UsageShown)
    def get(self, request: Request) -> Response:
        """What the requests that arrived since a moment used in all."""
        since = query_of(request, UsageQuery).get("since") or timezone.now() - timedelta(days=1)
        totals = totals_since(moment=since)
        return Response(UsageShown({"since": since, **asdict(totals)}).data)
