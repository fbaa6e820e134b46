"""Panels: what there is, and their lines."""

from __future__ import annotations

from asgiref.sync import async_to_sync
from django.conf import settings
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from console.api.strict import Base, Strict, listed, query_of
from monitoring.panels.drawing import RANGES, Wanted
from monitoring.panels.listing import GROUPS, PANELS
from monitoring.panels.panel import Unit
from monitoring.panels.source import source


class PanelShown(Base):
    id = serializers.CharField()
    group = serializers.CharField()
    title = serializers.CharField()
    description = serializers.CharField()
    unit = serializers.ChoiceField([(one.name.lower(), one.name.lower()) for one in Unit])
    promql = serializers.ListField(
        child=serializers.CharField(), help_text="what Prometheus is asked, in windows of 5 minutes"
    )


class NoQuery(Strict):
    """Nothing is asked."""


class PanelQuery(Strict):
    range = serializers.ChoiceField(list(RANGES), default="1h")
    model = serializers.CharField(required=False, default="")
    by_revision = serializers.BooleanField(default=False)


class PanelLine(Base):
    name = serializers.CharField()
    values = serializers.ListField(child=serializers.FloatField(allow_null=True))


class PanelLines(Base):
    id = serializers.CharField()
    answered_by = serializers.ChoiceField([("prometheus", "prometheus"), ("own", "own")])
    fault = serializers.CharField(
        allow_blank=True, help_text="why Prometheus was not asked, where it is configured"
    )
    times = serializers.ListField(child=serializers.IntegerField(), help_text="unix time")
    lines = PanelLine(many=True)
    num_left_out = serializers.IntegerField(help_text="lower lines than these eight")


class Panels(APIView):
    @extend_schema(responses=listed(PanelShown, "Panel"))
    def get(self, request: Request) -> Response:
        """List the panels."""
        query_of(request, NoQuery)
        shown = [
            {
                "id": panel.id,
                "group": group.id,
                "title": str(panel.title),
                "description": str(panel.description),
                "unit": panel.unit.name.lower(),
                "promql": [line.query.promql(window="5m") for line in panel.lines],
            }
            for group in GROUPS
            for panel in group.panels
        ]
        return Response({"data": PanelShown(shown, many=True).data, "next": None})


class Panel(APIView):
    @extend_schema(parameters=[PanelQuery], responses=PanelLines)
    def get(self, request: Request, panel_id: str) -> Response:
        """One panel's lines: from Prometheus where that is configured and answers, else as recorded here."""
        if panel_id not in PANELS:
            raise NotFound
        wanted = Wanted(**query_of(request, PanelQuery))
        asked = source(settings.PROMETHEUS_URL)
        answer = async_to_sync(asked.answer)([PANELS[panel_id]], wanted)
        (drawn,) = answer.drawn
        facts = {
            "id": panel_id,
            "answered_by": "own" if answer.is_own else "prometheus",
            "fault": answer.fault,
            "times": drawn.times,
            "lines": drawn.lines,
            "num_left_out": drawn.num_left_out,
        }
        return Response(PanelLines(facts).data)
