"""People and teams: who has an account, in which role; admins create, change and disable."""

from __future__ import annotations

from django.contrib.auth.validators import UnicodeUsernameValidator
from django.shortcuts import get_object_or_404
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from console.accounts import actions
from console.accounts.models import Team, User
from console.accounts.roles import Role
from console.api.strict import Base, NoBody, PageQuery, Strict, body_of, listed, page_of, query_of
from console.audit.actor import actor_of


class PersonShown(Base):
    username = serializers.CharField()
    role = serializers.ChoiceField(Role.choices)
    is_active = serializers.BooleanField()
    teams = serializers.SerializerMethodField()
    last_login = serializers.DateTimeField(allow_null=True)
    date_joined = serializers.DateTimeField()

    def get_teams(self, user: User) -> list[str]:
        return [team.name for team in user.teams.all()]


class WithPassword(PersonShown):
    password = serializers.CharField(help_text="shown in this answer only; kept nowhere")


class TeamShown(Base):
    name = serializers.CharField()
    created_at = serializers.DateTimeField()


class NewPerson(Strict):
    username = serializers.CharField(max_length=150, validators=[UnicodeUsernameValidator()])
    role = serializers.ChoiceField(Role.choices)

    def validate_username(self, username: str) -> str:
        if User.objects.filter(username__iexact=username).exists():
            raise serializers.ValidationError("There is an account of that name.", code="name_taken")
        return username


class RoleBody(Strict):
    role = serializers.ChoiceField(Role.choices)


class ActiveBody(Strict):
    is_active = serializers.BooleanField()


class People(APIView):
    @extend_schema(parameters=[PageQuery], responses=listed(PersonShown, "Person"))
    def get(self, request: Request) -> Response:
        """List people, in the order in which they came."""
        people = User.objects.prefetch_related("teams")
        rows, cursor = page_of(people, query_of(request, PageQuery), newest_first=False)
        return Response({"data": PersonShown(rows, many=True).data, "next": cursor})

    @extend_schema(request=NewPerson, responses={201: WithPassword})
    def post(self, request: Request) -> Response:
        """Create an account. Its password is in this answer, and nowhere else."""
        body, password = body_of(request, NewPerson), actions.generated_password()
        role = Role(body["role"])
        user = actions.create_user(
            actor=actor_of(request), username=body["username"], password=password, role=role
        )
        return with_password(user, password, status=201)


class Person(APIView):
    @extend_schema(responses=PersonShown)
    def get(self, request: Request, username: str) -> Response:
        """A person."""
        return Response(PersonShown(find(username)).data)


class PersonRole(APIView):
    @extend_schema(request=RoleBody, responses=PersonShown)
    def put(self, request: Request, username: str) -> Response:
        """Give a person another role."""
        role = Role(body_of(request, RoleBody)["role"])
        return Response(
            PersonShown(
                actions.change_role(actor=actor_of(request), username=find(username).username, role=role)
            ).data
        )


class PersonActive(APIView):
    @extend_schema(request=ActiveBody, responses=PersonShown)
    def put(self, request: Request, username: str) -> Response:
        """Disable an account, or enable it again. A disabled one is signed out at its next request."""
        is_active = body_of(request, ActiveBody)["is_active"]
        user = actions.set_active(
            actor=actor_of(request), username=find(username).username, is_active=is_active
        )
        return Response(PersonShown(user).data)


class PersonPassword(APIView):
    @extend_schema(request=NoBody, responses=WithPassword)
    def post(self, request: Request, username: str) -> Response:
        """Give a person a new password, which is in this answer only."""
        body_of(request, NoBody)
        password = actions.reset_password(actor=actor_of(request), username=find(username).username)
        return with_password(find(username), password, status=200)


class Teams(APIView):
    @extend_schema(parameters=[PageQuery], responses=listed(TeamShown, "Team"))
    def get(self, request: Request) -> Response:
        """List teams, in the order in which they were made."""
        rows, cursor = page_of(Team.objects.all(), query_of(request, PageQuery), newest_first=False)
        return Response({"data": TeamShown(rows, many=True).data, "next": cursor})


def find(username: str) -> User:
    return get_object_or_404(User, username=username)


def with_password(user: User, password: str, *, status: int) -> Response:
    shown = PersonShown(user).data | {"password": password}
    return Response(shown, status=status, headers={"Cache-Control": "no-store"})
