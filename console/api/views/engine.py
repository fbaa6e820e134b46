"""The engine: its counters, what is in flight, and a way to cancel."""

from __future__ import annotations

import time

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

import inference.client
from console.api.strict import Base, NoBody, Strict, body_of, listed, query_of
from console.audit.actor import actor_of
from console.usage.actions import cancel_request
from inference.protocol.stats import RevisionStats, Stats
from monitoring.live import BOARD, State, sights

MAX_SHOWN = 200


class PromptsShown(Base):
    num_waiting = serializers.IntegerField(help_text="prompts that are being tokenized, or wait for that")
    num_ended = serializers.IntegerField(help_text="processes that took too much or died, since the load")
    error = serializers.CharField(allow_blank=True, help_text="why prompts cannot be prepared")


class RevisionShown(Base):
    revision = serializers.CharField()
    is_alive = serializers.BooleanField()
    error = serializers.CharField(allow_blank=True)
    num_running = serializers.IntegerField()
    num_waiting = serializers.IntegerField()
    num_blocks = serializers.IntegerField()
    num_blocks_used = serializers.IntegerField()
    num_blocks_cached = serializers.IntegerField()
    num_prefix_queries = serializers.IntegerField(help_text="prompt tokens looked up, since start")
    num_prefix_hits = serializers.IntegerField(help_text="prompt tokens found, since start")
    num_preemptions = serializers.IntegerField()
    num_prompt_tokens = serializers.IntegerField()
    num_generated_tokens = serializers.IntegerField()
    num_steps = serializers.IntegerField()
    last_step_seconds = serializers.FloatField()
    last_step_age_seconds = serializers.SerializerMethodField()
    prompts = PromptsShown()

    def get_last_step_age_seconds(self, one: RevisionStats) -> float | None:
        return None if one.last_step_at is None else round(time.monotonic() - one.last_step_at, 3)


class EngineShown(Base):
    is_here = serializers.BooleanField(help_text="false: this process has no engine")
    is_draining = serializers.BooleanField()
    revisions = RevisionShown(many=True)


class InFlightShown(Base):
    request_id = serializers.CharField(source="request.request_id")
    owner = serializers.CharField(source="request.owner")
    owner_name = serializers.CharField(source="request.owner_name", allow_blank=True)
    model = serializers.CharField(source="request.model")
    revision = serializers.CharField(source="request.revision")
    transport = serializers.CharField(source="request.transport")
    state = serializers.ChoiceField([(one.value, one.value) for one in State])
    prompt_tokens = serializers.IntegerField(source="request.prompt_tokens")
    output_tokens = serializers.IntegerField()
    age_seconds = serializers.FloatField()


class NoQuery(Strict):
    """Nothing is asked."""


class Engine(APIView):
    @extend_schema(responses=EngineShown)
    def get(self, request: Request) -> Response:
        """The engine's counters, as of its last snapshot."""
        query_of(request, NoQuery)
        stats = current_stats()
        shown = stats or Stats()
        facts = {"is_here": stats is not None, "is_draining": shown.is_draining, "revisions": shown.revisions}
        return Response(EngineShown(facts).data)


class InFlight(APIView):
    @extend_schema(responses=listed(InFlightShown, "InFlight"))
    def get(self, request: Request) -> Response:
        """Requests in flight in this process, oldest first: the first 200 of them."""
        query_of(request, NoQuery)
        seen = list(sights(BOARD.oldest(MAX_SHOWN), current_stats()))
        return Response({"data": InFlightShown(seen, many=True).data, "next": None})


class InFlightCancel(APIView):
    @extend_schema(request=NoBody, responses={202: None})
    def post(self, request: Request, request_id: str) -> Response:
        """Cancel a request in flight: its client gets `request_cancelled`, what it used is charged."""
        body_of(request, NoBody)
        cancel_request(actor=actor_of(request), request_id=request_id)
        return Response(status=202)


def current_stats() -> Stats | None:
    try:
        return inference.client.current().stats()
    except RuntimeError:
        return None  # a process without an engine
