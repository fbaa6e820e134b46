"""Routes: public names, what answers to them and in what shares."""

from __future__ import annotations

from typing import Any

from django.shortcuts import get_object_or_404
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from console.api.strict import Base, NoBody, PageQuery, Strict, body_of, listed, page_of, query_of
from console.audit.actor import actor_of
from console.catalog.models import Route
from console.rollouts import actions, queries


class SharesBody(Strict):
    shares = serializers.DictField(
        child=serializers.IntegerField(min_value=0, max_value=100),
        allow_empty=False,
        help_text="revision id -> percent; they sum to 100",
    )
    version = serializers.IntegerField(
        required=False, help_text="the version that was read: refused with 409 when it has passed"
    )
    reason = serializers.CharField(
        default="", max_length=300, allow_blank=True, help_text="for the audit log"
    )


class RouteBody(SharesBody):
    name = serializers.CharField(max_length=64, help_text="what callers send as `model`")


class RouteShown(Base):
    name = serializers.CharField()
    shares = serializers.SerializerMethodField()
    kept_for_undo = serializers.SerializerMethodField()
    rollout = serializers.SerializerMethodField(help_text="the active one's id")
    version = serializers.IntegerField()
    created_at = serializers.DateTimeField()
    changed_at = serializers.DateTimeField()

    def get_shares(self, route: Route) -> dict[str, int]:
        return {arm.revision_id: arm.weight for arm in route.arms.all() if arm.weight}

    def get_kept_for_undo(self, route: Route) -> list[str]:
        return [arm.revision_id for arm in route.arms.all() if not arm.weight]

    def get_rollout(self, route: Route) -> int | None:
        active = queries.active_of(route)
        return active.pk if active else None


class Routes(APIView):
    @extend_schema(parameters=[PageQuery], responses=listed(RouteShown, "Route"))
    def get(self, request: Request) -> Response:
        """List routes, in the order in which they were made."""
        rows, cursor = page_of(queries.routes(), query_of(request, PageQuery), newest_first=False)
        return Response({"data": RouteShown(rows, many=True).data, "next": cursor})

    @extend_schema(request=RouteBody, responses={201: RouteShown})
    def post(self, request: Request) -> Response:
        """Make a route. A name that exists is refused with 409: `PUT` changes it."""
        body = body_of(request, RouteBody)
        actions.create_route(
            actor=actor_of(request), route=body["name"], weights=body["shares"], reason=body["reason"]
        )
        return Response(RouteShown(find(body["name"])).data, status=201)


class OneRoute(APIView):
    @extend_schema(responses=RouteShown)
    def get(self, request: Request, name: str) -> Response:
        """A route."""
        return Response(RouteShown(find(name)).data)

    @extend_schema(request=SharesBody, responses=RouteShown)
    def put(self, request: Request, name: str) -> Response:
        """Switch a route to other shares at once; it stands in the list of rollouts, and is undone there."""
        change(request, name, body_of(request, SharesBody))
        return Response(RouteShown(find(name)).data)

    @extend_schema(request=None, responses=RouteShown)
    def delete(self, request: Request, name: str) -> Response:
        """Take a name out of service: callers get 404. The row stays, and the change can be undone."""
        body_of(request, NoBody)
        change(request, name, {"shares": {}})
        return Response(RouteShown(find(name)).data)


def change(request: Request, name: str, body: dict[str, Any]) -> None:
    actions.switch(
        actor=actor_of(request),
        route=find(name).name,
        weights=body["shares"],
        version=body.get("version"),
        reason=body.get("reason", ""),
    )


def find(name: str) -> Route:
    return get_object_or_404(queries.routes(), name=name)
