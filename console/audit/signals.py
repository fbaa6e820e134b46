"""Sign-ins, failed sign-ins, lockouts and sign-outs, written down as Django announces them."""

from __future__ import annotations

from typing import Any

from axes.signals import user_locked_out
from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.dispatch import receiver
from django.http import HttpRequest

from console.audit.actor import Actor, address
from console.audit.refusals import REFUSALS
from console.audit.write import write


def _person(request: HttpRequest | None, user: Any) -> Actor:
    return Actor.person(user.get_username(), ip=address(request), id=f"user:{user.pk}")


@receiver(user_logged_in)
def signed_in(sender: Any, request: HttpRequest | None, user: Any, **kwargs: Any) -> None:
    name = user.get_username()
    write(actor=_person(request, user), action="login.succeeded", target=f"user:{name}")


@receiver(user_logged_out)
def signed_out(sender: Any, request: HttpRequest | None, user: Any, **kwargs: Any) -> None:
    if user is not None:
        name = user.get_username()
        write(actor=_person(request, user), action="logout", target=f"user:{name}")


@receiver(user_login_failed)
def refused(
    sender: Any, credentials: dict[str, Any], request: HttpRequest | None = None, **kwargs: Any
) -> None:
    """A row each, until the name is locked for the address: what is tried then is only counted."""
    name = str(credentials.get("username", ""))[:150]
    if getattr(request, "axes_locked_out", False) and not was_counted(request):
        REFUSALS.note(source=f"user:{name}", ip=address(request), reason="sign-in while locked")
        return
    write(actor=Actor.anonymous(ip=address(request)), action="login.failed", target=f"user:{name}")


@receiver(user_locked_out)
def locked(sender: Any, request: HttpRequest, username: str | None, **kwargs: Any) -> None:
    """axes tells of it at each attempt; the row is for the first."""
    if was_counted(request):
        name = (username or "")[:150]
        write(actor=Actor.anonymous(ip=address(request)), action="login.locked", target=f"user:{name}")


def was_counted(request: HttpRequest | None) -> bool:
    """Whether axes looked at the password at all: it counts no attempts while a name is locked."""
    return getattr(request, "axes_failures_since_start", None) is not None
