"""Keys: list, issue (the secret is in this one answer), look, change, limit, revoke."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from django.shortcuts import get_object_or_404
from django.utils import timezone
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.exceptions import PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from console.accounts.actions import default_team
from console.accounts.models import Team
from console.api.authentication import Program
from console.api.strict import Base, NoBody, PageQuery, Strict, body_of, listed, page_of, query_of
from console.audit.actor import actor_of
from console.keys import actions
from console.keys.models import ApiKey
from console.keys.queries import Order, State, find_keys, state_of
from console.keys.scopes import MANAGEMENT, all_scopes
from console.limits.actions import MOST, MOST_BUDGET, Limits, issue_with_limits, limits_of, set_limits
from console.limits.models import Limit

SCOPES = list(all_scopes().items())


class LimitsBody(Strict):
    """null: not limited."""

    budget_tokens = serializers.IntegerField(
        default=None,
        allow_null=True,
        min_value=1,
        max_value=MOST_BUDGET,
        help_text="in all",
    )
    requests_per_minute = serializers.IntegerField(default=None, allow_null=True, min_value=1, max_value=MOST)
    tokens_per_minute = serializers.IntegerField(default=None, allow_null=True, min_value=1, max_value=MOST)


class AccessBody(Strict):
    name = serializers.CharField(max_length=100)
    expires_at = serializers.DateTimeField(allow_null=True, required=False)
    scopes = serializers.ListField(
        child=serializers.ChoiceField(SCOPES), required=False, help_text="empty: every endpoint of /v1"
    )
    models = serializers.ListField(
        child=serializers.CharField(max_length=200),
        required=False,
        max_length=actions.MAX_MODELS,
        help_text="public names; empty: every model",
    )


class IssueBody(AccessBody):
    team = serializers.SlugRelatedField("name", queryset=Team.objects.all(), required=False)
    limits = LimitsBody(required=False)


class LimitsShown(Base):
    budget_tokens = serializers.IntegerField(allow_null=True)
    requests_per_minute = serializers.IntegerField(allow_null=True)
    tokens_per_minute = serializers.IntegerField(allow_null=True)
    used_tokens = serializers.IntegerField(help_text="of the budget, since there is one")
    reserved_tokens = serializers.IntegerField(help_text="by requests in flight")


class KeyShown(Base):
    id = serializers.CharField(source="public_id")
    name = serializers.CharField()
    team = serializers.CharField(source="team.name")
    state = serializers.SerializerMethodField()
    scopes = serializers.ListField(child=serializers.ChoiceField(SCOPES))
    models = serializers.ListField(child=serializers.CharField(), source="allowed_models")
    limits = serializers.SerializerMethodField()
    created_by = serializers.CharField()
    created_at = serializers.DateTimeField()
    expires_at = serializers.DateTimeField(allow_null=True)
    revoked_at = serializers.DateTimeField(allow_null=True)
    last_used_at = serializers.DateTimeField(allow_null=True)

    @extend_schema_field(serializers.ChoiceField(State.choices))
    def get_state(self, key: ApiKey) -> str:
        return state_of(key, now=timezone.now()).value

    @extend_schema_field(LimitsShown)
    def get_limits(self, key: ApiKey) -> dict[str, Any]:
        limit: Limit | None = getattr(key, "limit", None)  # none: the reverse raises
        used = {
            "used_tokens": limit.used_tokens if limit else 0,
            "reserved_tokens": limit.reserved_tokens if limit else 0,
        }
        return asdict(limits_of(limit)) | used


class IssuedShown(KeyShown):
    secret = serializers.CharField(help_text="shown in this answer only; kept nowhere")


class KeysQuery(PageQuery):
    words = serializers.CharField(default="", allow_blank=True, max_length=100, help_text="in name or id")
    state = serializers.ChoiceField(State.choices, required=False)


class Keys(APIView):
    @extend_schema(parameters=[KeysQuery], responses=listed(KeyShown, "Key"))
    def get(self, request: Request) -> Response:
        """List keys, newest first."""
        query = query_of(request, KeysQuery)
        wanted = {"words": query["words"], "state": query.get("state", ""), "order": Order.NEWEST}
        keys = find_keys(**wanted, now=timezone.now()).select_related("team", "limit")
        rows, cursor = page_of(keys, query, newest_first=True)
        return Response({"data": KeyShown(rows, many=True).data, "next": cursor})

    @extend_schema(request=IssueBody, responses={201: IssuedShown})
    def post(self, request: Request) -> Response:
        """Issue a key. Its secret is in this answer, and nowhere else."""
        body = body_of(request, IssueBody)
        refuse_spreading(request, body.get("scopes", []))
        team = body.pop("team", None) or default_team()
        limits = Limits(**body.pop("limits", {}))
        issued = issue_with_limits(actor=actor_of(request), **body, team=team, limits=limits)
        shown = KeyShown(find(issued.key.public_id)).data | {"secret": issued.secret}
        return Response(shown, status=201, headers={"Cache-Control": "no-store"})


class Key(APIView):
    @extend_schema(responses=KeyShown)
    def get(self, request: Request, public_id: str) -> Response:
        """A key."""
        return Response(KeyShown(find(public_id)).data)

    @extend_schema(request=AccessBody, responses=KeyShown)
    def patch(self, request: Request, public_id: str) -> Response:
        """Change a key's name, end, scopes or models. What is left out stays."""
        key = find(public_id)
        body = body_of(request, AccessBody, partial=True)
        refuse_spreading(request, body.get("scopes", []))
        access = {
            "name": key.name,
            "expires_at": key.expires_at,
            "scopes": key.scopes,
            "models": key.allowed_models,
        }
        actions.change(actor=actor_of(request), key=key, **(access | body))
        return Response(KeyShown(find(public_id)).data)


class KeyLimits(APIView):
    @extend_schema(request=LimitsBody, responses=KeyShown)
    def put(self, request: Request, public_id: str) -> Response:
        """Set all limits of a key; what is null or left out is lifted."""
        limits = Limits(**body_of(request, LimitsBody))
        set_limits(actor=actor_of(request), key=find(public_id), limits=limits)
        return Response(KeyShown(find(public_id)).data)


class KeyRevoke(APIView):
    @extend_schema(request=NoBody, responses=KeyShown)
    def post(self, request: Request, public_id: str) -> Response:
        """Revoke a key: its next request is refused, its streams end. Revoking it again changes nothing."""
        body_of(request, NoBody)
        actions.revoke(actor=actor_of(request), key=find(public_id))
        return Response(KeyShown(find(public_id)).data)


def find(public_id: str) -> ApiKey:
    return get_object_or_404(ApiKey.objects.select_related("team", "limit"), public_id=public_id)


def refuse_spreading(request: Request, scopes: list[str]) -> None:
    """A management key that leaks must not leave other management keys behind: people issue them."""
    if MANAGEMENT in scopes and isinstance(request.user, Program):
        raise PermissionDenied("Only people give keys the management scope.", code="insufficient_permissions")
