"""Models, as the catalog lists them."""

from __future__ import annotations

from django.shortcuts import get_object_or_404
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from console.api.strict import Base, PageQuery, Strict, listed, page_of, query_of
from console.audit import visibility
from console.audit.actor import actor_of
from console.catalog.models import Deployment, ServedModel
from console.catalog.overview import model_rows


class ModelArm(Base):
    route = serializers.CharField(source="route.name")
    revision = serializers.CharField(source="revision_id")
    share = serializers.IntegerField(source="weight", help_text="of the route's requests, in percent")


class ModelDeployment(Base):
    revision = serializers.CharField(source="revision_id")
    state = serializers.ChoiceField(Deployment.State.choices)


class ModelShown(Base):
    name = serializers.CharField(source="model.name")
    created_at = serializers.DateTimeField(source="model.created_at")
    num_revisions = serializers.IntegerField()
    num_bytes = serializers.IntegerField(help_text="on disk")
    memory_bytes = serializers.IntegerField(help_text="of what is loaded")
    arms = ModelArm(many=True)
    deployments = ModelDeployment(many=True, help_text="of revisions that are loaded, on the way, or failed")


class Models(APIView):
    @extend_schema(parameters=[PageQuery], responses=listed(ModelShown, "Model"))
    def get(self, request: Request) -> Response:
        """List models, in the order in which they were added."""
        models = visibility.visible_to(actor_of(request), ServedModel.objects.all())
        found, cursor = page_of(models, query_of(request, PageQuery), newest_first=False)
        return Response({"data": ModelShown(model_rows(found), many=True).data, "next": cursor})


class Model(APIView):
    @extend_schema(responses=ModelShown)
    def get(self, request: Request, name: str) -> Response:
        """A model. Its revisions: `/revisions?model=`."""
        query_of(request, Strict)
        models = visibility.visible_to(actor_of(request), ServedModel.objects.all())
        model = get_object_or_404(models, name=name)
        return Response(ModelShown(model_rows([model])[0]).data)
