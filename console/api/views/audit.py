"""The audit log, read-only like everywhere."""

from __future__ import annotations

import json
from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from console.api.strict import Base, PageQuery, listed, page_of, query_of
from console.audit.actor import actor_of
from console.audit.models import Entry
from console.audit.queries import find_entries


class EntryShown(Base):
    seq = serializers.IntegerField()
    at = serializers.DateTimeField()
    actor = serializers.CharField()
    ip = serializers.CharField(allow_blank=True)
    action = serializers.CharField()
    target = serializers.CharField(allow_blank=True)
    detail = serializers.SerializerMethodField()
    prev_hash = serializers.CharField()
    hash = serializers.CharField()

    def get_detail(self, entry: Entry) -> dict[str, Any]:
        return dict(json.loads(entry.detail))


class EntriesQuery(PageQuery):
    """All conditions together; each is met exactly."""

    actor = serializers.CharField(required=False, max_length=200)
    action = serializers.CharField(required=False, max_length=100)
    target = serializers.CharField(required=False, max_length=300)


class Entries(APIView):
    @extend_schema(parameters=[EntriesQuery], responses=listed(EntryShown, "Entry"))
    def get(self, request: Request) -> Response:
        """List audit entries, newest first."""
        query = query_of(request, EntriesQuery)
        wanted = {name: query[name] for name in ("actor", "action", "target") if name in query}
        rows, cursor = page_of(find_entries(actor_of(request), **wanted), query, newest_first=True)
        return Response({"data": EntryShown(rows, many=True).data, "next": cursor})
