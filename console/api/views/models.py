"""Models, as the catalog lists them."""

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
    created_at = serializers.DateTimeField()


class Models(APIView):
    @extend_schema(parameters=[PageQuery], responses=listed(ModelShown, "Model"))
    def get(self, request: Request) -> Response:
        """List models, in the order in which they were added."""
        models = ServedModel.objects.all()
        rows, cursor = page_of(models, query_of(request, PageQuery), newest_first=False)
        return Response({"data": ModelShown(rows, many=True).data, "next": cursor})
