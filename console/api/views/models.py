"""Models: the public names, and the revision that answers to each."""

from __future__ import annotations

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from console.api.strict import Base, PageQuery, listed, page_of, query_of
from console.catalog.models import ServedModel


class ModelShown(Base):
    name = serializers.CharField()
    revision = serializers.CharField(source="current_id", allow_null=True)
    origin = serializers.CharField(source="current.source", default=None, allow_null=True)
    created_at = serializers.DateTimeField()


class Models(APIView):
    @extend_schema(parameters=[PageQuery], responses=listed(ModelShown, "Model"))
    def get(self, request: Request) -> Response:
        """List models, in the order in which they were added."""
        models = ServedModel.objects.select_related("current")
        rows, cursor = page_of(models, query_of(request, PageQuery), newest_first=False)
        return Response({"data": ModelShown(rows, many=True).data, "next": cursor})
