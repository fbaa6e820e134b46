"""Rollouts: start one, look where it is, hold it, go on, promote, abort, undo."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from django.http import Http404
from django.shortcuts import get_object_or_404
from django.utils import timezone
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from console.api.strict import Base, PageQuery, Strict, body_of, listed, page_of, query_of
from console.audit.actor import actor_of
from console.catalog.models import Route
from console.catalog.routes import shares
from console.rollouts import actions, queries
from console.rollouts.action_table import ROLLOUT_ACTIONS
from console.rollouts.arm_stats import since
from console.rollouts.forecast import undo_forecast
from console.rollouts.models import Rollout
from console.rollouts.state_machine import MAX_PAUSE_SECONDS, Step


class StepBody(Strict):
    weight = serializers.IntegerField(min_value=1, max_value=100, help_text="the candidate's share, percent")
    pause_seconds = serializers.IntegerField(
        default=None,
        allow_null=True,
        min_value=1,
        max_value=MAX_PAUSE_SECONDS,
        help_text="null: until a person goes on",
    )


class StartBody(Strict):
    route = serializers.CharField(max_length=64)
    candidate = serializers.CharField(max_length=96, help_text="a revision's id")
    steps = StepBody(many=True)
    another_model = serializers.BooleanField(
        default=False,
        help_text="whether the candidate may be of a model that does not answer yet",
    )
    version = serializers.IntegerField(required=False, help_text="the route's, as it was read")
    reason = serializers.CharField(default="", max_length=300, allow_blank=True)


class ActionBody(Strict):
    version = serializers.IntegerField(
        required=False, help_text="the version that was read: refused with 409 when it has passed"
    )
    reason = serializers.CharField(
        default="", max_length=300, allow_blank=True, help_text="for the audit log"
    )
    force = serializers.BooleanField(default=False, help_text="promote before the last step")


class RolloutsQuery(PageQuery):
    route = serializers.CharField(required=False, max_length=64)
    state = serializers.ChoiceField(Rollout.States.choices, required=False)


class ForecastShown(Base):
    is_instant = serializers.BooleanField()
    fits = serializers.BooleanField()
    need_bytes = serializers.IntegerField()
    budget_bytes = serializers.IntegerField()
    would_leave = serializers.ListField(child=serializers.CharField())
    seconds = serializers.FloatField(allow_null=True, help_text="null: not known")
    sentence = serializers.CharField()


class ArmShown(Base):
    revision = serializers.CharField()
    num_requests = serializers.IntegerField()
    num_failed = serializers.IntegerField()
    ttft_seconds = serializers.FloatField(allow_null=True, help_text="median")


class RolloutShown(Base):
    id = serializers.IntegerField(source="pk")
    route = serializers.CharField(source="route.name")
    strategy = serializers.ChoiceField(Rollout.Strategy.choices)
    candidate = serializers.CharField(source="candidate_id", allow_null=True)
    state = serializers.ChoiceField(Rollout.States.choices)
    steps = StepBody(many=True)
    step = serializers.SerializerMethodField(help_text="the step that is on, from 1; 0: none yet")
    seconds_left = serializers.SerializerMethodField(help_text="of its pause; null: it waits for a person")
    shares_before = serializers.DictField(source="before", child=serializers.IntegerField())
    shares = serializers.SerializerMethodField(help_text="of the route, now")
    reason = serializers.CharField()
    version = serializers.IntegerField()
    actor = serializers.CharField()
    ended_by = serializers.CharField()
    created_at = serializers.DateTimeField()
    ended_at = serializers.DateTimeField(allow_null=True)

    def get_step(self, row: Rollout) -> int:
        return row.step_index + 1

    @extend_schema_field(serializers.FloatField(allow_null=True))
    def get_seconds_left(self, row: Rollout) -> float | None:
        return row.position().seconds_left(timezone.now())

    def get_shares(self, row: Rollout) -> dict[str, int]:
        return shares(row.route)


class RolloutDetail(RolloutShown):
    arms = serializers.SerializerMethodField(help_text="requests that ended, since this step began")
    undo = serializers.SerializerMethodField(help_text="what going back would take")

    @extend_schema_field(ArmShown(many=True))
    def get_arms(self, row: Rollout) -> list[dict[str, Any]]:
        names = dict.fromkeys([*row.before, *([row.candidate_id] if row.candidate_id else row.after)])
        moment = row.step_since if row.is_active else row.created_at
        return [asdict(one) for one in since(route=row.route.name, revisions=names, moment=moment)]

    @extend_schema_field(ForecastShown(allow_null=True))
    def get_undo(self, row: Rollout) -> dict[str, Any] | None:
        undoable = queries.undoable_of(row.route)
        if not (row.is_active or (undoable and undoable.pk == row.pk)):
            return None
        return dict(ForecastShown(undo_forecast(row.route, target=row.before)).data)


class Rollouts(APIView):
    @extend_schema(parameters=[RolloutsQuery], responses=listed(RolloutShown, "Rollout"))
    def get(self, request: Request) -> Response:
        """List rollouts and switches, newest first."""
        query = query_of(request, RolloutsQuery)
        rows = queries.rollouts(actor_of(request))
        if "route" in query:
            rows = rows.filter(route__name=query["route"])
        if "state" in query:
            rows = rows.filter(state=query["state"])
        found, cursor = page_of(rows, query, newest_first=True)
        return Response({"data": RolloutShown(found, many=True).data, "next": cursor})

    @extend_schema(request=StartBody, responses={201: RolloutDetail})
    def post(self, request: Request) -> Response:
        """Start a rollout: the candidate is loaded first, then gets its shares step by step."""
        body = body_of(request, StartBody)
        body["steps"] = [Step(one["weight"], one["pause_seconds"]) for one in body["steps"]]
        get_object_or_404(Route, name=body["route"])
        row = actions.start(actor=actor_of(request), **body)
        return Response(RolloutDetail(find(request, row.pk)).data, status=201)


class OneRollout(APIView):
    @extend_schema(responses=RolloutDetail)
    def get(self, request: Request, pk: str) -> Response:
        """A rollout: where it is, how its arms do, what going back would take."""
        return Response(RolloutDetail(find(request, pk)).data)


class RolloutAct(APIView):
    @extend_schema(request=ActionBody, responses=RolloutDetail)
    def post(self, request: Request, pk: str, action: str) -> Response:
        """`pause`, `resume`, `advance`, `promote`, `abort`, `undo` or `release` (what is kept for undo)."""
        if action not in ROLLOUT_ACTIONS:
            raise Http404
        body = body_of(request, ActionBody)
        is_forced = body.pop("force")
        chosen = ROLLOUT_ACTIONS[action]
        if is_forced and not chosen.can_be_forced:
            raise serializers.ValidationError({"force": ["Only a promotion can be forced."]})
        if chosen.can_be_forced:
            body["is_forced"] = is_forced
        chosen.run(actor=actor_of(request), rollout=find(request, pk).pk, **body)
        return Response(RolloutDetail(find(request, pk)).data)


def find(request: Request, pk: str | int) -> Rollout:
    return get_object_or_404(queries.rollouts(actor_of(request)), pk=number(str(pk)))


def number(text: str) -> int:
    """A rollout's id; what is none names nothing."""
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise Http404
    return int(text)
