"""Who makes a change or looks at rows: what the audit log writes down, and what queries show to whom."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from django.http import HttpRequest


class ActorKind(StrEnum):
    """What an actor is."""

    PERSON = "person"  # signed in to the console
    KEY = "key"  # a program with a key for the management API
    SYSTEM = "system"  # the server itself, or a command on its machine
    ANONYMOUS = "anonymous"


PARTS = ("system", "serve", "reconciler", "rollout", "command line")  # of the system that make changes


@dataclass(frozen=True, slots=True)
class Actor:
    """`id`: `user:<pk>`, or a key's public id; "" where nobody signed in, or a row does not keep it."""

    name: str  # as the audit log has it
    kind: ActorKind
    ip: str = ""
    id: str = ""

    @classmethod
    def person(cls, name: str, *, ip: str = "", id: str = "") -> Self:
        return cls(name, ActorKind.PERSON, ip, id)

    @classmethod
    def key(cls, public_id: str, *, ip: str = "") -> Self:
        return cls(f"key:{public_id}", ActorKind.KEY, ip, public_id)

    @classmethod
    def system(cls, name: str) -> Self:
        """One of `PARTS`."""
        assert name in PARTS, name
        return cls(name, ActorKind.SYSTEM)

    @classmethod
    def anonymous(cls, *, ip: str = "") -> Self:
        return cls("anonymous", ActorKind.ANONYMOUS, ip)

    @classmethod
    def recorded(cls, name: str, *, ip: str = "") -> Self:
        """Whoever a row names: it keeps the name and the address alone."""
        if name.startswith("key:"):
            return cls.key(name.removeprefix("key:"), ip=ip)
        return cls(name, ActorKind.SYSTEM if name in PARTS else ActorKind.PERSON, ip)


SYSTEM = Actor.system("system")


def actor_of(request: HttpRequest, user: Any = None) -> Actor:
    """Who a request of the console or the management API runs for; `user`, where it is not the request's yet.

    A REST framework's request will do: it has the same attributes.
    """
    user = user or request.user
    ip = address(request)
    if public_id := getattr(user, "public_id", ""):
        return Actor.key(public_id, ip=ip)
    return Actor.person(user.get_username(), ip=ip, id=f"user:{user.pk}")


def address(request: HttpRequest | None) -> str:
    """The client's, as far as proxies can be trusted: the middleware has seen to it."""
    return request.META.get("REMOTE_ADDR", "") if request else ""
