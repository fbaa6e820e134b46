"""Sign-ins, failed sign-ins and sign-outs, written down as Django announces them."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.dispatch import receiver
from django.http import HttpRequest

from console.audit.write import write


def address(request: HttpRequest | None) -> str:
    return request.META.get("REMOTE_ADDR", "") if request else ""


@receiver(user_logged_in)
def signed_in(sender: Any, request: HttpRequest | None, user: Any, **kwargs: Any) -> None:
    name = user.get_username()
    write(actor=name, ip=address(request), action="login.succeeded", target=f"user:{name}")


@receiver(user_logged_out)
def signed_out(sender: Any, request: HttpRequest | None, user: Any, **kwargs: Any) -> None:
    if user is not None:
        name = user.get_username()
        write(actor=name, ip=address(request), action="logout", target=f"user:{name}")


@receiver(user_login_failed)
def refused(
    sender: Any, credentials: dict[str, Any], request: HttpRequest | None = None, **kwargs: Any
) -> None:
    name = str(credentials.get("username", ""))[:150]
    write(actor="anonymous", ip=address(request), action="login.failed", target=f"user:{name}")
