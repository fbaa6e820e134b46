"""Access policy: who may use a route, by its name. A route without a line is refused, and a test finds it.
Endpoints of /v1 need no line: a registered one asks for a key."""

from __future__ import annotations

from enum import Enum
from typing import Any

from django.http import HttpRequest

from console.accounts.roles import Role
from console.addresses import Networks
from console.endpoint_registry import at_route, endpoints
from console.environment import environment


class Who(Enum):
    """What a request needs before its view runs."""

    ANYONE = "anyone"
    KEY = "a valid API key"
    STAFF = "a signed-in person of any role"
    OPERATOR = "an operator or an admin"
    ADMIN = "an admin"
    ADMIN_SITE = "Django's admin decides, page by page"
    MANAGEMENT = "whoever `API` names for the method, by session or by a management key"
    NEAR_OR_STAFF = "this machine, METRICS_FROM, or a signed-in member of the staff"
    KEY_OR_SESSION = "a valid API key, or a signed-in person from the console's own pages"


HTTP = {
    "gateway:nothing_here": Who.ANYONE,  # 404 for everyone
    "health": Who.ANYONE,
    "ready": Who.ANYONE,
    "metrics": Who.NEAR_OR_STAFF,
    "account_login": Who.ANYONE,
    "account_logout": Who.ANYONE,
    "account_inactive": Who.ANYONE,
    "dashboard:set_language": Who.ANYONE,
    "account_change_password": Who.STAFF,
    "usersessions_list": Who.STAFF,
    "dashboard:home": Who.STAFF,
    "dashboard:home_figures": Who.STAFF,
    "dashboard:home_requests": Who.STAFF,
    "dashboard:home_feed": Who.STAFF,
    "dashboard:engine_pill": Who.STAFF,
    "dashboard:panels": Who.STAFF,
    "dashboard:panels_series": Who.STAFF,
    "dashboard:panels_frames": Who.STAFF,  # roles are installation-wide: these people get a viewer's token
    "grafana_jwks": Who.ANYONE,  # the public key
    "dashboard:playground": Who.STAFF,  # a viewer is told why they may not chat
    "dashboard:models": Who.STAFF,
    "dashboard:model": Who.STAFF,
    "dashboard:revision": Who.STAFF,
    "dashboard:revision_state": Who.STAFF,
    "dashboard:model_import": Who.OPERATOR,
    "dashboard:models_release": Who.OPERATOR,
    "dashboard:revision_load": Who.OPERATOR,
    "dashboard:revision_unload": Who.OPERATOR,
    "dashboard:revision_keeping": Who.OPERATOR,
    "dashboard:revision_force": Who.OPERATOR,
    "dashboard:revision_quantize": Who.OPERATOR,
    "dashboard:revision_certify": Who.OPERATOR,
    "dashboard:revision_delete": Who.OPERATOR,
    "dashboard:revision_settings": Who.OPERATOR,
    "dashboard:revision_advice": Who.OPERATOR,
    "dashboard:rollouts": Who.STAFF,
    "dashboard:rollouts_active": Who.STAFF,
    "dashboard:rollout": Who.STAFF,
    "dashboard:rollout_now": Who.STAFF,
    "dashboard:rollout_new": Who.OPERATOR,
    "dashboard:rollout_start": Who.OPERATOR,
    "dashboard:rollout_act": Who.OPERATOR,
    "dashboard:route": Who.STAFF,
    "dashboard:route_new": Who.OPERATOR,
    "dashboard:route_switch": Who.OPERATOR,
    "dashboard:route_delete": Who.OPERATOR,
    "dashboard:keys": Who.STAFF,
    "dashboard:key": Who.STAFF,
    "dashboard:key_issue": Who.OPERATOR,
    "dashboard:key_issued": Who.OPERATOR,
    "dashboard:key_change": Who.OPERATOR,
    "dashboard:key_limits": Who.OPERATOR,
    "dashboard:key_revoke": Who.OPERATOR,
    "dashboard:live": Who.STAFF,
    "dashboard:live_now": Who.STAFF,
    "dashboard:request_cancel": Who.OPERATOR,
    "dashboard:jobs": Who.STAFF,
    "dashboard:job": Who.STAFF,
    "dashboard:job_progress": Who.STAFF,
    "dashboard:job_lines": Who.STAFF,
    "dashboard:job_cancel": Who.OPERATOR,
    "dashboard:job_retry": Who.OPERATOR,
    "dashboard:requests": Who.STAFF,
    "dashboard:requests_csv": Who.STAFF,
    "dashboard:request": Who.STAFF,
    "api:docs": Who.STAFF,  # a page: strangers are led to sign in
    "api:nothing_here": Who.ANYONE,  # 404 for everyone
    "dashboard:operators": Who.STAFF,
    "dashboard:operator_create": Who.ADMIN,
    "dashboard:operator_role": Who.ADMIN,
    "dashboard:operator_active": Who.ADMIN,
    "dashboard:operator_password": Who.ADMIN,
}
# The management API: route -> method -> who. The same as for the page that does the same.
API = {
    "api:keys": {"GET": Who.STAFF, "POST": Who.OPERATOR},
    "api:key": {"GET": Who.STAFF, "PATCH": Who.OPERATOR},
    "api:key_limits": {"PUT": Who.OPERATOR},
    "api:key_revoke": {"POST": Who.OPERATOR},
    "api:people": {"GET": Who.STAFF, "POST": Who.ADMIN},
    "api:person": {"GET": Who.STAFF},
    "api:person_role": {"PUT": Who.ADMIN},
    "api:person_active": {"PUT": Who.ADMIN},
    "api:person_password": {"POST": Who.ADMIN},
    "api:teams": {"GET": Who.STAFF},
    "api:models": {"GET": Who.STAFF},
    "api:model": {"GET": Who.STAFF},
    "api:imports": {"POST": Who.OPERATOR},
    "api:revisions": {"GET": Who.STAFF},
    "api:revision": {"GET": Who.STAFF},
    "api:revision_load": {"POST": Who.OPERATOR},
    "api:revision_unload": {"POST": Who.OPERATOR},
    "api:revision_keeping": {"PUT": Who.OPERATOR},
    "api:revision_force": {"PUT": Who.OPERATOR},
    "api:revision_settings": {"POST": Who.OPERATOR},
    "api:revision_quantize": {"POST": Who.OPERATOR},
    "api:revision_certify": {"POST": Who.OPERATOR},
    "api:revision_delete": {"POST": Who.OPERATOR},
    "api:jobs": {"GET": Who.STAFF},
    "api:job": {"GET": Who.STAFF},
    "api:job_cancel": {"POST": Who.OPERATOR},
    "api:job_retry": {"POST": Who.OPERATOR},
    "api:routes": {"GET": Who.STAFF, "POST": Who.OPERATOR},
    "api:route": {"GET": Who.STAFF, "PUT": Who.OPERATOR, "DELETE": Who.OPERATOR},
    "api:rollouts": {"GET": Who.STAFF, "POST": Who.OPERATOR},
    "api:rollout": {"GET": Who.STAFF},
    "api:rollout_deed": {"POST": Who.OPERATOR},
    "api:requests": {"GET": Who.STAFF},
    "api:request": {"GET": Who.STAFF},
    "api:usage": {"GET": Who.STAFF},
    "api:audit": {"GET": Who.STAFF},
    "api:panels": {"GET": Who.STAFF},
    "api:panel": {"GET": Who.STAFF},
    "api:engine": {"GET": Who.STAFF},
    "api:in_flight": {"GET": Who.STAFF},
    "api:in_flight_cancel": {"POST": Who.OPERATOR},
    "api:schema": {"GET": Who.STAFF},
    "api:docs": {"GET": Who.STAFF},
}
NAMESPACES = {"admin": Who.ADMIN_SITE}

LOOPBACK = ("127.0.0.1", "::1")
SCRAPERS = Networks(environment().metrics_from)


def who_may(view_name: str) -> Who | None:
    """The policy of a route; None: nobody may."""
    if view_name in API and view_name not in HTTP:
        return Who.MANAGEMENT
    if at_route(view_name) is not None:
        return Who.KEY
    namespace, _, _ = view_name.partition(":")
    return HTTP.get(view_name) or NAMESPACES.get(namespace)


def who_may_connect(path: str) -> Who | None:
    """The policy of a WebSocket; None: nobody may."""
    is_known = bool(path) and any(one.socket_path == path for one in endpoints())
    return Who.KEY_OR_SESSION if is_known else None


def permits(who: Who, user: Any) -> bool:
    """Whether a person's role is enough for a policy that asks for a person."""
    if not (user.is_active and user.is_staff):
        return False
    match who:
        case Who.ADMIN:
            return bool(user.is_admin)
        case Who.OPERATOR:
            return bool(user.is_admin or user.role == Role.OPERATOR)
        case _:
            return True


def is_near(request: HttpRequest) -> bool:
    """Whether the request comes from this machine itself or from where METRICS_FROM says, and not through a
    proxy there."""
    address = request.META.get("REMOTE_ADDR") or ""
    if getattr(request, "scope", {}).get("is_proxied"):
        return False
    return address in LOOPBACK or address in SCRAPERS
